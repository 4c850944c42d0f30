"""Plan by forking a dream: try many action sequences in copies of it, take the first action of the best.

Random shooting (the simplest model-predictive control) against an agent without planning, both inside the dream. A
state is cloned once and repeated into as many lanes as there are candidates: one batched model call a planned step.
The copies get noise of their own: with the dream's they would see the very future that it is about to draw.

    python examples/plan_in_a_dream.py Breakout
"""

import sys

import gymnasium as gym
import numpy as np

import jedi_env
from jedi_env.types import DreamState

CANDIDATES, DEPTH = 64, 12


def plan(planner: gym.vector.VectorEnv, state: DreamState, rng: np.random.Generator) -> int:
    """Return the first action of the candidate with the highest expected return from ``state`` (one lane)."""
    planner.reset(seed=int(rng.integers(2**31)), options={"state": state.repeat(CANDIDATES)})
    actions = rng.integers(planner.single_action_space.n, size=(DEPTH, CANDIDATES))
    returns, alive = np.zeros(CANDIDATES), np.ones(CANDIDATES)
    for step in range(DEPTH):
        _, _, _, _, info = planner.step(actions[step])
        expected = info["reward_probs"] @ np.array([-1.0, 0.0, 1.0])  # less noisy than the drawn reward
        returns += alive * expected
        alive *= 1 - info["termination_prob"]
    return int(actions[0, np.argmax(returns)])


def main(checkpoint: str | jedi_env.Checkpoint, episodes: int = 20, horizon: int = 25) -> tuple[float, float]:
    """Return (and print) the mean return of dream episodes with planning and without."""
    env = gym.make("JEDIDream-v0", checkpoint=checkpoint, horizon=horizon, frame_stack=1)
    planner = gym.make_vec(
        "JEDIDream-v0",
        num_envs=CANDIDATES,
        checkpoint=checkpoint,
        horizon=None,
        frame_stack=1,
        info_keys=("reward_probs", "termination_prob"),
    )
    rng = np.random.default_rng(0)
    means = []
    for planning in (True, False):
        total = 0.0
        for episode in range(episodes):
            env.reset(seed=episode)
            ended = False
            while not ended:
                state = env.unwrapped.clone_state()
                action = plan(planner, state, rng) if planning else int(rng.integers(env.action_space.n))
                _, reward, terminated, truncated, _ = env.step(action)
                total += float(reward)
                ended = terminated or truncated
        means.append(total / episodes)
    print(f"return of a dream episode: {means[0]:.2f} with planning, {means[1]:.2f} without")
    return means[0], means[1]


if __name__ == "__main__":
    main(sys.argv[1])
