"""Checkpoints damaged or forged at random are refused in a sentence, or load and dream; never anything else."""

import json
import random

import pytest

from jedi_env.checkpoint import Checkpoint
from jedi_env.checkpoint_config import FILES
from jedi_env.errors import CheckpointError
from tests.damage import A, C, M, written
from tests.mutation import mutated_bytes, mutated_json
from tests.tiny_dream import dreamt


def load_or_refuse(folder):
    """Load what may be loaded (and see it dream); what may not is refused in a sentence."""
    try:
        loaded = Checkpoint.load(folder)
    except CheckpointError as error:
        said = str(error)
    else:
        dreamt(loaded, steps=1)
        return loaded
    assert 10 < len(said) < 1000
    assert said.isprintable()
    return None


@pytest.fixture
def original(folder):
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.mark.parametrize("seed", range(100))
def test_damaged_bytes_are_refused(folder, original, seed):
    rng = random.Random(seed)
    name = rng.choice(FILES)
    data = mutated_bytes(original[name], rng)
    (folder / name).write_bytes(data)
    if load_or_refuse(folder) is not None:  # a changed number in config.json is not to be noticed
        assert name == "config.json" or data == original[name]


@pytest.mark.parametrize("seed", range(100))
def test_a_forged_configuration_is_refused_or_harmless(folder, seed):
    rng = random.Random(seed)
    path = folder / "config.json"
    path.write_text(json.dumps(mutated_json(json.loads(path.read_text()), rng)))
    load_or_refuse(folder)


@pytest.mark.parametrize("seed", range(100))
def test_forged_tensors_are_refused_or_harmless(folder, original, seed):
    rng = random.Random(seed)
    name = rng.choice([M, C, A, "decoder.safetensors"])
    data = original[name]
    end = 8 + int.from_bytes(data[:8], "little")
    if rng.random() < 0.5:
        header = json.dumps(mutated_json(json.loads(data[8:end]), rng)).encode()
        data = len(header).to_bytes(8, "little") + header + data[end:]
    else:
        data = mutated_bytes(data[: end + 64], rng) + data[end + 64 :]
    written(name, data)(folder)
    load_or_refuse(folder)
