"""The checker names what is wrong with one answer: its place in a space, the layout of its info, its memory."""

import numpy as np
import pytest

from jedi_env import check_vector_env
from jedi_env.errors import VectorEnvError
from tests.envs.walks import NEXT_STEP, SAME_STEP, MixedSpaces, StepFault, Walk


class DoubleObservations(Walk):
    def observe(self):
        return self.state.astype(np.float64)


class OutsideTheSpace(Walk):
    def observe(self):
        return self.state - np.float32(20)


class NanObservations(Walk):
    def observe(self):
        return self.state * np.float32(np.nan)


class MissingKey(MixedSpaces):
    def observe(self):
        return {"state": self.state.copy()}


class ReusedBuffer(Walk):
    def observe(self):
        self.buffer = getattr(self, "buffer", np.zeros_like(self.state))
        self.buffer[:] = self.state
        return self.buffer


class AlternatingBuffers(Walk):
    def observe(self):
        self.buffers = getattr(self, "buffers", [np.zeros_like(self.state), np.zeros_like(self.state)])[::-1]
        self.buffers[0][:] = self.state
        return self.buffers[0]


class ReusedInfo(Walk):
    def info(self):
        self.kept = getattr(self, "kept", {})
        return self.kept


class ChangedActions(Walk):
    def move(self, actions):
        super().move(actions)
        actions[:] = 0


class IntRewards(StepFault):
    def spoilt(self, obs, rewards, terminated, truncated, info):
        return obs, rewards.astype(int), terminated, truncated, info


class RewardColumns(StepFault):
    def spoilt(self, obs, rewards, terminated, truncated, info):
        return obs, rewards[:, None], terminated, truncated, info


class NanRewards(StepFault):
    def spoilt(self, obs, rewards, terminated, truncated, info):
        return obs, rewards * np.nan, terminated, truncated, info


class IntEnds(StepFault):
    def spoilt(self, obs, rewards, terminated, truncated, info):
        return obs, rewards, terminated, truncated.astype(int), info


class OneDone(StepFault):
    def spoilt(self, obs, rewards, terminated, truncated, info):
        return obs, rewards, terminated | truncated, info


class InfoList(StepFault):
    def spoilt(self, obs, rewards, terminated, truncated, info):
        return obs, rewards, terminated, truncated, [{}] * self.num_envs


class ScalarInfo(Walk):
    def info(self):
        return {"age": 3.0}


class IntMask(Walk):
    def info(self):
        return {"age": np.zeros(self.num_envs), "_age": np.ones(self.num_envs)}


class OrphanMask(Walk):
    def info(self):
        return {"_age": np.ones(self.num_envs, dtype=np.bool_)}


FAULTS = [
    (DoubleObservations, SAME_STEP, r"^reset\(seed=0\), observations: has dtype float64"),
    (OutsideTheSpace, SAME_STEP, r"observations: has values .* outside"),
    (NanObservations, SAME_STEP, r"observations: has values \(from nan"),
    (ReusedBuffer, SAME_STEP, r"^step\(\) 1 after .*, observations: shares memory with the observations of reset"),
    (
        AlternatingBuffers,
        NEXT_STEP,
        r"^step\(\) 2 after .*, observations: shares memory with the observations of reset",
    ),
    (ReusedInfo, SAME_STEP, r"infos: shares memory with the infos"),
    (ChangedActions, SAME_STEP, r"^step\(\) 1 .*: changed the caller's actions"),
    (IntRewards, SAME_STEP, r"rewards: have dtype int64"),
    (RewardColumns, SAME_STEP, r"rewards: has dtype float64 and shape \(3, 1\)"),
    (NanRewards, SAME_STEP, r"rewards: are \[nan"),
    (IntEnds, SAME_STEP, r"truncated: has dtype int64"),
    (OneDone, SAME_STEP, r"Return \(observations, rewards, terminated, truncated, infos\)"),
    (InfoList, SAME_STEP, r"infos: is list .* Return a dict of arrays"),
    (ScalarInfo, SAME_STEP, r"infos\['age'\]: is float 3.0"),
    (IntMask, SAME_STEP, r"infos\['_age'\]: has dtype float64"),
    (OrphanMask, SAME_STEP, r"infos\['_age'\]: is a mask of 'age', which is missing"),
    (
        MissingKey,
        SAME_STEP,
        r"observations: is a dict with the keys \['state'\]. Return a dict with the keys \['age', 'state'\]",
    ),
]


@pytest.mark.parametrize(("kind", "mode", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_fault_is_named(kind, mode, message):
    with pytest.raises(VectorEnvError, match=message):
        check_vector_env(kind(autoreset_mode=mode))
