"""What survives: saved whole or not at all, taken up again exactly, and never mixed with another run."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import jedi_env.folder
from jedi_env.errors import RunError, UsageError
from jedi_env.models.decoder import DecoderConfig
from tests.tiny_dream import tiny_checkpoint
from tests.trainers.fakes import ACTIONS, MICRO, TOY, random_weights
from trainers.collect import Progress
from trainers.state import FACTS, TENSORS, open_run, saved_states

CPU = torch.device("cpu")


@pytest.fixture
def opened(tmp_path):
    """Open the run in ``tmp_path / "run"``; everything is closed in the end."""
    states = []

    def open_it(config=MICRO, game=TOY, seed=0, run_dir=None, device=CPU):
        for state in states:
            state.close()
        states.append(open_run(run_dir or tmp_path / "run", config, game, seed, ACTIONS, device))
        return states[-1]

    yield open_it
    for state in states:
        state.close()


def live(state, epoch):
    """Change everything that a state holds."""
    for seed, (_, part) in enumerate(sorted(state._parts().items())):
        if isinstance(part, torch.nn.Module):
            random_weights(part, seed + 100 * epoch)
    for optim, module in (
        (state.agent_optim, state.agent),
        (state.world_model_optim, state.world_model),
        (state.decoder_optim, state.decoder),
    ):
        optim.step(sum(parameter.square().sum() for parameter in module.parameters()))
    state.replay.append(np.full((64, 64, 3), epoch, np.uint8), epoch % ACTIONS, 1.0, False)
    state.epoch = epoch
    state.first_steps += 7
    state.imagined_steps += 11
    state.scores.append({"mean": 0.1 * epoch})
    return Progress(epoch, [0, 1, epoch % ACTIONS], 2.5 * epoch)


def everything(state):
    tensors = {name: tensor.clone() for name, tensor in state.tensors().items()}
    facts = (state.epoch, state.first_steps, state.imagined_steps, state.collector, state.log_size, list(state.scores))
    return tensors, facts, state.replay.steps.tolist(), state.replay.pixels.tobytes()


def assert_same(first, second):
    assert first[1:] == second[1:]
    assert first[0].keys() == second[0].keys()
    for name, tensor in first[0].items():
        assert torch.equal(tensor, second[0][name]), name


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_saved_state_is_taken_up_exactly(opened):
    state = opened()
    state.collector, state.log_size = live(state, 1), 123
    state.save(123, state.collector)
    saved = everything(state)
    assert_same(everything(opened()), saved)
    assert opened().collector == Progress(1, [0, 1, 1], 2.5)


@pytest.mark.gpu
def test_a_state_saved_on_a_gpu_is_taken_up_there_exactly(opened):
    device = torch.device("cuda", 0)
    state = opened(device=device)
    state.collector = live(state, 1)
    state.save(0, state.collector)
    saved = everything(state)
    again = opened(device=device)
    assert_same(everything(again), saved)
    assert {tensor.device for tensor in again.world_model.state_dict().values()} == {device}


def test_what_happened_since_is_forgotten(opened):
    state = opened()
    state.collector = live(state, 1)
    state.save(0, state.collector)
    saved = everything(state)
    live(state, 2)
    state.replay.flush()
    assert_same(everything(opened()), saved)


def test_a_fresh_run_follows_from_its_seed_alone(opened, tmp_path):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = opened(run_dir=tmp_path / "a")
    torch.manual_seed(1)
    second = opened(run_dir=tmp_path / "b")
    assert torch.equal(torch.get_rng_state(), before)  # and nobody else's numbers change
    other = opened(run_dir=tmp_path / "c", seed=1)
    assert_same(everything(first), everything(second))
    weights = [state.world_model.denoiser.conv_in.weight for state in (first, other)]
    assert not torch.equal(*weights)
    assert first.epoch == 0


def test_only_the_two_newest_states_are_kept(opened, tmp_path):
    state = opened()
    for epoch in (1, 2, 3, 11):
        state.save(0, live(state, epoch))
    assert [path.name for path in saved_states(tmp_path / "run")] == ["epoch-000003", "epoch-000011"]
    assert opened().epoch == 11


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["tensors.safetensors", "facts.json", "rename"])
def test_an_interrupted_save_leaves_the_state_before_it(opened, tmp_path, monkeypatch, name, error):
    state = opened()
    state.collector = live(state, 1)
    state.save(0, state.collector)
    saved = everything(state)
    progress = live(state, 2)
    write, rename = jedi_env.folder._write_durably, os.rename

    def torn_write(path, content):
        write(path, content[:9] if path.name == name else content)
        if path.name == name:
            raise error

    def torn_rename(source, target):
        if name == "rename" and str(target).endswith("epoch-000002"):
            raise error
        rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(jedi_env.folder, "_write_durably", torn_write)
        patch.setattr(jedi_env.folder.os, "rename", torn_rename)
        with pytest.raises(type(error)):
            state.save(0, progress)
    again = opened()
    assert_same(everything(again), saved)
    again.save(0, live(again, 2))
    assert opened().epoch == 2
    assert sorted(path.name for path in (tmp_path / "run" / "state").iterdir()) == ["epoch-000001", "epoch-000002"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def flip_last(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # in the newest row: the older state does not need it
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


DAMAGE = [
    *((how, f"state/epoch-000002/{name}") for how in (flip, cut, Path.unlink) for name in (TENSORS, FACTS)),
    *((how, f"replay/{name}") for how in (flip_last, cut) for name in ("pixels.bin", "steps.bin")),
]


@pytest.mark.parametrize(("damage", "name"), DAMAGE)
def test_of_a_damaged_newest_state_the_one_before_is_used(opened, tmp_path, caplog, damage, name):
    state = opened()
    state.collector = live(state, 1)
    state.save(0, state.collector)
    saved = everything(state)
    state.save(0, live(state, 2))
    damage(tmp_path / "run" / name)
    again = opened()
    assert_same(everything(again), saved)
    (told,) = [record.getMessage() for record in caplog.records]
    assert name.split("/")[0] in told
    assert "Going on from the state before it" in told
    again.save(0, live(again, 2))
    assert opened().epoch == 2
    assert len(caplog.records) == 1


def test_without_a_whole_state_the_run_is_left_as_it_is(opened, tmp_path):
    state = opened()
    for epoch in (1, 2):
        state.save(0, live(state, epoch))
        flip(tmp_path / "run" / "state" / f"epoch-{epoch:06d}" / TENSORS)
    state.close()
    before = files(tmp_path / "run")
    with pytest.raises(RunError, match=r"No state of the run .* is whole.*delete .*state to begin the run anew"):
        opened()
    assert files(tmp_path / "run") == before


def test_weights_that_are_not_finite_are_not_saved(opened, tmp_path):
    state = opened()
    state.agent.actor.weight.data[0, 0] = float("nan")
    with pytest.raises(RunError, match=r"NaN or infinity in 'agent/actor\.weight'"):
        state.save(0, Progress())
    assert saved_states(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, r"seed \(there 0, asked for 1\)"),
        ({"game": "Breakout"}, r"game \(there 'ToyGame-v0', asked for 'Breakout'\)"),
        (
            {"config": replace(MICRO, fit_agent=replace(MICRO.fit_agent, batch=5))},
            r"config\.fit_agent\.batch \(there 4, asked for 5\)",
        ),
        ({"config": replace(MICRO, final_epochs=9)}, r"config\.final_epochs \(there 1, asked for 9\)"),
    ],
)
def test_another_run_is_refused_by_the_name_of_what_differs(opened, tmp_path, change, named):
    state = opened()
    state.save(0, live(state, 1))
    live(state, 2)
    state.replay.flush()
    state.close()
    before = files(tmp_path / "run")
    with pytest.raises(UsageError, match=named):
        opened(**change)
    assert files(tmp_path / "run") == before


def test_a_run_that_began_before_a_setting_was_there_goes_on_with_its_default(opened, tmp_path):
    without = {"config": replace(MICRO, decoder=replace(MICRO.decoder, blocks=DecoderConfig().blocks))}
    state = opened(**without)
    state.save(0, live(state, 1))
    state.close()
    path = tmp_path / "run" / "config.json"
    told = json.loads(path.read_text())
    del told["config"]["decoder"]["blocks"]
    path.write_text(json.dumps(told))
    opened(**without).close()
    with pytest.raises(UsageError, match=rf"blocks \(there {DecoderConfig().blocks}, asked for 1\)"):
        opened()


def test_a_folder_that_is_no_run_is_refused_and_left_alone(opened, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="not empty and holds no run"):
        opened()
    assert files(tmp_path / "run") == {"thesis.tex": b"precious"}


def test_a_checkpoint_is_no_run(opened, tmp_path):
    tiny_checkpoint().save(tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(UsageError, match="something else than a run"):
        opened()
    assert files(tmp_path / "run") == before


def test_a_file_is_no_run(opened, tmp_path):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(UsageError, match="is a file"):
        opened()
    assert (tmp_path / "run").read_text() == "precious"


def test_an_empty_folder_will_do(opened, tmp_path):
    (tmp_path / "run").mkdir()
    assert opened().epoch == 0
    assert json.loads((tmp_path / "run" / "config.json").read_text())["game"] == TOY


def test_a_damaged_configuration_is_told(opened, tmp_path):
    opened()
    path = tmp_path / "run" / "config.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(RunError, match=r"config\.json is damaged"):
        opened()


@pytest.mark.parametrize(
    "change",
    [
        {"agent": replace(MICRO.agent, channels=(4, 4))},
        {"agent": replace(MICRO.agent, channels=(4,) * 4, down=(True,) * 4)},
        {"world_model": replace(MICRO.world_model, denoiser=replace(MICRO.world_model.denoiser, depths=(1, 1)))},
        {"world_model": replace(MICRO.world_model, encoder=replace(MICRO.world_model.encoder, patch=7))},
    ],
)
def test_networks_that_cannot_be_are_refused_before_anything_is_written(opened, tmp_path, change):
    with pytest.raises(UsageError, match="cannot be built, or do not fit together"):
        opened(config=replace(MICRO, **change))
    assert not (tmp_path / "run").exists()


def test_a_pixel_model_needs_no_decoder(opened):
    state = opened(config=replace(MICRO, fit_world_model=replace(MICRO.fit_world_model, decoder_every=0)))
    assert state.decoder is None
    assert state.decoder_optim is None
    state.save(0, Progress())
    assert not any(name.startswith("decoder") for name in state.tensors())
