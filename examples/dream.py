"""Dream with random actions and save what was dreamed as a picture.

python examples/dream.py Breakout dream.png
"""

import sys

import gymnasium as gym
import numpy as np
from PIL import Image

import jedi_env  # noqa: F401  # registers the ids


def main(checkpoint: str, picture: str, steps: int = 12) -> None:
    """Save ``steps`` frames of four dreams, a row a dream."""
    env = gym.make_vec("JEDIDream-v0", num_envs=4, checkpoint=checkpoint, render_mode="rgb_array")
    env.reset(seed=0)
    env.action_space.seed(0)
    columns = []
    for _ in range(steps):
        _, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
        columns.append(np.concatenate(env.render()))
        print(f"rewards {rewards}, ended {terminated | truncated}")
    Image.fromarray(np.concatenate(columns, axis=1)).save(picture)
    env.close()


if __name__ == "__main__":
    main(*sys.argv[1:3])
