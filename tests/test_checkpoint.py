"""A checkpoint comes back bit for bit and at rest, from older versions of the format too, and moves between devices."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from jedi_env import checkpoint_config as module
from jedi_env.checkpoint import Checkpoint
from jedi_env.checkpoint_config import FILES
from jedi_env.errors import CheckpointError
from tests.tiny_dream import LATENT, PIXEL, dreamt, same, tiny_checkpoint, tiny_model

# There and back


@pytest.mark.parametrize(
    ("config", "extras"),
    [(LATENT, {}), (LATENT, {"agent": True}), (LATENT, {"decoder": True, "agent": True}), (PIXEL, {"agent": True})],
    ids=["latent", "with agent", "with decoder", "pixel"],
)
def test_it_comes_back_bit_for_bit(tmp_path, config, extras):
    checkpoint = tiny_checkpoint(config, **extras)
    checkpoint.save(tmp_path / "parent" / "dream")
    again = Checkpoint.load(tmp_path / "parent" / "dream")
    assert same(checkpoint, again)
    assert torch.equal(dreamt(checkpoint), dreamt(again))
    pixels = torch.arange(64 * 64 * 3).remainder(256).to(torch.uint8).view(1, 64, 64, 3)
    assert torch.equal(checkpoint.world_model.encode(pixels), again.world_model.encode(pixels))
    if "decoder" in extras:
        frames = checkpoint.contexts.frames[:, 0]
        assert torch.equal(checkpoint.world_model.decoder.decode(frames), again.world_model.decoder.decode(frames))


def test_the_folder_is_what_the_documentation_says(folder):
    assert {path.name for path in folder.iterdir()} == set(FILES)
    config = json.loads((folder / "config.json").read_text())
    assert config["format"] == "jedi-env checkpoint"
    assert config["version"] == 1
    assert config["game"] == "Breakout"
    for name, record in config["files"].items():
        content = (folder / name).read_bytes()
        assert record == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert set(config["files"]) == set(FILES) - {"config.json"}


def test_what_is_loaded_is_at_rest(folder):
    loaded = Checkpoint.load(folder)
    for part in (loaded.world_model, loaded.world_model.decoder):
        assert not any(module.training for module in part.modules())
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert not any(tensor.is_meta for tensor in part.state_dict().values())


def test_loading_draws_no_random_numbers(folder):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    Checkpoint.load(folder)
    assert torch.equal(torch.rand(1), expected)


def test_saving_twice_writes_the_same_bytes(folder, tmp_path):
    tiny_checkpoint(agent=True, decoder=True).save(tmp_path / "again")
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in FILES)


def test_a_context_of_one_frame_has_no_actions(tmp_path):
    one_frame = replace(LATENT.reward_end, frame_stack=1)
    checkpoint = tiny_checkpoint(replace(LATENT, context_length=1, reward_end=one_frame))
    checkpoint.save(tmp_path / "dream")
    assert same(checkpoint, Checkpoint.load(tmp_path / "dream"))


def test_half_precision_halves_the_weights_and_stays_close(tmp_path):
    checkpoint = tiny_checkpoint(PIXEL, agent=True)
    checkpoint.save(tmp_path / "full")
    checkpoint.save(tmp_path / "half", half=True)
    for name in ("model.safetensors", "contexts.safetensors"):
        assert (tmp_path / "half" / name).stat().st_size < 0.6 * (tmp_path / "full" / name).stat().st_size
    again = Checkpoint.load(tmp_path / "half")
    for name, tensor in again.world_model.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, checkpoint.world_model.state_dict()[name].half().float())
    assert torch.equal(again.contexts.actions, checkpoint.contexts.actions)
    assert torch.equal(again.contexts.frames, checkpoint.contexts.frames.half().float())
    assert again.agent.tensors["policy.weight"].dtype == torch.float32
    assert torch.equal(again.agent.tensors["count"], torch.tensor(7))
    dreamt(again)


def test_contexts_stored_in_half_precision_stay_in_the_frames_range(tmp_path):
    bound = 1.1003  # float16 rounds it up
    assert torch.tensor(bound).half().item() > bound
    config = replace(LATENT, encoder=replace(LATENT.encoder, bound=bound))
    checkpoint = tiny_checkpoint(config)
    checkpoint.contexts.frames.fill_(bound)
    checkpoint.save(tmp_path / "dream", half=True)
    assert Checkpoint.load(tmp_path / "dream").contexts.frames.max() <= torch.tensor(bound)


# Versions


def test_an_older_version_is_migrated_step_by_step(folder, monkeypatch):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["universe"] = config.pop("game")  # as version 1 might have called it
    path.write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="unknown field 'universe'"):
        Checkpoint.load(folder)
    monkeypatch.setattr(module, "VERSION", 3)
    with pytest.raises(CheckpointError, match="has version 1 of the format, which is no longer read"):
        Checkpoint.load(folder)
    monkeypatch.setitem(module.MIGRATIONS, 1, lambda old: {**{k: v for k, v in old.items() if k != "universe"},
                                                           "game": old["universe"]})  # fmt: skip
    monkeypatch.setitem(module.MIGRATIONS, 2, lambda old: {**old, "horizon": old["horizon"] + 1})
    loaded = Checkpoint.load(folder)
    assert (loaded.game, loaded.horizon) == ("Breakout", 21)


# In memory


def test_to_another_device_is_a_copy_and_to_its_own_is_itself():
    checkpoint = tiny_checkpoint(agent=True, decoder=True)
    checkpoint.world_model.train().requires_grad_(True)
    assert checkpoint.to("cpu") is checkpoint
    moved = checkpoint.to("meta")  # the one other device that every machine has
    for part in (moved.world_model, moved.world_model.decoder):
        assert all(tensor.is_meta for tensor in part.state_dict().values())
        assert not any(parameter.requires_grad for parameter in part.parameters())
        assert not part.training
    assert moved.contexts.frames.is_meta
    assert moved.agent.tensors["policy.weight"].is_meta
    for part in (checkpoint.world_model, checkpoint.world_model.decoder):
        assert not any(tensor.is_meta for tensor in part.state_dict().values())
    assert all(parameter.requires_grad for parameter in checkpoint.world_model.parameters())


def test_it_introduces_itself_in_a_line():
    parameters = sum(parameter.numel() for parameter in tiny_model().parameters())
    assert repr(tiny_checkpoint()) == f"<Checkpoint of 'Breakout': {parameters:,} parameters, 5 contexts>"
