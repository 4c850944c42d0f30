"""A real game with a vector of actions and rewards of any size: each action says where a dot is, and is paid for it."""

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box

DOT = "DotGame-v0"
LOW, HIGH = (-2.0, 0.0), (2.0, 0.5)
PAYS = 30.0  # a unit of the first number
ENDS = 0.4  # of the second number


class DotGame(gym.Env):
    """The first number of an action sets the dot's column and is paid, the second its row; a high row ends it.

    Images are grey, 80 x 48. A game is cut off after ``limit`` steps.
    """

    metadata = {"render_modes": []}  # noqa: RUF012
    HEIGHT, WIDTH, SIZE = 80, 48, 12

    def __init__(self, limit=20, render_mode=None):
        self.observation_space = Box(0, 255, (self.HEIGHT, self.WIDTH), np.uint8)
        self.action_space = Box(np.array(LOW, np.float32), np.array(HIGH, np.float32))
        self.render_mode = render_mode
        self.limit = limit

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.draw(self.np_random.random(2)), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.steps += 1
        share = (action - LOW) / np.subtract(HIGH, LOW)
        reward = PAYS * float(action[0])
        return self.draw(share), reward, bool(action[1] > ENDS), self.steps >= self.limit, {}

    def draw(self, share):
        image = np.full((self.HEIGHT, self.WIDTH), 20, np.uint8)
        column, row = round(share[0] * (self.WIDTH - self.SIZE)), round(share[1] * (self.HEIGHT - self.SIZE))
        image[row : row + self.SIZE, column : column + self.SIZE] = 230
        return image


gym.register(DOT, DotGame)
