"""Any Stable-Baselines3 algorithm, trained inside a dream and scored on the real game.

The algorithms are the library's, untouched; what is chosen here are settings that suit a dream: many lanes, short
rollouts, a convolutional reader of latents.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import stable_baselines3
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from jedi_env.checkpoint import Checkpoint
from jedi_env.errors import UsageError, nearest
from jedi_env.sb3 import LatentCnn, make_dream, make_real
from trainers.evaluate import EVALUATION_LANES, EVALUATION_SEED, Score
from trainers.log import progress
from trainers.rules import Rules

FRAME_STACK = 4
ROLLOUT = 32  # steps a lane between two updates: about the length of a dream
MINIBATCH = 512
BUFFER = 50_000  # transitions that an off-policy algorithm keeps: a latent one takes 32 kB


def algorithms() -> dict[str, type[BaseAlgorithm]]:
    """Return the algorithms by name, sb3-contrib's too if it is installed; which actions they take, they know."""
    names = ("PPO", "A2C", "DQN", "SAC", "TD3")
    known: dict[str, type[BaseAlgorithm]] = {name: getattr(stable_baselines3, name) for name in names}
    try:
        import sb3_contrib
    except ImportError:
        return known
    return known | {name: getattr(sb3_contrib, name) for name in ("RecurrentPPO", "QRDQN", "TRPO", "ARS", "TQC")}


def make_algorithm(name: str, checkpoint: Checkpoint, lanes: int, seed: int, horizon: int | None) -> BaseAlgorithm:
    """Return an untrained algorithm on ``lanes`` dreams of ``checkpoint``.

    Args:
        name: one of :func:`algorithms`.
        checkpoint: the dream.
        lanes: dreams side by side.
        seed: of the algorithm and the dreams.
        horizon: dream steps an episode; None: what the checkpoint recommends.

    Raises:
        UsageError: the algorithm is not known, or does not take the dream's actions.
    """
    known = algorithms()
    if name not in known:
        raise UsageError(f"Unknown algorithm {name!r}.{nearest(name, known)} Known here: {', '.join(known)}.")
    dream = make_dream(
        checkpoint, lanes, frame_stack=_stack(checkpoint), horizon="checkpoint" if horizon is None else horizon
    )
    settings: dict[str, Any] = {"seed": seed, "device": "cpu"}
    if issubclass(known[name], OnPolicyAlgorithm | OffPolicyAlgorithm):  # ARS is neither: it reads flat observations
        settings |= {"gamma": 0.985, "policy_kwargs": {"features_extractor_class": LatentCnn}}
    if issubclass(known[name], OnPolicyAlgorithm):
        settings |= {"n_steps": ROLLOUT, "gae_lambda": 0.95}
    if issubclass(known[name], OffPolicyAlgorithm):
        settings |= {"buffer_size": BUFFER}
    clipped = (PPO, known.get("RecurrentPPO", PPO))
    if issubclass(known[name], (A2C, *clipped)):
        settings |= {"ent_coef": 0.01}
    if issubclass(known[name], clipped):
        settings |= {"batch_size": _minibatch(ROLLOUT * lanes), "n_epochs": 4, "learning_rate": 4e-4}
    policy = next(policy for policy in ("MlpPolicy", "MlpLstmPolicy") if policy in known[name].policy_aliases)
    try:
        return known[name](policy, dream, **settings)
    except AssertionError as error:  # so the library says it
        raise UsageError(f"{name} does not take the actions of this dream, {dream.action_space}: {error}") from error


def load_policy(path: Path, name: str) -> BaseAlgorithm:
    """Return the algorithm saved at ``path``, to play with; this unpickles, so the file must be trusted.

    Args:
        path: Stable-Baselines3's zip.
        name: the algorithm that wrote it, one of :func:`algorithms`.

    Raises:
        UsageError: the algorithm is not known, or there is no policy of it at ``path``.
    """
    known = algorithms()
    if name not in known:
        raise UsageError(f"Unknown algorithm {name!r}.{nearest(name, known)} Known here: {', '.join(known)}.")
    if not path.is_file():
        raise UsageError(f"There is no file {path}: write the zip that `jedi-env dream --save` wrote.")
    try:
        return known[name].load(path, device="cpu")
    except Exception as error:  # whatever the library says of a file that is something else
        raise UsageError(f"{path} is no policy of {name}, or of another version: {error}") from error


def _stack(checkpoint: Checkpoint) -> int:
    """Return how many frames a policy sees: as many as the dream remembers, up to ``FRAME_STACK``."""
    return min(FRAME_STACK, checkpoint.world_model.context_length)


def _minibatch(size: int) -> int:
    """Return the smallest minibatch of at least ``MINIBATCH`` that halving a rollout of ``size`` gives."""
    while size >= 2 * MINIBATCH and size % 2 == 0:
        size //= 2
    return size


class Curve(BaseCallback):
    """Records the mean return of dream episodes while an algorithm learns.

    Attributes:
        points: (dream steps, mean return of the last hundred dream episodes), one a rollout.
    """

    def __init__(self) -> None:
        super().__init__()
        self.points: list[tuple[int, float]] = []

    @property
    def final(self) -> float | None:
        """The last mean return; None if no dream episode ended."""
        return self.points[-1][1] if self.points else None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer
        if episodes:
            self.points.append((self.num_timesteps, float(sum(e["r"] for e in episodes) / len(episodes))))


class ProgressBar(BaseCallback):
    """Shows how far an algorithm has come; the library's own needs another package.

    Args:
        total: dream steps.
        title: what is learned.
    """

    def __init__(self, total: int, title: str) -> None:
        super().__init__()
        self._bar = progress(None, total, title)

    def _on_step(self) -> bool:
        self._bar.update(self.training_env.num_envs)
        return True

    def _on_training_end(self) -> None:
        self._bar.close()


def learn(model: BaseAlgorithm, steps: int, title: str) -> Curve:
    """Let ``model`` learn from ``steps`` dream steps, under a progress bar; return how its return rose."""
    curve = Curve()
    model.learn(steps, callback=[curve, ProgressBar(steps, title)])
    return curve


def score_on_reality(
    model: BaseAlgorithm,
    game: str,
    checkpoint: Checkpoint,
    episodes: int,
    on_episode: Callable[[], object] | None = None,
    deterministic: bool = False,
) -> Score:
    """Play ``episodes`` full real games with a policy that was trained in a dream; it runs unchanged.

    The games are played by the rules under which the dream was trained.

    Args:
        model: the algorithm with its policy.
        game: the real game.
        checkpoint: whose encoder shows the policy the real game.
        episodes: full games.
        on_episode: called as each game ends.
        deterministic: the likeliest action instead of a drawn one.
    """
    rules, lanes = Rules.of(checkpoint), min(EVALUATION_LANES, episodes)
    env = make_real(game, lanes, checkpoint, frame_stack=_stack(checkpoint), **rules.whole_games(game))
    env.seed(EVALUATION_SEED)

    def tell(local: dict[str, Any], _: dict[str, Any]) -> None:
        if on_episode is not None and local["done"]:
            on_episode()

    try:
        returns, _ = evaluate_policy(
            model, env, episodes, deterministic=deterministic, callback=tell, return_episode_rewards=True
        )
    finally:
        env.close()
    assert isinstance(returns, list)  # as was asked for
    return Score(game, tuple(float(r) for r in returns), rules.record(game))
