"""The checker passes what keeps the contract (Gymnasium's own environments, a toy) and names each planted fault."""

import subprocess
import sys
from copy import deepcopy

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import NumpyToTorch, RecordEpisodeStatistics, TransformReward

from jedi_env import check_vector_env
from jedi_env.errors import UsageError, VectorEnvError

NEXT_STEP, SAME_STEP, DISABLED = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP, AutoresetMode.DISABLED
MODES = list(AutoresetMode)


def cart_pole():
    return gymnasium.wrappers.TimeLimit(gymnasium.make("CartPole-v1").unwrapped, 25)


class Walk(VectorEnv):
    """Every lane starts somewhere, walks left or right, and is truncated at ``horizon`` or terminated at the walls.

    Everything is kept as the contract has it; the faults below are planted by overriding the small methods.
    """

    def __init__(self, num_envs=3, autoreset_mode=SAME_STEP, horizon=6):
        self.num_envs = num_envs
        self.mode = autoreset_mode
        self.metadata = {"autoreset_mode": autoreset_mode}
        self.horizon = horizon
        self.single_observation_space = Box(-10, 10, (2,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = Discrete(2)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.generators = [np.random.default_rng() for _ in range(num_envs)]
        self.state = np.zeros((num_envs, 2), dtype=np.float32)  # where, and for how long
        self.ended = np.zeros(num_envs, dtype=np.bool_)

    def seeds(self, seed):
        return [seed + lane for lane in range(self.num_envs)] if isinstance(seed, int) else seed

    def seeded(self, seed, lane):
        return np.random.default_rng(self.seeds(seed)[lane])

    def begin(self, lanes):
        for lane in np.flatnonzero(lanes):
            self.state[lane] = self.generators[lane].uniform(-0.5, 0.5), 0

    def observe(self):
        return self.state.copy()

    def mask(self, options):
        return (options or {}).get("reset_mask", np.ones(self.num_envs, dtype=np.bool_))

    def info(self):
        return {"age": self.state[:, 1].astype(int), "_age": np.ones(self.num_envs, dtype=np.bool_)}

    def move(self, actions):
        self.state[:, 0] += np.where(actions == 1, 0.25, -0.25)

    def reset(self, *, seed=None, options=None):
        lanes = self.mask(options)
        if seed is not None:
            for lane in np.flatnonzero(lanes):
                self.generators[lane] = self.seeded(seed, lane)
        self.begin(lanes)
        self.ended = self.ended & ~lanes
        return self.observe(), self.info()

    def restart(self, ended, info):
        info["final_obs"] = np.full(self.num_envs, None, dtype=object)
        for lane in np.flatnonzero(ended):
            info["final_obs"][lane] = self.observe()[lane]
        info["_final_obs"] = ended.copy()
        self.begin(ended)

    def step(self, actions):
        if self.mode is DISABLED and self.ended.any():
            raise RuntimeError("reset first")
        self.move(actions)
        self.state[:, 1] += 1
        self.begin(self.ended)  # what NEXT_STEP owes
        terminated = (np.abs(self.state[:, 0]) > 1) & ~self.ended
        truncated = (self.state[:, 1] >= self.horizon) & ~self.ended
        rewards = np.where(self.ended, 0.0, 1.0)
        ended = terminated | truncated
        info = self.info()
        if self.mode is SAME_STEP and ended.any():
            self.restart(ended, info)
        self.ended = ended & (self.mode is not SAME_STEP)
        return self.observe(), rewards, terminated, truncated, info


class NoisyWalk(Walk):
    """Steps draw random numbers too."""

    def move(self, actions):
        noise = [generator.normal() for generator in self.generators]
        self.state[:, 0] += np.where(actions == 1, 0.25, -0.25) + 0.1 * np.array(noise, dtype=np.float32)


class MixedSpaces(Walk):
    """Dict observations with a part for every kind of array, and actions that are a tuple."""

    def __init__(self, num_envs=3, autoreset_mode=SAME_STEP):
        super().__init__(num_envs, autoreset_mode)
        self.single_observation_space = Dict({"state": Box(-10, 10, (2,), np.float32), "age": Discrete(100)})
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.single_action_space = Tuple([Discrete(2), Box(-1, 1, (1,), np.float32)])
        self.action_space = batch_space(self.single_action_space, num_envs)

    def observe(self):
        return {"state": self.state.copy(), "age": self.state[:, 1].astype(np.int64)}

    def move(self, actions):
        super().move(actions[0])
        self.state[:, 0] += 0.01 * actions[1][:, 0]

    def restart(self, ended, info):  # the dense layout: an entry for every lane
        info["final_obs"], info["_final_obs"] = self.observe(), ended.copy()
        self.begin(ended)


# ---------------------------------------------------------------- what is right passes


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", [Walk, NoisyWalk, MixedSpaces])
def test_the_toy_passes_with_every_check_and_no_note(kind, mode):
    env = kind(autoreset_mode=mode)
    report = check_vector_env(env, seed=3)
    assert report.autoreset_mode is mode
    assert report.autoreset
    assert report.seeding
    assert report.lane_seeds
    assert report.random_starts
    assert report.partial_reset
    assert report.episodes > 3
    assert report.notes == ()
    assert env.closed


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ends", [(4, 9, 12), (4, 50, 60), (60, 50, 4), (1, 2, 3)])
def test_lanes_may_end_at_their_own_times(ends, mode):
    kind = type("Ages", (HiddenAges,), {"ends": ends})
    assert check_vector_env(kind(autoreset_mode=mode)).partial_reset


@pytest.mark.parametrize("mode", MODES)
def test_sync_vector_env_passes(mode):
    report = check_vector_env(SyncVectorEnv([cart_pole] * 3, autoreset_mode=mode))
    assert report.autoreset_mode is mode
    assert report.autoreset
    assert report.seeding
    assert report.lane_seeds
    assert report.random_starts
    assert report.partial_reset
    assert ["takes 'reset_mask' out of the caller's dict" in note for note in report.notes] == [True]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # Python 3.12 on forks, which gymnasium uses
def test_async_vector_env_passes():
    assert check_vector_env(AsyncVectorEnv([cart_pole] * 2)).partial_reset


def test_a_wrapped_environment_passes():
    assert check_vector_env(RecordEpisodeStatistics(SyncVectorEnv([cart_pole] * 2))).autoreset


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Blackjack-v1", "Pendulum-v1"])
@pytest.mark.parametrize("mode", MODES)
def test_other_spaces_and_random_dynamics_pass(env_id, mode):
    vector_kwargs = {"autoreset_mode": mode}
    env = gymnasium.make_vec(env_id, num_envs=3, vectorization_mode="sync", vector_kwargs=vector_kwargs)
    report = check_vector_env(env)
    assert report.autoreset
    assert report.random_starts == (env_id != "FrozenLake-v1")


def test_lanes_may_differ_in_their_bounds():
    def bounded(high):
        env = cart_pole()
        env.observation_space = Box(-high, high, (4,), np.float32)
        return env

    env_fns = [lambda: bounded(5), lambda: bounded(6)]
    assert check_vector_env(SyncVectorEnv(env_fns, observation_mode="different")).autoreset


@pytest.mark.parametrize("mode", MODES)
def test_an_environment_may_show_nothing(mode):
    class Dark(Walk):
        def observe(self):
            return np.zeros_like(self.state)

    report = check_vector_env(Dark(autoreset_mode=mode))
    assert report.autoreset
    assert not report.random_starts


def ale(mode):
    pytest.importorskip("ale_py")
    return gymnasium.make_vec(
        "ALE/Breakout-v5", num_envs=2, num_threads=1, max_num_frames_per_episode=80, autoreset_mode=mode
    )


def float_rewards(env):
    env.metadata = dict(env.metadata)
    return TransformReward(env, lambda rewards: rewards.astype(np.float64))


@pytest.mark.slow
def test_ale_passes_once_its_metadata_is_its_own_and_its_rewards_are_floats():
    report = check_vector_env(float_rewards(ale(NEXT_STEP)))
    assert report.autoreset
    assert report.lane_seeds
    assert report.partial_reset
    assert report.notes == ()


def test_three_faults_of_ale_are_named():
    with pytest.raises(VectorEnvError, match=r"^metadata: .* instances share"):
        check_vector_env(ale(NEXT_STEP))
    env = ale(NEXT_STEP)
    env.metadata = dict(env.metadata)
    with pytest.raises(VectorEnvError, match=r"rewards: have dtype int32"):
        check_vector_env(env)
    with pytest.raises(VectorEnvError, match=r"final_obs.*has no mask"):
        check_vector_env(float_rewards(ale(SAME_STEP)))


def test_a_fault_of_gymnasiums_native_cart_pole_is_named():
    """It ignores ``reset_mask`` and resets every lane."""
    with pytest.raises(VectorEnvError, match=r"reset_mask.*changed the observation of lane 1"):
        check_vector_env(gymnasium.make_vec("CartPole-v1", num_envs=3))


# ---------------------------------------------------------------- what could not be checked is said


def test_one_lane_has_no_partial_reset():
    report = check_vector_env(Walk(num_envs=1))
    assert not report.partial_reset
    assert report.lane_seeds
    assert report.notes == ("Partial resets were not checked: they need at least 2 lanes.",)


def test_no_end_is_reported():
    report = check_vector_env(Walk(horizon=50, autoreset_mode=NEXT_STEP), steps=2)
    assert not report.autoreset
    assert report.episodes == 0
    assert report.notes == ("No episode ended within 2 steps, so autoreset was not checked: give more steps.",)


def test_a_nondeterministic_environment_is_not_asked_to_repeat_itself():
    class Unseeded(NoisyWalk):
        def seeded(self, seed, lane):
            return np.random.default_rng()

    env = Unseeded()
    env.spec = gymnasium.envs.registration.EnvSpec("Unseeded-v0", entry_point=Unseeded, nondeterministic=True)
    report = check_vector_env(env)
    assert (report.seeding, report.lane_seeds, report.autoreset, report.partial_reset) == (False, False, True, True)
    assert "nondeterministic" in report.notes[0]
    with pytest.raises(VectorEnvError, match="gave another observation the second time"):
        check_vector_env(Unseeded())


def test_refused_options_are_reported_where_they_are_optional():
    class Whole(Walk):
        def reset(self, *, seed=None, options=None):
            if options or not isinstance(seed, int | None):
                raise TypeError("not me")
            return super().reset(seed=seed)

    report = check_vector_env(Whole())
    assert (report.lane_seeds, report.partial_reset, report.autoreset) == (False, False, True)
    assert [note.split(" accepted")[0] for note in report.notes] == [
        "A sequence of seeds, one a lane, is not",
        "Partial resets are not",
    ]
    with pytest.raises(VectorEnvError, match="Mode DISABLED leaves resets to the caller"):
        check_vector_env(Whole(autoreset_mode=DISABLED))


def test_a_reset_that_goes_on_with_the_same_game_is_noted_and_allowed():
    class Lives(Walk):
        """After two of three ends the walker stays where it is, as in a game with lives."""

        def begin(self, lanes):
            self.lives = getattr(self, "lives", np.zeros(self.num_envs, dtype=int))
            over = lanes & (np.abs(self.state[:, 0]) <= 1) & (self.state[:, 1] < self.horizon)
            super().begin(over)
            self.state[lanes & ~over, 0] /= 2

        def observe(self):
            return np.stack([np.minimum(np.abs(self.state[:, 0]), 0.5), self.state[:, 0] * 0], 1)

    report = check_vector_env(Lives(horizon=10_000))
    assert report.autoreset
    assert "Every episode began with the observation that the one before ended with" in report.notes[-1]


# ---------------------------------------------------------------- faults


class NoMode(Walk):
    def __init__(self, num_envs=3, autoreset_mode=SAME_STEP):
        super().__init__(num_envs, autoreset_mode)
        self.metadata = {"autoreset_mode": "SameStep"}


class SharedMetadata(Walk):
    metadata = {"autoreset_mode": SAME_STEP}  # noqa: RUF012

    def __init__(self, num_envs=3, autoreset_mode=SAME_STEP):
        super().__init__(num_envs, autoreset_mode)
        del self.metadata
        self.metadata["autoreset_mode"] = autoreset_mode


class UnbatchedSpace(Walk):
    def __init__(self, num_envs=3, autoreset_mode=SAME_STEP):
        super().__init__(num_envs, autoreset_mode)
        self.observation_space = self.single_observation_space


class NoLanes(Walk):
    def __init__(self, num_envs=3, autoreset_mode=SAME_STEP):
        super().__init__(num_envs, autoreset_mode)
        self.num_envs = 0


class DoubleObservations(Walk):
    def observe(self):
        return self.state.astype(np.float64)


class OutsideTheSpace(Walk):
    def observe(self):
        return self.state - np.float32(20)


class NanObservations(Walk):
    def observe(self):
        return self.state * np.float32(np.nan)


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


class ReusedInfo(Walk):
    def info(self):
        self.kept = getattr(self, "kept", {})
        return self.kept


class KeptActions(Walk):
    """Moves by the last two actions, but keeps the caller's array."""

    def reset(self, *, seed=None, options=None):
        self.last = np.zeros(self.num_envs, dtype=int)
        return super().reset(seed=seed, options=options)

    def move(self, actions):
        super().move(actions)
        self.state[:, 0] += 0.1 * self.last
        self.last = actions


class ChangedActions(Walk):
    def move(self, actions):
        super().move(actions)
        actions[:] = 0


class StepFault(Walk):
    def step(self, actions):
        return self.spoilt(*super().step(actions))


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


class HiddenAges(Walk):
    """Lanes that grow old without showing it, each to an age of its own."""

    ends = (4, 9, 12)

    def __init__(self, num_envs=3, autoreset_mode=SAME_STEP):
        super().__init__(num_envs, autoreset_mode, horizon=np.array(self.ends))

    def move(self, actions):
        self.state[:, 0] += np.where(actions == 1, 0.01, -0.01)

    def observe(self):
        return self.state * np.float32([1, 0])

    def info(self):
        return {}


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


class MissingKey(MixedSpaces):
    def observe(self):
        return {"state": self.state.copy()}


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


class ClosesOnce(Walk):
    def close(self, **kwargs):
        if self.closed:
            raise OSError("closed already")
        super().close(**kwargs)


class NeverClosed(Walk):
    def close(self, **kwargs):
        pass


FAULTS = [
    (NoMode, SAME_STEP, r"^metadata\['autoreset_mode'\]: is 'SameStep'"),
    (SharedMetadata, SAME_STEP, r"^metadata: .* instances share"),
    (UnbatchedSpace, SAME_STEP, r"^observation_space: .*batch_space\(self.single_observation_space"),
    (NoLanes, SAME_STEP, r"^num_envs: is 0"),
    (DoubleObservations, SAME_STEP, r"^reset\(seed=0\), observations: has dtype float64"),
    (OutsideTheSpace, SAME_STEP, r"observations: has values .* outside"),
    (NanObservations, SAME_STEP, r"observations: has values \(from nan"),
    (ReusedBuffer, SAME_STEP, r"^step\(\) 1 after .*, observations: shares memory with the observations of reset"),
    (
        AlternatingBuffers,
        NEXT_STEP,
        r"^step\(\) 2 after .*, observations: shares memory with the observations of reset",
    ),
    (ShownState, SAME_STEP, r"gives another observation once the caller overwrites"),
    (ReusedInfo, SAME_STEP, r"infos: shares memory with the infos"),
    (KeptActions, SAME_STEP, r"gives another observation once the caller overwrites"),
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
    (
        MissingKey,
        SAME_STEP,
        r"observations: is a dict with the keys \['state'\]. Return a dict with the keys \['age', 'state'\]",
    ),
    (IgnoredSeed, SAME_STEP, r"reset\(seed=0\): gave another observation the second time"),
    (UnseededNoise, SAME_STEP, r"^step 1 after reset\(seed=0\): gave another observation the second time"),
    (OneSeedForAll, SAME_STEP, r"starts all 3 lanes alike"),
    (DefaultSeed, SAME_STEP, r"reset\(\) without a seed: gave the same start"),
    (JoinedSeeds, SAME_STEP, r"starts lane \d otherwise than .* although its own seed is the same"),
    (ResetReseeds, NEXT_STEP, r"^reset\(\) \d+ steps after reset\(seed=0\): gave another observation the second time"),
    (ClosesOnce, SAME_STEP, r"close\(\) a second time: failed \(OSError"),
    (NeverClosed, SAME_STEP, r"closed: is False after close"),
]


@pytest.mark.parametrize(("kind", "mode", "message"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_fault_is_named(kind, mode, message):
    with pytest.raises(VectorEnvError, match=message):
        check_vector_env(kind(autoreset_mode=mode))


def test_a_missing_attribute_is_named():
    env = Walk()
    del env.single_action_space
    with pytest.raises(VectorEnvError, match=r"^single_action_space: is missing"):
        check_vector_env(env)


# ---------------------------------------------------------------- what the caller must not do


def test_what_is_no_vector_env_is_refused():
    with pytest.raises(UsageError, match=r"not CartPoleEnv: .*env_checker"):
        check_vector_env(cart_pole().unwrapped)
    env = Walk()
    env.close()
    with pytest.raises(UsageError, match="closed"):
        check_vector_env(env)
    with pytest.raises(UsageError, match="steps is 0"):
        check_vector_env(Walk(), steps=0)


def test_tensors_are_refused_with_a_way_out():
    pytest.importorskip("torch")
    with pytest.raises(UsageError, match=r"is a torch.Tensor, but .* output='numpy'"):
        check_vector_env(NumpyToTorch(SyncVectorEnv([cart_pole] * 2)))


def test_the_environments_own_spaces_keep_their_generators():
    env = Walk()
    env.action_space.seed(5)
    before = deepcopy(env.action_space.np_random.bit_generator.state)
    check_vector_env(env)
    assert env.action_space.np_random.bit_generator.state == before


def test_it_needs_neither_torch_nor_stable_baselines3():
    code = "import sys, jedi_env; jedi_env.check_vector_env; print({'torch', 'stable_baselines3'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
