"""Play, for people to watch or to do: one dream, one real game, or both side by side under the same actions.

:func:`play` is the loop; what is played is a :class:`World`, who plays is a :class:`Player`, and it is seen on a
:class:`Screen`. Nothing is learned or scored here: scores are ``trainers/evaluate.py``'s.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from jedi_env.actions import Actions, actions_of
from jedi_env.checkpoint import Checkpoint
from jedi_env.envs.encode import Frames, FrameStack, Pixels, latent_frames, pixel_frames
from jedi_env.envs.face import INFO_KEYS, Keys, plain_keys
from jedi_env.envs.pixels import SIZE
from jedi_env.envs.real import make_pixels
from jedi_env.envs.single import DreamEnv
from jedi_env.envs.window import Window, enlarge
from jedi_env.errors import UsageError
from trainers.players import Action, Player, Wish
from trainers.rules import ATARI_100K, Rules
from trainers.video import Panel, beside

ZOOM = 2  # of what a world draws, in a window

Observation = NDArray[Any]


class World(Protocol):
    """Something to play. Its observations are stacks of frames, which the agents read and people do not."""

    @property
    def actions(self) -> Actions:
        """What the actions are."""
        ...

    @property
    def keys(self) -> Keys:
        """Which keys, by their characters, give which action."""
        ...

    def reset(self, seed: int | None) -> Observation:
        """Begin an episode."""
        ...

    def step(self, action: Action) -> tuple[Observation, bool]:
        """Play one step; return also whether the episode ended."""
        ...

    def panels(self) -> Sequence[Panel]:
        """Return what there is to see."""
        ...

    def score(self) -> float:
        """Return the return of the episode so far."""
        ...


class Screen(Protocol):
    """Where a world is seen."""

    def show(self, panels: Sequence[Panel]) -> None:
        """Show the panels side by side."""
        ...


class WindowScreen:
    """A window; the panels' lines are its title.

    Args:
        fps: pictures a second, at most.
    """

    def __init__(self, fps: int) -> None:
        self._window = Window(fps)

    def show(self, panels: Sequence[Panel]) -> None:
        """Show the panels side by side."""
        self._window.title = "  |  ".join(", ".join(filter(None, panel.lines)) for panel in panels)
        self._window.show(beside(panel.picture for panel in panels).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1))

    def close(self) -> None:
        """Close the window."""
        self._window.close()


@dataclass
class Played:
    """What was played.

    Attributes:
        steps: in all.
        returns: of the episodes that came to their end.
        unfinished: return of the episode that did not.
    """

    steps: int = 0
    returns: list[float] = field(default_factory=list)
    unfinished: float = 0.0


def play(world: World, player: Player, screen: Screen, steps: int | None, seed: int) -> Played:
    """Play until the player has had enough, or for a number of steps; an episode that ends is followed by another.

    Args:
        world: what is played.
        player: who plays.
        screen: shows every state, the first and the last of an episode included.
        steps: None: no limit.
        seed: of the first episode; the others follow from it.
    """
    played = Played()
    observation, first = world.reset(seed), True
    screen.show(world.panels())
    while steps is None or played.steps < steps:
        chosen = player.act(observation, first)
        if chosen is Wish.QUIT:
            break
        ended = chosen is Wish.RESTART
        if chosen is not Wish.RESTART:
            observation, ended = world.step(chosen)
            played.steps += 1
            screen.show(world.panels())
            if ended:
                played.returns.append(world.score())
        first = ended
        if ended:
            observation = world.reset(None)
            screen.show(world.panels())
    played.unfinished = world.score()
    return played


class Dreaming:
    """A world that is a dream.

    Args:
        checkpoint: the dream.
        frame_stack: frames in an observation.
        horizon: steps until an episode is over; None: until the dream itself says so.
        device: where to dream.

    Raises:
        UsageError: the checkpoint carries no decoder, or a wrong argument.
    """

    def __init__(self, checkpoint: Checkpoint, frame_stack: int, horizon: int | None, device: str) -> None:
        self.env = DreamEnv(
            checkpoint=checkpoint,
            frame_stack=frame_stack,
            horizon=horizon,
            device=device,
            info_keys=INFO_KEYS,
            render_mode="rgb_array",
        )
        self.name = f"dream of {checkpoint.game}" if checkpoint.game else "dream"
        self.actions = self.env.face.allowed
        self.keys = _keys_of_dream(self.env, checkpoint)
        self._score, self._age, self._told = 0.0, 0, ""

    def reset(self, seed: int | None, options: dict[str, Any] | None = None) -> Observation:
        """Begin a dream, from its bank or as the options of :meth:`DreamEnv.reset` say."""
        observation, _ = self.env.reset(seed=seed, options=options)
        self._score, self._age, self._told = 0.0, 0, ""
        return observation

    def step(self, action: Action) -> tuple[Observation, bool]:
        """Dream one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._score += reward
        self._age += 1
        minus, _, plus = info["reward_probs"]
        self._told = f"reward -{minus:.2f} +{plus:.2f}, end {info['termination_prob']:.2f}"
        return observation, terminated or truncated

    def panels(self) -> Sequence[Panel]:
        """Return the dream, its return so far, and how likely it thought reward (-1, +1) and end of the last step."""
        picture = self.env.render()
        assert picture is not None  # the render mode is given above
        return [Panel(picture, (self.name, f"return {self._score:g}, step {self._age}", self._told))]

    def score(self) -> float:
        """Return the return of the dream so far."""
        return self._score

    def close(self) -> None:
        """End it."""
        self.env.close()


class Reality:
    """A world that is the real game.

    Args:
        game: one of the 26 games or a Gymnasium id.
        checkpoint: whose encoder makes the observations, and whose rules the game is played by; None: the observations
            are pixels, and the rules are the benchmark's.
        frame_stack: frames in an observation.

    Raises:
        UsageError: there is no such game.
    """

    def __init__(self, game: str, checkpoint: Checkpoint | None, frame_stack: int) -> None:
        frames, memory = pixel_frames(SIZE), 1
        rules = ATARI_100K
        if checkpoint is not None:
            frames, rules = _latents(checkpoint), Rules.of(checkpoint)
            memory = checkpoint.world_model.context_length
        self.env = make_pixels(game, **rules.whole_games(game))
        try:
            self.actions = actions_of(self.env.action_space, game)
        except UsageError:
            self.env.close()
            raise
        self.name = f"real {game}"
        self.keys = _keys_of_game(self.env)
        self.frames: deque[Pixels] = deque(maxlen=memory)
        self.taken: deque[Action] = deque(maxlen=memory - 1)  # between the frames
        self._encode = frames.encode
        self._stack = FrameStack(1, frames, frame_stack)
        self._score, self._age = 0.0, 0

    def reset(self, seed: int | None) -> Observation:
        """Begin a game."""
        pixels, _ = self.env.reset(seed=seed)
        self.frames.clear()
        self.taken.clear()
        self.frames.append(pixels)
        self._stack.begin(np.ones(1, np.bool_), self._encode(pixels[None]))
        self._score, self._age = 0.0, 0
        return self._observation()

    def step(self, action: Action) -> tuple[Observation, bool]:
        """Play one step."""
        pixels, reward, terminated, truncated, _ = self.env.step(np.asarray(action, self.env.action_space.dtype)[()])
        self.frames.append(pixels)
        self.taken.append(action)
        self._stack.push(self._encode(pixels[None]))
        self._score += float(reward)
        self._age += 1
        return self._observation(), terminated or truncated

    def panels(self) -> Sequence[Panel]:
        """Return what the game shows at 64x64, and its score so far."""
        picture = enlarge(self.frames[-1])
        return [Panel(picture, (self.name, f"return {self._score:g}, step {self._age}"))]

    def score(self) -> float:
        """Return the score of the game so far."""
        return self._score

    def close(self) -> None:
        """End it."""
        self.env.close()

    def _observation(self) -> Observation:
        observation: Observation = self._stack.observation()[0]
        return observation


class DreamBesideReality:
    """The real game, and a dream that began where it was and takes the same actions. The player sees the real game.

    A dream that ends (by itself, or at its horizon) begins again from where the real game is by then.

    Args:
        reality: made with the checkpoint of the dream.
        dreaming: the dream.
    """

    def __init__(self, reality: Reality, dreaming: Dreaming) -> None:
        self.reality, self.dreaming = reality, dreaming
        self.actions, self.keys = reality.actions, reality.keys
        self._begun = 0  # dreams, in this game

    def reset(self, seed: int | None) -> Observation:
        """Begin a game, wait for as many frames as the dream remembers, and begin the dream there."""
        observation, ended = self.reality.reset(seed), True
        while len(self.reality.frames) < (self.reality.frames.maxlen or 1):
            observation, ended = self.reality.step(self.actions.blank)
            if ended:
                raise UsageError("This game ends before a dream can remember it: play them one by one.")
        self._begun = 0
        self._sleep(seed)
        return observation

    def step(self, action: Action) -> tuple[Observation, bool]:
        """Play one step in both."""
        observation, ended = self.reality.step(action)
        _, awake = self.dreaming.step(action)
        if awake and not ended:
            self._sleep(None)
        return observation, ended

    def panels(self) -> Sequence[Panel]:
        """Return both, the real game first."""
        (dream,) = self.dreaming.panels()
        name = f"{self.dreaming.name}, no. {self._begun}"
        return [*self.reality.panels(), Panel(dream.picture, (name, *dream.lines[1:]))]

    def score(self) -> float:
        """Return the score of the real game so far."""
        return self.reality.score()

    def _sleep(self, seed: int | None) -> None:
        taken = np.array(self.reality.taken, self.reality.env.action_space.dtype).reshape(-1, *self.actions.shape)
        options = {"frames": np.stack(self.reality.frames), "actions": taken}
        self.dreaming.reset(seed, options)
        self._begun += 1


def _keys_of_dream(env: DreamEnv, checkpoint: Checkpoint) -> Keys:
    """Return which keys give which action in a dream; ask the real game where the checkpoint does not tell."""
    if "action_meanings" not in checkpoint.protocol and checkpoint.game is not None:
        try:
            with closing(make_pixels(checkpoint.game)) as real:
                return _keys_of_game(real)
        except UsageError:  # it is not installed here
            pass
    return env.get_keys_to_action()


def _keys_of_game(env: gym.Env[Any, Any]) -> Keys:
    """Return which keys give which action in a real game; digits where it does not tell."""
    if env.has_wrapper_attr("get_keys_to_action"):
        keys: Keys = env.get_wrapper_attr("get_keys_to_action")()
        return keys
    return plain_keys(actions_of(env.action_space, str(env)))


def _latents(checkpoint: Checkpoint) -> Frames:
    return latent_frames(checkpoint.world_model, checkpoint.contexts.frames.device)
