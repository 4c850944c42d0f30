"""``jedi-env play``."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from jedi_env.arguments import check_flags
from jedi_env.errors import UsageError
from trainers.commands.common import open_dream

if TYPE_CHECKING:
    from trainers.play import Screen, World
    from trainers.players import Player

VIDEO_STEPS = 300

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Play:
    """Play inside a dream yourself, in a window; or watch an agent, or write a video.

    Keys: w a s d or the arrows, and space; digits where a game has no joystick; where actions are vectors, a d and s w
    are the bounds of their first two numbers, and digits those of the others. r begins anew, escape ends. The title
    of the window tells the return, and how likely the dream thought reward and end of the last step.

    Attributes:
        dream: a game with a dream on this machine (see ``jedi-env list``), or a checkpoint folder, or hub://owner/repo;
            with --real also any game or Gymnasium id with images.
        real: play the real game instead.
        side_by_side: play the real game, and see a dream beside it that began there and takes the same actions; a dream
            that ends begins again from where the real game is by then.
        agent: let the native agent of the checkpoint play.
        policy: let a Stable-Baselines3 policy play (its zip, as written by ``jedi-env dream --save``). Loading it runs
            code that may be hidden in it: only take a file that you trust.
        algo: the algorithm that wrote --policy.
        fps: steps a second, at most; a game runs at 15 (4 emulator frames a step).
        seed: of the game, the dream and the agent's draws.
        horizon: dream steps until an episode is over; default: no limit.
        steps: stop after so many; default: 300 for a video, else no limit.
        record: write a video (.mp4 or .gif) and open no window; without --agent or --policy, of random play.
        device: where to dream: auto, cpu, cuda, cuda:1, mps.
        json: print JSON.
    """

    dream: Positional[str]
    real: bool = False
    side_by_side: bool = False
    agent: bool = False
    policy: Path | None = None
    algo: str = "PPO"
    fps: int = 15
    seed: int = 0
    horizon: int | None = None
    steps: int | None = None
    record: Path | None = None
    device: str = "auto"
    json: bool = False

    def run(self, rest: list[str]) -> None:
        """Play."""
        from trainers.play import WindowScreen, play
        from trainers.video import Video

        check_flags(("--fps", self.fps, 1), ("--seed", self.seed, 0))
        check_flags(("--steps", 1 if self.steps is None else self.steps, 1))
        if self.real and self.side_by_side:
            raise UsageError("--real and --side-by-side are two ways to play: write one of them.")
        if self.agent and self.policy is not None:
            raise UsageError("--agent and --policy both want to play: write one of them.")
        steps = VIDEO_STEPS if self.steps is None and self.record is not None else self.steps
        with ExitStack() as opened:
            video = None if self.record is None else Video(self.record, self.fps)
            world, player = self._begin(opened)
            screen: Screen
            if video is None:
                screen = opened.enter_context(closing(WindowScreen(self.fps)))
            else:
                screen = opened.enter_context(video)
            played = play(world, player, screen, steps, self.seed)
        if self.json:
            print(json.dumps({**asdict(played), "record": None if self.record is None else str(self.record)}))
            return
        returns = ", ".join(f"{score:g}" for score in played.returns) or "none"
        print(
            f"{played.steps} steps; returns of whole episodes: {returns}; of the unfinished last: {played.unfinished:g}"
        )
        if self.record is not None:
            print(f"Video: {self.record}")

    def _begin(self, opened: ExitStack) -> tuple[World, Player]:
        """Return what is played and who plays."""
        from trainers.evaluate import agent_of
        from trainers.play import DreamBesideReality, Dreaming, Reality
        from trainers.players import Chance, Native, Person, Sb3
        from trainers.randomness import Purpose, torch_rng

        named = not self.dream.startswith("hub://") and not Path(self.dream).is_dir()
        no_dream = self.real and named and not self.agent and self.policy is None  # nor is one needed
        checkpoint = None if no_dream else open_dream(self.dream)
        game = self.dream if checkpoint is None else checkpoint.game
        player: Player | None = None
        stack = 1
        if self.agent and checkpoint is not None:
            agent = agent_of(checkpoint)
            stack = agent.config.frame_stack
            player = Native(agent, torch_rng(self.seed, 0, Purpose.EVALUATE, checkpoint.contexts.frames.device))
        elif self.policy is not None and checkpoint is not None:
            player = Sb3(self.policy, self.algo, checkpoint)
            stack = player.frame_stack

        reality: Reality | None = None
        if self.real or self.side_by_side:
            if game is None:
                raise UsageError("This dream names no real game to play.")
            reality = Reality(game, checkpoint, stack)
            opened.enter_context(closing(reality))
        world: World | None = reality
        if checkpoint is not None and not self.real:
            dreaming = Dreaming(checkpoint, stack, self.horizon, self.device)
            opened.enter_context(closing(dreaming))
            world = dreaming if reality is None else DreamBesideReality(reality, dreaming)
        assert world is not None  # without a checkpoint it is the real game
        if player is None and self.record is not None:
            player = Chance(world.actions, self.seed)
        if player is None:
            player = Person(world.keys, world.actions.blank)
            logger.info("Keys: %s; r begins anew, escape ends.", _told(world.keys))
        return world, player


def _told(keys: Mapping[tuple[str, ...], object]) -> str:
    return ", ".join(f"{'+'.join('space' if key == ' ' else key for key in pressed)}" for pressed in keys)
