"""Play the real game with a policy that only ever dreamed; it runs unchanged.

python examples/dream_to_reality.py Breakout Breakout ppo.zip 16
"""

import sys

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

from jedi_env.sb3 import make_real


def main(game: str, checkpoint: str, policy: str, episodes: str) -> None:
    """Score the policy over ``episodes`` full real games."""
    env = make_real(game, n_envs=8, checkpoint=checkpoint)
    env.seed(0)
    model = PPO.load(policy)
    mean, deviation = evaluate_policy(model, env, n_eval_episodes=int(episodes), deterministic=False)
    print(f"{game}: {mean:.2f} +- {deviation:.2f} over {episodes} real games")
    env.close()


if __name__ == "__main__":
    main(*sys.argv[1:5])
