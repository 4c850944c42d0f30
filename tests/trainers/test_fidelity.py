"""``jedi-env fidelity`` end to end: what is measured, that it repeats, and what it changes in a checkpoint."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from jedi_env.checkpoint import AgentRecord, Checkpoint, annotate
from jedi_env.config_json import from_json, to_json
from jedi_env.errors import CheckpointError, RunError, UsageError
from jedi_env.metrics.side_by_side import SideBySide
from jedi_env.models.world_model import WorldModel
from jedi_env.types import Context
from tests.tiny_dream import tiny_checkpoint
from tests.trainers.fakes import ACTIONS, MICRO, MICRO_MODEL, TOY, random_weights
from trainers.agent import ActorCritic
from trainers.evaluate import agent_of
from trainers.fidelity import (
    FidelityConfig,
    FidelityReport,
    fidelity,
    horizons,
    store,
    value_drift,
    watch,
    with_sampler,
)
from trainers.held_out import play_games
from trainers.policy import RandomPolicy
from trainers.rules import Rules

SMALL = FidelityConfig(horizon=6, segments=12, steps=80, probe_steps=60)


def toy_checkpoint(seed=0, agent=True):
    torch.manual_seed(seed)  # of the Fourier features
    model = random_weights(WorldModel(ACTIONS, MICRO_MODEL), seed).eval()
    record = None
    if agent:
        actor = random_weights(ActorCritic(model.frame_shape, ACTIONS, MICRO.agent), seed + 1)
        record = AgentRecord(to_json(MICRO.agent), dict(actor.state_dict()))
    contexts = Context(torch.zeros(1, 2, *model.frame_shape), torch.zeros(1, 1, dtype=torch.int64))
    return Checkpoint(model, contexts, TOY, None, {"life_loss": True}, {}, {"kept": 1}, record)


def breakout_checkpoint(**arguments):
    return replace(tiny_checkpoint(**arguments), protocol={"life_loss": True, "sticky": 0.0, "frame_skip": 4})


@pytest.fixture(scope="module")
def toy_report():
    return fidelity(toy_checkpoint(), SMALL)


def test_the_horizons():
    assert horizons(30) == (0, 1, 2, 3, 5, 8, 10, 15, 20, 25, 30)
    assert horizons(1) == (0, 1)
    assert horizons(10) == (0, 1, 2, 3, 5, 8, 10)
    assert horizons(12) == (0, 1, 2, 3, 5, 8, 10, 12)


def test_a_report_of_a_game_without_ram(toy_report):
    report, segment = toy_report
    assert report.horizons == (0, 1, 2, 3, 5, 6)
    assert report.probes == ()
    assert report.probes_left_out == f"{TOY} is no Atari game and has no RAM"
    assert [row.policy for row in report.watch] == ["random", "agent"]
    assert [row.horizon for row in report.value_drift] == list(report.horizons)
    assert report.value_drift[0].drift == 0
    assert report.value_drift[3].drift > 0
    assert report.recommended_horizon == max(5, report.trusted_horizon)
    assert report.setup["life_loss"] is True
    assert len(segment) == 24  # those around events too
    assert report.events[1].reward.counts[2] != (0, 0, 0)
    assert from_json(FidelityReport, json.loads(json.dumps(to_json(report))), "report") == report


def test_it_repeats_to_the_bit_and_the_seed_matters(toy_report):
    report, _ = toy_report
    again, _ = fidelity(toy_checkpoint(), SMALL)
    assert again == report
    other, _ = fidelity(toy_checkpoint(), replace(SMALL, seed=1))
    assert other.frames != report.frames


def test_another_sampler_gives_another_dream_and_leaves_the_model_alone(toy_report):
    checkpoint = toy_checkpoint()
    assert with_sampler(checkpoint, None, None) is checkpoint
    other = with_sampler(checkpoint, 3, 2)
    sampler = other.world_model.config.sampler
    assert (sampler.steps, sampler.order) == (3, 2)
    assert checkpoint.world_model.config == MICRO_MODEL
    assert with_sampler(checkpoint, 3, None).world_model.config.sampler.order == MICRO_MODEL.sampler.order
    for mine, theirs in zip(checkpoint.world_model.parameters(), other.world_model.parameters(), strict=True):
        assert mine is theirs
    report, _ = fidelity(other, SMALL)
    assert report.frames != toy_report[0].frames
    assert [row.copy for row in report.frames] == [row.copy for row in toy_report[0].frames]
    for wrong in ((0, None), (None, 3)):
        with pytest.raises(UsageError, match="at least 1 step, and order 1"):
            with_sampler(checkpoint, *wrong)


def test_on_policy_the_agent_plays():
    report, _ = fidelity(toy_checkpoint(), replace(SMALL, on_policy=True))
    assert [row.policy for row in report.watch] == ["agent"]
    with pytest.raises(UsageError, match="no agent to play with"):
        fidelity(toy_checkpoint(agent=False), replace(SMALL, on_policy=True))


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UsageError, match="names no real game"):
        fidelity(replace(toy_checkpoint(), game=None), SMALL)
    with pytest.raises(UsageError, match=r"Discrete\(4\), but the dream knows Discrete\(3\)"):
        fidelity(replace(toy_checkpoint(), game="Breakout"), SMALL)
    with pytest.raises(UsageError, match="--probe-steps is 0"):
        FidelityConfig(probe_steps=0)


# Agents


def test_values_of_equal_frames_do_not_drift_and_others_do():
    agent = agent_of(toy_checkpoint())
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(5, 6, *agent_frame(), generator=generator)
    dreamed = real.clone()
    dreamed[:, 4:] += 1
    none = torch.zeros(5, 4)
    valid = torch.ones(5, 5, dtype=torch.bool)
    valid[0, 4] = False
    sides = SideBySide(
        real, dreamed, valid, none.long(), none > 0, torch.zeros(5, 4, 3), none, torch.zeros(5, 4, 3), none
    )
    rows = value_drift(agent, sides, 2, (0, 2, 3, 4))
    assert [row.drift for row in rows[:2]] == [0, 0]
    assert rows[2].drift > 0
    assert [row.lanes for row in rows] == [5, 5, 5, 4]
    values = []  # of horizon 3, one lane after another
    with torch.no_grad():
        for frames in (real, dreamed):
            for lane in range(5):
                memory = agent.initial(1, "cpu")
                for t in range(5):
                    opinion = agent(frames[lane : lane + 1, t], memory)
                    memory = opinion.memory
                values.append(float(opinion.value))
    assert rows[2].drift == pytest.approx(np.abs(np.subtract(values[:5], values[5:])).mean(), rel=1e-4)
    assert rows[2].real_std == pytest.approx(np.std(values[:5]), rel=1e-4)


def agent_frame():
    return WorldModel(ACTIONS, MICRO_MODEL).frame_shape


def test_what_reality_paid_in_its_windows():
    """Every whole window of the play counts once where all are drawn."""
    play = play_games(TOY, RandomPolicy(ACTIONS, np.random.default_rng(0)), 60, (0,), Rules(life_loss=True))
    whole = [row for row in play.transitions if play.last[row] - row >= 4 or play.ended[play.last[row] - 1]]
    model = toy_checkpoint().world_model
    result = watch(model, None, play, FidelityConfig(horizon=4, segments=len(whole)))
    windows = [play.rewards[row : min(row + 4, play.last[row])] > 0 for row in whole]
    ended = [play.ended[row : min(row + 4, play.last[row])].any() for row in whole]
    assert (result.policy, result.windows) == ("random", len(whole))
    assert result.real.mean == pytest.approx(np.mean([w.sum() for w in windows]))
    sums = np.array([w.sum() for w in windows])
    blocks = [sums[play.blocks[whole] == block] - sums.mean() for block in np.unique(play.blocks[whole])]
    squares = sum(block.sum() ** 2 for block in blocks) * len(blocks) / (len(blocks) - 1)
    assert result.real.standard_error == pytest.approx(squares**0.5 / len(sums))
    assert result.real.steps == pytest.approx(np.mean([len(w) for w in windows]))
    assert result.real.ends == pytest.approx(np.mean(ended))
    assert 1 <= result.dream.steps <= 4
    assert abs(result.dream.mean) <= 4


def test_what_one_block_pays_has_no_standard_error():
    """Its windows overlap: nothing tells how far other play would be from it."""
    play = play_games(TOY, RandomPolicy(ACTIONS, np.random.default_rng(0)), 9, (0,), Rules())
    play = replace(play, blocks=np.zeros_like(play.blocks))
    result = watch(toy_checkpoint().world_model, None, play, FidelityConfig(horizon=4, segments=5))
    assert result.real.standard_error is None
    assert result.dream.standard_error is None


def test_play_too_short_for_a_window_is_told():
    play = play_games(TOY, RandomPolicy(ACTIONS, np.random.default_rng(0)), 2, (0,), Rules())
    with pytest.raises(RunError, match="No window of 50 steps"):
        watch(toy_checkpoint().world_model, None, play, FidelityConfig(horizon=50))


# The checkpoint


def test_annotating_changes_nothing_but_what_is_said(tmp_path):
    folder = tmp_path / "dream"
    tiny_checkpoint(agent=True, decoder=True).save(folder, half=True)
    (folder / "README.md").write_text("card")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    annotate(folder, metrics={"fidelity": {"x": 1}}, horizon=12)
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before.keys() == after.keys()
    assert {name for name in before if before[name] != after[name]} == {"config.json"}
    there = Checkpoint.load(folder)
    assert there.horizon == 12
    assert there.metrics == {**tiny_checkpoint().metrics, "fidelity": {"x": 1}}
    annotate(folder, metrics={})
    assert Checkpoint.load(folder).horizon == 12


def test_a_damaged_or_missing_checkpoint_is_not_annotated(tmp_path):
    folder = tmp_path / "dream"
    tiny_checkpoint().save(folder)
    for wrong, said in (({"horizon": 0}, "nothing was written"), ({"metrics": {"x": float("nan")}}, "JSON")):
        with pytest.raises(UsageError, match=said):
            annotate(folder, **{"metrics": {}, **wrong})
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    before = (folder / "config.json").read_bytes()
    with pytest.raises(CheckpointError, match="damaged"):
        annotate(folder, metrics={"x": 1})
    assert (folder / "config.json").read_bytes() == before
    with pytest.raises(CheckpointError, match="no such folder"):
        annotate(tmp_path / "nowhere", metrics={})


@pytest.mark.parametrize(("horizon", "set_horizon", "expected"), [(None, False, 5), (9, False, 9), (9, True, 5)])
def test_the_report_goes_into_the_checkpoint(tmp_path, toy_report, horizon, set_horizon, expected):
    checkpoint = replace(toy_checkpoint(), horizon=horizon)
    checkpoint.save(tmp_path / "dream")
    report = replace(toy_report[0], trusted_horizon=2, recommended_horizon=5)
    assert store(report, checkpoint, tmp_path / "dream", set_horizon=set_horizon) == expected
    there = Checkpoint.load(tmp_path / "dream")
    assert there.horizon == expected
    assert there.metrics["kept"] == 1
    assert from_json(FidelityReport, there.metrics["fidelity"], "report") == report


def test_a_checkpoint_that_was_replaced_meanwhile_keeps_its_own_word(tmp_path, toy_report):
    toy_checkpoint(seed=5).save(tmp_path / "dream")
    with pytest.raises(RunError, match="was replaced while it was measured"):
        store(toy_report[0], toy_checkpoint(), tmp_path / "dream", set_horizon=False)
    assert "fidelity" not in Checkpoint.load(tmp_path / "dream").metrics


# The command


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


FEW = "--horizon 4 --segments 8 --steps 90 --probe-steps 250"


def test_breakout_from_the_command_line(jedi, tmp_path):
    breakout_checkpoint(agent=False, decoder=True, horizon=None).save(tmp_path / "run" / "checkpoint")
    code, out, _ = jedi(f"fidelity run {FEW} --json")
    assert code == 0
    told = json.loads(out)
    assert told == json.loads((tmp_path / "run" / "fidelity" / "fidelity.json").read_text())
    assert {row["name"] for row in told["probes"]} == {"ball_x", "ball_y", "player_x"}
    assert told["probes_left_out"] is None
    paddle = [row for row in told["probes"] if row["name"] == "player_x"]
    assert [row["horizon"] for row in paddle] == told["horizons"] == [0, 1, 2, 3, 4]
    assert paddle[0]["lanes"] == 8
    assert paddle[0]["error"] == paddle[0]["error_encoded"]
    for name in ("fidelity.png", "strip.png"):
        assert (tmp_path / "run" / "fidelity" / name).read_bytes().startswith(b"\x89PNG")
    there = Checkpoint.load(tmp_path / "run" / "checkpoint")
    assert there.metrics["fidelity"] == told
    assert there.horizon == told["recommended_horizon"]


def test_what_is_printed_and_what_is_not_stored(jedi, tmp_path):
    toy_checkpoint().save(tmp_path / "dream")
    before = (tmp_path / "dream" / "config.json").read_bytes()
    code, out, _ = jedi(f"fidelity dream {FEW} --sampler-steps 2 --out there")
    assert code == 0
    assert "Not stored: the sampler is not the checkpoint's." in out
    assert "No probe: ToyGame-v0 is no Atari game" in out
    assert "in the dream" in out
    assert "in reality" in out
    assert "The dream beats copying for" in out
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["fidelity.json", "fidelity.png"]
    code, out, _ = jedi(f"fidelity dream {FEW} --no-store")
    assert "Not stored." in out
    assert (tmp_path / "dream" / "config.json").read_bytes() == before
    code, out, _ = jedi(f"fidelity dream {FEW}")
    assert "recommends a horizon of 5" in out


@pytest.mark.parametrize(
    ("flags", "said"),
    [("--horizon 0", "--horizon is 0"), ("--order 3", "order 1 (Euler)"), ("--on-policy", "no agent to play with")],
)
def test_bad_usage_leaves_nothing_behind(jedi, tmp_path, flags, said):
    toy_checkpoint(agent=False).save(tmp_path / "dream")
    code, out, err = jedi(f"fidelity dream {flags}")
    assert (code, out) == (2, "")
    assert said in err
    assert [path.name for path in tmp_path.iterdir()] == ["dream"]


def test_a_dream_that_one_stands_in_is_refused_before_the_work(jedi, tmp_path, monkeypatch):
    toy_checkpoint().save(tmp_path / "dream")
    monkeypatch.chdir(tmp_path / "dream")
    monkeypatch.setattr("trainers.fidelity.fidelity", lambda *_: pytest.fail("was measured"))
    code, out, err = jedi(f"fidelity . {FEW}")
    assert (code, out) == (2, "")
    assert "this process works in it" in err


@pytest.mark.gpu
def test_the_values_of_an_agent_on_the_gpu():
    """The two sides lie on the CPU, whatever the dream ran on."""
    checkpoint = tiny_checkpoint(agent=True).to("cuda")
    report, _ = fidelity(checkpoint, FidelityConfig(2, 4, 300, probes=False))
    assert report.value_drift[0].drift == 0
