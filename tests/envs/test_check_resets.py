"""The checker names what is wrong with how episodes end and begin anew, in each mode and by reset_mask."""

import numpy as np
import pytest

from jedi_env import check_vector_env
from jedi_env.errors import VectorEnvError
from tests.envs.walks import DISABLED, NEXT_STEP, SAME_STEP, HiddenAges, NoisyWalk, StepFault, Walk


class NoFinals(Walk):
    def restart(self, ended, info):
        self.begin(ended)


class AllFinals(Walk):
    def restart(self, ended, info):
        super().restart(ended, info)
        info["_final_obs"] = np.ones(self.num_envs, dtype=np.bool_)


class EmptyFinals(Walk):
    def restart(self, ended, info):
        super().restart(ended, info)
        info["final_obs"][:] = None


class UnmaskedFinalInfo(Walk):
    def restart(self, ended, info):
        super().restart(ended, info)
        info["final_info"] = {"age": np.zeros(self.num_envs)}


class FinalsAfterReset(Walk):
    def restart(self, ended, info):
        self.begin(ended)
        super().restart(np.zeros_like(ended), info)
        info["_final_obs"] = ended.copy()
        info["final_obs"] = self.observe()


class EndIsNextStart(Walk):
    """Resets at once and again at the next step, so that nobody sees the end."""

    def observe(self):
        if self.mode is not SAME_STEP and ((self.state[:, 1] >= self.horizon) | (np.abs(self.state[:, 0]) > 1)).any():
            self.begin((self.state[:, 1] >= self.horizon) | (np.abs(self.state[:, 0]) > 1))
        return super().observe()


class PaidReset(StepFault):
    def spoilt(self, obs, rewards, terminated, truncated, info):
        return obs, np.ones_like(rewards), terminated, truncated, info


class ActsOnReset(Walk):
    def step(self, actions):
        begun = self.ended
        _, *rest = super().step(actions)
        self.state[begun, 0] += np.where(actions == 1, 0.25, -0.25)[begun]
        return self.observe(), *rest


class SameStepInDisguise(NoisyWalk):
    """Says DISABLED, but begins anew by itself."""

    def __init__(self, num_envs=3, autoreset_mode=DISABLED):
        super().__init__(num_envs, SAME_STEP)
        self.metadata = {"autoreset_mode": autoreset_mode}


class IgnoredMask(Walk):
    def mask(self, options):
        return super().mask(None)


class ForgottenAges(Walk):
    """A partial reset clears the counters of every lane, but shows it only later."""

    def reset(self, *, seed=None, options=None):
        before = self.observe()
        obs, info = super().reset(seed=seed, options=options)
        self.state[:, 1] = 0
        return np.where(self.mask(options)[:, None], obs, before), info


class AllHiddenAgesForgotten(HiddenAges):
    """A masked reset clears the counters of every lane."""

    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        self.state[:, 1] = 0
        return result


class AllOldAgesForgotten(AllHiddenAgesForgotten):
    ends = (4, 50, 60)


class OwnHiddenAgeKept(HiddenAges):
    """A masked reset leaves its own lane's counter as it was."""

    def reset(self, *, seed=None, options=None):
        ages = self.state[:, 1].copy()
        result = super().reset(seed=seed, options=options)
        if options and seed is not None:
            self.state[:, 1] = ages * ~self.ended
        return result


class OwnOldAgeKept(OwnHiddenAgeKept):
    ends = (60, 50, 4)


class ChangedMask(Walk):
    def reset(self, *, seed=None, options=None):
        result = super().reset(seed=seed, options=options)
        if options:
            options["reset_mask"][:] = False
        return result


class MaskWithoutSeed(Walk):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None if options else seed, options=options)


class StaleEnds(Walk):
    """A reset forgets that a lane still waits to be reset by NEXT_STEP."""

    def reset(self, *, seed=None, options=None):
        ended = self.ended
        result = super().reset(seed=seed, options=options)
        if self.forgets(options):
            self.ended = ended
        return result


class StaleAfterReset(StaleEnds):
    def forgets(self, options):
        return options is None


class StaleAfterMask(StaleEnds):
    def forgets(self, options):
        return options is not None


FAULTS = [
    (NoFinals, SAME_STEP, r"infos\['final_obs'\]: is missing"),
    (AllFinals, SAME_STEP, r"infos\['final_obs'\]: has the mask \[ True  True  True\]"),
    (EmptyFinals, SAME_STEP, r"infos\['final_obs'\]\[\d\]: is NoneType"),
    (UnmaskedFinalInfo, SAME_STEP, r"infos\['final_info'\]: has no mask"),
    (FinalsAfterReset, SAME_STEP, r"final observation is the first of the next episode"),
    (EndIsNextStart, NEXT_STEP, r"final observation is the first of the next episode"),
    (EndIsNextStart, DISABLED, r"final observation is the first of the next episode"),
    (PaidReset, NEXT_STEP, r"lane \d: its episode ended at the step before, yet this step has reward 1.0"),
    (ActsOnReset, NEXT_STEP, r"depends on the action of a lane that is being reset"),
    (SameStepInDisguise, DISABLED, r"had ended, but play on without a reset"),
    (IgnoredMask, SAME_STEP, r"reset_mask.*changed the observation of lane 1"),
    (ForgottenAges, SAME_STEP, r"after a reset of lane 0 alone: observation of lane 1 is not what it is without"),
    (
        AllHiddenAgesForgotten,
        SAME_STEP,
        r"after a reset of lane 0 alone: truncated of lane 1 is not what it is without",
    ),
    (
        AllHiddenAgesForgotten,
        NEXT_STEP,
        r"after a reset of lane 0 alone: truncated of lane 1 is not what it is without",
    ),
    (AllOldAgesForgotten, SAME_STEP, r"after a reset of lane 0 alone: truncated of lane 1 is not what it is without"),
    (OwnHiddenAgeKept, SAME_STEP, r"step 1 after a reset of lane 0 alone: truncated of lane 0 is not what it is after"),
    (OwnHiddenAgeKept, DISABLED, r"step 1 after a reset of lane 0 alone: truncated of lane 0 is not what it is after"),
    (OwnOldAgeKept, SAME_STEP, r"step 57 after a reset of lane 0 alone: truncated of lane 0 is not what it is after"),
    (ChangedMask, SAME_STEP, r"changed the caller's reset_mask"),
    (MaskWithoutSeed, NEXT_STEP, r"starts lane 0 otherwise than reset\(seed=0\) does"),
    (StaleAfterReset, NEXT_STEP, r"^reset\(seed=0\) right after an end: does not start over"),
    (StaleAfterMask, NEXT_STEP, r"reset_mask of all lanes\) right after an end: does not start over"),
]


@pytest.mark.parametrize(("kind", "mode", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_fault_is_named(kind, mode, message):
    with pytest.raises(VectorEnvError, match=message):
        check_vector_env(kind(autoreset_mode=mode))
