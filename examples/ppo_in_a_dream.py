"""Train Stable-Baselines3's PPO inside a dream and save its policy.

python examples/ppo_in_a_dream.py Breakout ppo.zip 100000
"""

import sys

from stable_baselines3 import PPO

from jedi_env.sb3 import LatentCnn, make_dream


def main(checkpoint: str, policy: str, steps: str) -> None:
    """Learn from ``steps`` dream steps."""
    model = PPO(
        "MlpPolicy",
        make_dream(checkpoint, n_envs=64, horizon=50),
        n_steps=32,
        batch_size=512,
        n_epochs=4,
        gamma=0.985,
        ent_coef=0.01,
        policy_kwargs={"features_extractor_class": LatentCnn},
        seed=0,
        verbose=1,
    )
    model.learn(int(steps))
    model.save(policy)


if __name__ == "__main__":
    main(*sys.argv[1:4])
