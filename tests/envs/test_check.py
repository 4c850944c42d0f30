"""The checker passes what keeps the contract, says what it could not check, and refuses what it cannot play with."""

import subprocess
import sys
from copy import deepcopy

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.wrappers.vector import NumpyToTorch, RecordEpisodeStatistics, TransformReward

from jedi_env import check_vector_env
from jedi_env.errors import UsageError, VectorEnvError
from tests.envs.walks import (
    DISABLED,
    MODES,
    NEXT_STEP,
    SAME_STEP,
    HiddenAges,
    MixedSpaces,
    NoisyWalk,
    Walk,
    cart_pole,
)

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


# ---------------------------------------------------------------- faults that are seen without playing


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


def test_the_seed_may_be_numpys():
    assert check_vector_env(Walk(), seed=np.int64(3), steps=5)
    with pytest.raises(UsageError, match="The seed is -1"):
        check_vector_env(Walk(), seed=-1)
