"""A run in a pack: real play of real Breakout, played again to the byte; damage; and what rounding costs."""

import json
import shutil
from dataclasses import replace

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given

import trainers.pack
from jedi_env.errors import CheckpointError, RunError, UsageError
from jedi_env.models.decoder import Decoder
from jedi_env.models.world_model import WorldModel
from jedi_env.noise import LaneNoise, lane_keys
from jedi_env.types import Context
from tests.trainers.fakes import MICRO_BREAKOUT, random_weights
from trainers.agent import ActorCritic
from trainers.log import read
from trainers.pack import LARGEST, MANIFEST, REST, _large, _parts, _small, pack, read_manifest, unpack
from trainers.presets import PAPER
from trainers.state import open_run, saved_states
from trainers.time_limit import TimeLimit
from trainers.train import train

CPU = torch.device("cpu")
# Four epochs, of which two are packed; the second game is under way then.
CONFIG = replace(
    MICRO_BREAKOUT,
    collect=replace(
        MICRO_BREAKOUT.collect, total_steps=300, first_steps=200, first_steps_limit=200, first_rewards=0, steps=50
    ),
    final_epochs=1,
)


class Ticks:
    """A clock that only epochs move: by a minute each, told by how often it was asked."""

    def __init__(self):
        self.seconds = -60.0

    def __call__(self):
        self.seconds += 60.0
        return self.seconds


def run(folder, limit=None):
    return train(CONFIG, "Breakout", 3, folder, CPU, limit)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A run that stopped after two epochs, and its pack."""
    folder = tmp_path_factory.mktemp("pack")
    run(folder / "run", TimeLimit(3.5, Ticks()))
    pack(folder / "run", folder / "pack")
    return folder


@pytest.fixture(scope="module")
def unpacked(packed):
    unpack(packed / "pack", packed / "again")
    return packed / "again"


def replay_of(folder):
    return {name: (folder / "replay" / name).read_bytes() for name in ("pixels.bin", "steps.bin")}


def facts_of(folder):
    path = saved_states(folder)[-1] / "facts.json"
    return {key: value for key, value in json.loads(path.read_text())["facts"].items() if "tensors" not in key}


def opened(folder):
    return open_run(folder, CONFIG, "Breakout", 3, 4, CPU)


def test_the_game_is_played_again_to_the_byte(packed, unpacked):
    assert replay_of(unpacked) == replay_of(packed / "run")
    facts = facts_of(unpacked)
    assert facts == facts_of(packed / "run")
    assert facts["epoch"] == 2
    assert facts["game"] >= 1  # more than one game was begun
    assert len(facts["actions"]) > 0  # and one is under way
    for name in ("config.json", "metrics.jsonl"):
        assert (unpacked / name).read_bytes() == (packed / "run" / name).read_bytes()


def test_the_pack_is_small_and_its_names_are_plain(packed):
    there = sorted(path.name for path in (packed / "pack").iterdir())
    assert there == [MANIFEST, REST, "weights-00.safetensors"]
    size = sum(path.stat().st_size for path in (packed / "pack").iterdir())
    assert size < 0.2 * sum(len(content) for content in replay_of(packed / "run").values())


def test_weights_are_rounded_and_the_optimisers_remember(packed, unpacked):
    before, after = opened(packed / "run"), opened(unpacked)
    try:
        here, there = before.tensors(), after.tensors()
        for name in here:
            if name.endswith(".exp_avg"):
                assert not there[name].any()
            elif name.endswith(".exp_avg_sq") and here[name].ndim > 1:
                exact, rough = here[name].flatten(1), there[name].flatten(1)
                for axis in (0, 1):
                    torch.testing.assert_close(rough.mean(axis), exact.mean(axis), rtol=1e-4, atol=1e-20)
            elif "_optim/" in name:
                assert torch.equal(here[name], there[name]), name
            else:
                torch.testing.assert_close(there[name], here[name], rtol=2**-11, atol=1e-7)
    finally:
        before.close()
        after.close()


def test_it_goes_on_to_the_end_like_any_run(packed, unpacked, tmp_path):
    shutil.copytree(unpacked, tmp_path / "run")
    assert run(tmp_path / "run").is_dir()
    lines = read(tmp_path / "run")
    assert [line["epoch"] for line in lines if line["phase"] == "fit_models"] == [0, 1, 2, 3]
    steps = [line["real_steps"] for line in lines if line["phase"] == "collect"]
    assert steps == [200, 250, 300]
    pack(tmp_path / "run", tmp_path / "second")
    unpack(tmp_path / "second", tmp_path / "again")
    assert replay_of(tmp_path / "again") == replay_of(tmp_path / "run")
    assert json.loads((tmp_path / "again" / "scores.json").read_text()) == json.loads(
        (tmp_path / "run" / "scores.json").read_text()
    )


@torch.no_grad()
def test_rounding_moves_what_the_networks_say_by_less_than_a_fiftieth(packed, tmp_path):
    """Networks whose outputs are of the order of 1, and all of whose weights count."""
    shutil.copytree(packed / "run", tmp_path / "run")
    state = opened(tmp_path / "run")
    for part in (state.world_model.denoiser, state.world_model.reward_end, state.agent):
        random_weights(part, seed=5)
    state.save(state.log_size, state.collector)
    state.close()
    pack(tmp_path / "run", tmp_path / "pack")
    unpack(tmp_path / "pack", tmp_path / "again")
    said = []
    for folder in (tmp_path / "run", tmp_path / "again"):
        state = opened(folder)
        pixels, actions = state.replay.contexts(16, 2, CONFIG.fit_world_model.sampling, np.random.default_rng(0))
        model = state.world_model.eval()
        frames = model.encode(pixels.to(CPU))
        begun = model.begin(Context(frames, actions))
        noise = LaneNoise(lane_keys(range(16), CPU), torch.zeros(16, dtype=torch.int64))
        after, prediction = model.advance(begun, actions[:, 0], noise)
        opinion = state.agent(frames[:, -1], state.agent.initial(16, CPU))
        told = (prediction.reward_probs, prediction.termination_prob, opinion.logits, opinion.value)
        said.append((frames, after.frames, *told))
        state.close()
    for before, rounded in zip(*said, strict=True):
        assert (rounded - before).abs().mean() < 0.02 * before.abs().mean()


@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 2**31))
def test_second_moments_that_are_a_product_come_back_whole(rows, columns, seed):
    rng = np.random.default_rng(seed)
    memory = torch.from_numpy(np.outer(rng.lognormal(-20, 3, rows), rng.lognormal(0, 3, columns)).astype(np.float32))
    given = {"a_optim/0.exp_avg_sq": memory[..., None], "a_optim/0.exp_avg": torch.ones(rows, columns, 1)}
    kept = _small(given)
    assert sum(tensor.numel() for tensor in kept.values()) == rows + columns
    back = _large(kept, {name: torch.zeros_like(tensor) for name, tensor in given.items()})
    torch.testing.assert_close(back["a_optim/0.exp_avg_sq"], given["a_optim/0.exp_avg_sq"], rtol=1e-4, atol=0)
    assert not back["a_optim/0.exp_avg"].any()


def test_weights_are_spread_over_files_of_16_mib():
    sizes = [3_000_000, 5_000_000, 100, 7_000_000, 900_000, 5]
    tensors = {str(index): torch.zeros(size) for index, size in enumerate(sizes)}
    assert [list(part) for part in _parts(tensors)] == [["0"], ["1", "2"], ["3"], ["4", "5"]]
    assert 2 * 7_000_000 < LARGEST - 2**20 < 2 * (7_000_000 + 900_000)


def test_the_papers_weights_are_three_such_files():
    with torch.device("meta"):
        model = WorldModel(18, PAPER.world_model)
        agent = ActorCritic(model.frame_shape, 18, PAPER.agent)
        decoder = Decoder(model.frame_shape, PAPER.decoder)
    named = {f"{i}/{k}": t for i, part in enumerate((model, agent, decoder)) for k, t in part.state_dict().items()}
    parts = _parts(named)
    assert [len(part) > 0 for part in parts] == [True] * 3
    assert sum(2 * tensor.numel() for tensor in named.values()) < 28_500_000


@pytest.fixture
def copy(packed, tmp_path):
    shutil.copytree(packed / "pack", tmp_path / "pack")
    return tmp_path / "pack"


def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "lacks pack.json"),
        (lambda folder: (folder / REST).unlink(), f"lacks {REST}"),
        (lambda folder: (folder / "weights-00.safetensors").unlink(), "lacks weights-00"),
        (lambda folder: flip(folder / REST, -1), "SHA-256 is another"),
        (lambda folder: flip(folder / "weights-00.safetensors", -1), "SHA-256 is another|NaN or infinity"),
        (lambda folder: (folder / REST).write_bytes((folder / REST).read_bytes()[:-9]), "is truncated"),
        (lambda folder: (folder / MANIFEST).write_text("{"), "is not JSON"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": "jedi-env checkpoint"}'), "something else"),
        (lambda folder: (folder / MANIFEST).write_text('{"format": "jedi-env pack", "version": 9}'), "has version 9"),
        (lambda folder: edit(folder, "epoch", 3, digest=False), "was changed after it was written"),
        (lambda folder: edit(folder, "files", {}), "names no file rest"),
        (lambda folder: edit(folder, "epoch", "three"), "must be a whole number"),
        (lambda folder: edit(folder, "epoch", -1), "counts what cannot be counted"),
        (lambda folder: edit(folder, "epoch", 10**300), "counts what cannot be counted"),
        (lambda folder: edit(folder, "first_steps", -5), "counts what cannot be counted"),
        (lambda folder: edit(folder, "replay_length", 0), "counts what cannot be counted"),
        (lambda folder: edit(folder, "files", {"a\0b": {"bytes": 1, "sha256": ""}}), "names a file"),
        (
            lambda folder: edit(folder, "files", {"../rest": {"bytes": 1, "sha256": ""}}),
            "names a file",
        ),
    ],
)
def test_what_is_damaged_or_foreign_is_refused_in_a_sentence(copy, tmp_path, damage, message):
    damage(copy)
    with pytest.raises(CheckpointError, match=message):
        unpack(copy, tmp_path / "run")
    assert [path for path in tmp_path.iterdir() if path != copy] == []


def edit(folder, key, value, digest=True):
    data = json.loads((folder / MANIFEST).read_text())
    data["manifest"][key] = value
    if digest:
        data["sha256"] = trainers.pack._digest(data["manifest"])
    (folder / MANIFEST).write_text(json.dumps(data))


@pytest.mark.parametrize("change", [1, 2**40])
def test_a_game_that_plays_otherwise_is_refused(copy, tmp_path, monkeypatch, change):
    """As an emulator of another version would: other rewards and ends, or other pixels."""
    edit(copy, "replay_checksum", read_manifest(copy).replay_checksum ^ change)
    if change == 2**40:
        sample = trainers.pack._sample
        monkeypatch.setattr(trainers.pack, "_sample", lambda replay: sample(replay) ^ 4)
    with pytest.raises(RunError, match=r"went otherwise than for the pack .* ale-py '0\..*; here is .*Install those"):
        unpack(copy, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pixels_that_are_rounded_otherwise_are_no_other_game(copy, tmp_path, caplog):
    edit(copy, "replay_checksum", read_manifest(copy).replay_checksum ^ 2**40)
    unpack(copy, tmp_path / "run")
    assert "some pixels are rounded otherwise" in caplog.text
    assert read(tmp_path / "run") != []
    opened(tmp_path / "run").close()


def test_nothing_is_overwritten(packed, unpacked, tmp_path):
    with pytest.raises(UsageError, match="is there already"):
        unpack(packed / "pack", unpacked)
    before = replay_of(unpacked)
    with pytest.raises(UsageError, match="holds no pack: write another --out"):
        pack(packed / "run", unpacked)
    assert replay_of(unpacked) == before
    with pytest.raises(UsageError, match="no run with a completed epoch"):
        pack(tmp_path, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_run_in_use_and_one_that_is_too_large_are_not_packed(packed, tmp_path, monkeypatch):
    state = opened(packed / "run")
    with pytest.raises(UsageError, match=r"in use|another process|works"):
        pack(packed / "run", tmp_path / "out")
    state.close()
    monkeypatch.setattr(trainers.pack, "LARGEST", 1000)
    with pytest.raises(UsageError, match="this run is too large"):
        pack(packed / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_log_that_lost_lines_is_not_packed(packed, tmp_path):
    shutil.copytree(packed / "run", tmp_path / "run")
    log = tmp_path / "run" / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[:100])
    with pytest.raises(RunError, match=r"has 100 bytes, but \d+ belong to completed epochs"):
        pack(tmp_path / "run", tmp_path / "pack")
    assert not (tmp_path / "pack").exists()


def test_a_new_pack_replaces_the_old_one(packed, copy):
    (copy / "weights-07.safetensors").write_bytes(b"of an older pack")
    (copy / "README.md").write_text("mine")
    pack(packed / "run", copy)
    assert sorted(path.name for path in copy.iterdir()) == [
        "README.md",
        MANIFEST,
        REST,
        "weights-00.safetensors",
    ]
    read_manifest(copy)


@pytest.mark.parametrize("line", ["{run}", "{run} --out {out} --unpack {out}"])
def test_the_command_line_wants_one_direction(packed, tmp_path, monkeypatch, capsys, line):
    words = line.format(run=packed / "run", out=tmp_path / "out").split()
    monkeypatch.setattr("sys.argv", ["pack", *words])
    with pytest.raises(SystemExit) as exit_:
        trainers.pack.main()
    assert exit_.value.code == 2
    assert "either --out FOLDER" in capsys.readouterr().err


def test_there_and_back_on_the_command_line(packed, tmp_path, monkeypatch):
    for words in ([packed / "run", "--out", tmp_path / "p"], [tmp_path / "p", "--unpack", tmp_path / "run"]):
        monkeypatch.setattr("sys.argv", ["pack", *map(str, words)])
        trainers.pack.main()
    assert replay_of(tmp_path / "run") == replay_of(packed / "run")
