"""Memory: one set of weights a process, a state as large as its lanes, and nothing that grows with the steps."""

import gc
import tracemalloc
import weakref
from collections.abc import Iterator
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
import torch
from tiny_dream import LATENT, PIXEL, tiny_checkpoint

from jedi_env.dream import CHUNK, Dream
from jedi_env.envs.face import _lived_through
from jedi_env.envs.real import make_real
from jedi_env.sb3 import make_dream
from jedi_env.types import Record


def weights(model: torch.nn.Module) -> dict[str, int]:
    """Where each of the model's tensors lies."""
    return {name: tensor.untyped_storage().data_ptr() for name, tensor in model.state_dict().items()}


def storages(record: Record) -> dict[int, int]:
    """The memory that ``record`` keeps alive: bytes by address, also those that its tensors do not show."""
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    record.map(note)
    return found


def alive() -> int:
    """Bytes of all tensors that Python knows."""
    gc.collect()
    tensors = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor)]
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in tensors}.values())


@pytest.mark.parametrize("loaded", [False, True])
def test_all_environments_of_a_process_share_their_weights(loaded, tmp_path):
    checkpoint = tiny_checkpoint(decoder=True)
    checkpoint.save(tmp_path / "dream")
    given = checkpoint if loaded else tmp_path / "dream"
    arguments = {"checkpoint": given, "device": "cpu"}
    envs = [
        gymnasium.make("JEDIDream-v0", **arguments).unwrapped,
        gymnasium.make("JEDIDream-v0", obs_type="rgb", dtype="bfloat16", **arguments).unwrapped,
        gymnasium.make_vec("JEDIDream-v0", num_envs=3, **arguments).unwrapped,
        make_dream(given, 2, device="cpu").venv.env.unwrapped,
        *gymnasium.make_vec(  # whose specification is copied deeply, once a lane
            "JEDIDream-v0", num_envs=3, vectorization_mode="sync", **arguments
        ).unwrapped.envs,
    ]
    models = [env.unwrapped.face.model for env in envs]
    copies = [gymnasium.make(envs[0].spec).unwrapped.face.model, gymnasium.make_vec(envs[2].spec).unwrapped.face.model]
    for model in models + copies:
        assert weights(model) == weights(models[0])
        assert weights(model.decoder) == weights(models[0].decoder)
    if loaded:
        assert weights(models[0]) == weights(checkpoint.world_model)


def test_a_bank_is_lived_through_once_for_all_environments_and_never_copied(monkeypatch):
    checkpoint = tiny_checkpoint()
    checkpoint = replace(checkpoint, contexts=checkpoint.contexts.repeat(CHUNK // 5 + 1))  # a little more than a chunk
    model, lived = checkpoint.world_model, []
    begin = model.begin
    monkeypatch.setattr(model, "begin", lambda context: (lived.append(len(context)), begin(context))[1])
    arguments = {"checkpoint": checkpoint, "device": "cpu", "dtype": "float32"}
    envs = [
        gymnasium.make("JEDIDream-v0", **arguments),
        *gymnasium.make_vec("JEDIDream-v0", num_envs=4, vectorization_mode="sync", **arguments).envs,
        gymnasium.make_vec("JEDIDream-v0", num_envs=2, **arguments),
    ]
    assert lived == [CHUNK, len(checkpoint.contexts) - CHUNK]
    own = Dream(model, checkpoint.contexts, horizon=None)
    assert len(lived) == 4
    half = gymnasium.make("JEDIDream-v0", **{**arguments, "dtype": "bfloat16"})
    assert len(lived) == 6
    shared = envs[0].unwrapped.face.dream._beginnings
    for env in envs:
        assert env.unwrapped.face.dream._beginnings is shared
    assert set(storages(checkpoint.contexts)) < set(storages(shared))
    parts = [begin(part) for part in (checkpoint.contexts[:CHUNK], checkpoint.contexts[CHUNK:])]
    for mine in (shared, own._beginnings):
        for name in ("frames", "actions", "hidden", "cell"):
            assert torch.equal(getattr(mine, name), torch.cat([getattr(part, name) for part in parts]))
    assert not torch.equal(half.unwrapped.face.dream._beginnings.hidden, shared.hidden)


def test_a_bank_is_forgotten_with_its_checkpoint():
    checkpoint = tiny_checkpoint()
    env = gymnasium.make("JEDIDream-v0", checkpoint=checkpoint, device="cpu")
    assert checkpoint in _lived_through
    hidden = weakref.ref(env.unwrapped.face.dream._beginnings.hidden)
    del env, checkpoint
    gc.collect()
    assert hidden() is None


def test_the_real_game_has_the_same_encoder():
    pytest.importorskip("ale_py")
    checkpoint = tiny_checkpoint()
    before = alive()
    make_real("Breakout", 2, checkpoint, device="cpu").reset(seed=0)
    assert alive() == before


@pytest.mark.parametrize("config", [LATENT, PIXEL])
def test_a_state_is_as_large_as_its_lanes(config):
    checkpoint = tiny_checkpoint(config)

    def sizes(lanes: int) -> Iterator[int]:
        env = gymnasium.make_vec("JEDIDream-v0", num_envs=lanes, checkpoint=checkpoint, device="cpu", frame_stack=1)
        env.reset(seed=0)
        for _ in range(3):
            yield sum(storages(env.unwrapped.face.dream.state).values())
            env.step(np.zeros(lanes, dtype=np.int64))

    k, frame = checkpoint.world_model.context_length, int(np.prod(checkpoint.world_model.frame_shape))
    # frames, the actions between them, the LSTM's memory, age and key and count, done
    needed = 4 * k * frame + 8 * (k - 1) + 2 * 4 * config.reward_end.lstm_dim + 3 * 8 + 1
    for lanes in (1, 8, 64):
        for size in sizes(lanes):
            assert lanes * needed <= size <= lanes * (needed + 8)  # an action just forgotten may still be there


def test_nothing_grows_with_the_steps():
    lanes = 16
    env = make_dream(tiny_checkpoint(horizon=7), lanes, seed=0, device="cpu", info_keys=("reward_probs",))
    env.reset()
    rng = np.random.default_rng(0)

    def play(steps: int) -> int:
        ends = 0
        for _ in range(steps):
            ends += int(env.step(rng.integers(0, 4, lanes))[2].sum())
        return ends

    play(20)
    tensors = alive()
    tracemalloc.start()
    try:
        play(5)  # as many as the first measurement itself needs
        before = tracemalloc.get_traced_memory()[0]
        assert play(300) > lanes  # not only steps, also restarts
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert alive() == tensors
    assert grown < 300 * 100  # a hundred bytes a step would be a leak
