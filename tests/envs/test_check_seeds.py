"""The checker names what breaks the promise of a seed: the same run again, other starts, a seed for every lane."""

import numpy as np
import pytest

from jedi_env import check_vector_env
from jedi_env.errors import VectorEnvError
from tests.envs.walks import NEXT_STEP, SAME_STEP, Walk


class ShownState(Walk):
    """New memory at every call, but it is the environment's own."""

    def move(self, actions):
        self.state = self.state.copy()
        super().move(actions)

    def begin(self, lanes):
        self.state = self.state.copy()
        super().begin(lanes)

    def observe(self):
        return self.state


class KeptActions(Walk):
    """Moves by the last two actions, but keeps the caller's array."""

    def reset(self, *, seed=None, options=None):
        self.last = np.zeros(self.num_envs, dtype=int)
        return super().reset(seed=seed, options=options)

    def move(self, actions):
        super().move(actions)
        self.state[:, 0] += 0.1 * self.last
        self.last = actions


class IgnoredSeed(Walk):
    def seeded(self, seed, lane):
        return self.generators[lane]


class UnseededNoise(Walk):
    def move(self, actions):
        super().move(actions)
        self.state[:, 0] += np.random.default_rng().normal(0, 0.01, self.num_envs).astype(np.float32)


class OneSeedForAll(Walk):
    def seeds(self, seed):
        return [seed] * self.num_envs if isinstance(seed, int) else seed


class DefaultSeed(Walk):
    def reset(self, *, seed=0, options=None):
        return super().reset(seed=0 if seed is None else seed, options=options)


class JoinedSeeds(Walk):
    def seeded(self, seed, lane):
        return np.random.default_rng([lane, *self.seeds(seed)])


class ResetReseeds(Walk):
    """An unseeded reset takes its randomness from elsewhere."""

    def reset(self, *, seed=None, options=None):
        return super().reset(
            seed=int(np.random.default_rng().integers(1000)) if seed is None else seed, options=options
        )


FAULTS = [
    (ShownState, SAME_STEP, r"gives another observation once the caller overwrites"),
    (KeptActions, SAME_STEP, r"gives another observation once the caller overwrites"),
    (IgnoredSeed, SAME_STEP, r"reset\(seed=0\): gave another observation the second time"),
    (UnseededNoise, SAME_STEP, r"^step 1 after reset\(seed=0\): gave another observation the second time"),
    (OneSeedForAll, SAME_STEP, r"starts all 3 lanes alike"),
    (DefaultSeed, SAME_STEP, r"reset\(\) without a seed: gave the same start"),
    (JoinedSeeds, SAME_STEP, r"starts lane \d otherwise than .* although its own seed is the same"),
    (ResetReseeds, NEXT_STEP, r"^reset\(\) \d+ steps after reset\(seed=0\): gave another observation the second time"),
]


@pytest.mark.parametrize(("kind", "mode", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_fault_is_named(kind, mode, message):
    with pytest.raises(VectorEnvError, match=message):
        check_vector_env(kind(autoreset_mode=mode))
