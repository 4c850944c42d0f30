"""Every algorithm that takes the spaces: it learns in a dream, plays the real game, is saved, loaded, and goes on."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from sb3_contrib import ARS, QRDQN, TRPO, RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from tiny_dream import tiny_checkpoint

from jedi_env.envs.real import make_pixels
from jedi_env.sb3 import LatentCnn, make_dream, make_real

pytest.importorskip("ale_py")

LANES, STEPS, HORIZON = 4, 256, 20
SHORT = "ShortBreakout-v0"  # real Breakout, cut after 40 steps: a policy that never serves would play for minutes

READER = {"policy_kwargs": {"features_extractor_class": LatentCnn, "features_extractor_kwargs": {"width": 8}}}
OFF_POLICY: dict[str, Any] = {
    "buffer_size": 1000,
    "learning_starts": 32,
    "batch_size": 32,
    "target_update_interval": 50,
}


class Case(NamedTuple):
    """An algorithm with settings that make it quick."""

    algorithm: type[BaseAlgorithm]
    policy: str
    settings: dict[str, Any]


CASES = {
    "PPO": Case(PPO, "MlpPolicy", {"n_steps": 16, "batch_size": 32, "n_epochs": 2, **READER}),
    "A2C": Case(A2C, "MlpPolicy", {"n_steps": 16, **READER}),
    "DQN": Case(DQN, "MlpPolicy", {**OFF_POLICY, **READER}),
    "QRDQN": Case(QRDQN, "MlpPolicy", {**OFF_POLICY, **READER}),
    "TRPO": Case(TRPO, "MlpPolicy", {"n_steps": 16, "batch_size": 64, **READER}),
    "RecurrentPPO": Case(RecurrentPPO, "MlpLstmPolicy", {"n_steps": 16, "batch_size": 32, "n_epochs": 2, **READER}),
    "ARS": Case(ARS, "LinearPolicy", {"n_delta": 2, "n_eval_episodes": LANES}),  # reads flat observations
}
SLOW = ("QRDQN", "TRPO", "RecurrentPPO")
EACH = [pytest.param(CASES[name], id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name in CASES]


class Steps(BaseCallback):
    """Counts what an algorithm tells its callbacks."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    def _on_step(self) -> bool:
        self.seen.append(self.num_timesteps)
        return True


@pytest.fixture(scope="module")
def checkpoint():
    return tiny_checkpoint(horizon=HORIZON, decoder=True)


@pytest.fixture(autouse=True, scope="module")
def short_game() -> Iterator[None]:
    gymnasium.register(SHORT, lambda render_mode=None: make_pixels("Breakout", max_frames=160, render_mode=render_mode))
    yield
    del gymnasium.registry[SHORT]


def dream_of(checkpoint, seed=0, **arguments) -> VecEnv:
    return make_dream(checkpoint, LANES, seed=seed, device="cpu", dtype="float32", **arguments)


def parameters(model: BaseAlgorithm) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in model.policy.state_dict().values()]


def equal(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def acts(model: BaseAlgorithm, observations: np.ndarray) -> list[np.ndarray]:
    """The likeliest actions, with what a recurrent policy remembers."""
    memory, found = None, []
    for _ in range(3):
        actions, memory = model.predict(observations, memory, deterministic=True)
        found += [actions, *(memory or ())]
    return found


@pytest.mark.parametrize("case", EACH)
def test_it_learns_in_the_dream_and_goes_on_from_a_file(case, checkpoint, tmp_path):
    model = case.algorithm(case.policy, dream_of(checkpoint), seed=0, device="cpu", **case.settings)
    untrained = parameters(model)
    told = Steps()
    model.learn(STEPS, callback=told)
    assert model.num_timesteps >= STEPS
    assert told.seen == list(range(LANES, told.seen[-1] + 1, LANES))  # once a step of all lanes
    assert told.seen[-1] >= STEPS
    assert not equal(untrained, parameters(model))
    if case.algorithm is not ARS:  # it counts the returns of its candidates itself
        assert {episode["r"] % 1 for episode in model.ep_info_buffer} == {0}
        assert 1 <= max(episode["l"] for episode in model.ep_info_buffer) <= HORIZON

    model.save(tmp_path / "model")
    loaded = case.algorithm.load(tmp_path / "model", env=dream_of(checkpoint), device="cpu")
    if isinstance(model, OffPolicyAlgorithm):
        model.save_replay_buffer(tmp_path / "buffer")
        loaded.load_replay_buffer(tmp_path / "buffer")
    observations = np.random.default_rng(0).uniform(-3, 3, (8, *model.observation_space.shape)).astype(np.float32)
    for one, two in zip(acts(model, observations), acts(loaded, observations), strict=True):
        assert np.array_equal(one, two)

    futures = []
    for one in (model, loaded):  # in the same dreams, with the same luck
        set_random_seed(5)
        one.set_env(dream_of(checkpoint, seed=5))
        one.action_space.seed(5)
        one.learn(STEPS, reset_num_timesteps=False)
        futures.append((one.num_timesteps, parameters(one)))
    assert futures[0][0] == futures[1][0] >= 2 * STEPS
    assert equal(futures[0][1], futures[1][1])
    assert not equal(parameters(loaded), untrained)


@pytest.mark.parametrize("case", EACH)
def test_it_is_evaluated_in_the_dream_and_in_reality(case, checkpoint):
    dream, real = dream_of(checkpoint), make_real(SHORT, LANES, checkpoint, seed=0, device="cpu")
    model = case.algorithm(case.policy, dream, seed=0, device="cpu", **case.settings)
    for env, longest in ((dream, HORIZON), (real, 40)):
        returns, lengths = evaluate_policy(model, env, 8, return_episode_rewards=True)
        assert len(returns) == 8
        assert {value % 1 for value in returns} == {0}
        assert 1 <= min(lengths) <= max(lengths) <= longest
    assert set(lengths) == {40}
    real.close()


def test_the_paper_s_game_by_its_own_name(checkpoint):
    real = make_real("Breakout", 2, checkpoint, seed=0, device="cpu", life_loss=True)
    model = PPO("MlpPolicy", dream_of(checkpoint), seed=0, device="cpu", **CASES["PPO"].settings)
    returns, lengths = evaluate_policy(model, real, 2, deterministic=False, return_episode_rewards=True)
    assert all(value >= 0 and value % 1 == 0 for value in returns)
    assert min(lengths) > 5  # a ball takes that long to fall
    real.close()


def test_images_are_read_by_the_library_s_own_network(checkpoint, tmp_path):
    dream = dream_of(checkpoint, obs_type="rgb", frame_stack=2)
    model = PPO("CnnPolicy", dream, n_steps=8, batch_size=32, n_epochs=1, seed=0, device="cpu")
    untrained = parameters(model)
    model.learn(64)
    assert not equal(untrained, parameters(model))
    model.save(tmp_path / "model")
    loaded = PPO.load(tmp_path / "model", device="cpu")
    real = make_real(SHORT, 2, obs_type="rgb", frame_stack=2, seed=0)
    observations = real.reset()
    for _ in range(5):
        actions, _ = model.predict(observations, deterministic=True)
        assert np.array_equal(actions, loaded.predict(observations, deterministic=True)[0])
        observations, *_ = real.step(actions)
    real.close()


def test_callbacks_evaluate_on_reality_and_save(checkpoint, tmp_path):
    real = make_real(SHORT, 2, checkpoint, seed=0, device="cpu")
    evaluation = EvalCallback(
        real, n_eval_episodes=2, eval_freq=16, verbose=0, best_model_save_path=str(tmp_path), log_path=str(tmp_path)
    )
    saving = CheckpointCallback(16, str(tmp_path), "at")
    PPO("MlpPolicy", dream_of(checkpoint), seed=0, device="cpu", **CASES["PPO"].settings).learn(
        STEPS, callback=[evaluation, saving]
    )
    rounds = STEPS // (16 * LANES)
    log = np.load(tmp_path / "evaluations.npz")
    assert log["timesteps"].tolist() == [64 * (i + 1) for i in range(rounds)]
    assert log["results"].shape == (rounds, 2)
    assert {path.name for path in tmp_path.glob("at_*")} == {f"at_{64 * (i + 1)}_steps.zip" for i in range(rounds)}
    assert PPO.load(tmp_path / "best_model", device="cpu").num_timesteps in log["timesteps"]
    real.close()
