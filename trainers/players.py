"""Who plays a single world step by step: a person at the keyboard, an agent, or chance.

The keyboard is read through pygame, which is imported when a person begins to play. Many lanes at once are
``trainers/policy.py``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from jedi_env.actions import Actions, as_actions
from jedi_env.checkpoint import Checkpoint
from jedi_env.errors import UsageError
from trainers.agent import ActorCritic

Observation = NDArray[Any]
Action = Any  # an int, or a vector: the game says


class Wish(Enum):
    """What a person may want instead of an action."""

    QUIT = "quit"
    RESTART = "restart"


class Player(Protocol):
    """Chooses the next action."""

    def act(self, observation: Observation, first: bool) -> Action | Wish:
        """Return an action, or a wish.

        Args:
            observation: a stack of frames, newest last.
            first: an episode has just begun.
        """
        ...


class Person:
    """A person at the keyboard: w a s d, the arrows, space, digits; r begins anew, escape or closing the window ends.

    A key counts in a step if it is down, or was pressed since the last one. Of the actions whose keys are all pressed,
    the one with the most keys is taken; without any it is ``idle``.

    Args:
        keys: which keys, by their characters, give which action.
        idle: the action of no key.

    Raises:
        UsageError: pygame is not installed.
    """

    def __init__(self, keys: Mapping[tuple[str, ...], Action], idle: Action = 0) -> None:
        try:
            import pygame
        except ImportError as error:
            raise UsageError("Playing yourself needs pygame: pip install 'jedi-env[play]'.") from error
        self._pygame = pygame
        arrows = {pygame.K_UP: "w", pygame.K_DOWN: "s", pygame.K_LEFT: "a", pygame.K_RIGHT: "d"}
        letters = {ord(key): key for combination in keys for key in combination}
        self._characters = {**arrows, **letters}
        self._keys = sorted(keys.items(), key=lambda item: -len(item[0]))  # stable: of equals, the first
        self._idle = idle
        self._held: set[int] = set()

    def act(self, observation: Observation, first: bool) -> Action | Wish:
        """Return what the keyboard says."""
        pygame = self._pygame
        pressed = set(self._held)
        wish: Wish | None = None
        for event in pygame.event.get():
            if event.type == pygame.QUIT or (event.type == pygame.KEYDOWN and event.key == pygame.K_ESCAPE):
                return Wish.QUIT
            if event.type == pygame.KEYDOWN and event.key == pygame.K_r:
                wish = Wish.RESTART
            elif event.type == pygame.KEYDOWN:
                self._held.add(event.key)
                pressed.add(event.key)
            elif event.type == pygame.KEYUP:
                self._held.discard(event.key)
            elif event.type == pygame.WINDOWFOCUSLOST:  # no release of a key is told any more
                self._held.clear()
        if wish is not None:
            return wish
        down = {self._characters[key] for key in pressed if key in self._characters}
        return next((action for keys, action in self._keys if down.issuperset(keys)), self._idle)


class Chance:
    """Uniformly random actions.

    Args:
        actions: the game's; a number is so many discrete ones.
        seed: of the draws.
    """

    def __init__(self, actions: int | Actions, seed: int) -> None:
        self._actions = as_actions(actions)
        self._rng = np.random.default_rng(seed)

    def act(self, observation: Observation, first: bool) -> Action:
        """Return a random action."""
        return self._actions.uniform(self._rng, 1)[0]


class Native:
    """The trainers' own agent; it sees latents.

    Args:
        agent: in evaluation mode.
        generator: draws the actions; the agent is on its device.
    """

    def __init__(self, agent: ActorCritic, generator: torch.Generator) -> None:
        self._agent, self._generator = agent, generator
        self._memory = agent.initial(1, generator.device)

    @torch.no_grad()
    def act(self, observation: Observation, first: bool) -> Action:
        """Return an action drawn from the agent's policy."""
        device = self._generator.device
        if first:
            self._memory = self._agent.initial(1, device)
        opinion = self._agent(torch.from_numpy(observation)[None].to(device), self._memory)
        self._memory = opinion.memory
        policy = self._agent.policy
        return policy.actions(policy.draw(opinion.logits, self._generator))[0].cpu().numpy()[()]


class Sb3:
    """A Stable-Baselines3 policy that was trained in latents of the dream, such as ``jedi-env dream --save`` wrote.

    Loading it unpickles: only take a file that you trust.

    Args:
        path: the library's zip.
        algo: the algorithm that wrote it.
        checkpoint: the dream that it shall play in.

    Raises:
        UsageError: no such file, no policy of that algorithm, or one that reads something else.
    """

    def __init__(self, path: Path, algo: str, checkpoint: Checkpoint) -> None:
        from trainers.sb3 import load_policy

        self._model = load_policy(path, algo)
        model = checkpoint.world_model
        channels, *rest = model.frame_shape
        space, actions = self._model.observation_space, self._model.action_space
        shape = space.shape or (0,)
        stack = shape[0] // channels
        fits = shape == (stack * channels, *rest) and 1 <= stack <= model.context_length and space.dtype == np.float32
        if not fits or actions != model.actions.space:
            raise UsageError(
                f"{path} is a policy for {space} and {actions}, but the frames of this dream are {model.frame_shape} "
                f"and its actions {model.actions.space}: take one that was trained in latents of this dream."
            )
        self.frame_stack = stack
        self._memory: Any = None

    def act(self, observation: Observation, first: bool) -> Action:
        """Return an action drawn from the policy."""
        action, self._memory = self._model.predict(
            observation, None if first else self._memory, np.array([first]), deterministic=False
        )
        return action[()]
