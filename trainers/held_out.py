"""Held-out real play: whole games that no training saw, with ALE's RAM, and segments of it to dream on from.

In memory and read-only, unlike the replay: a few thousand steps. It knows nothing of what world models do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from jedi_env.actions import actions_of
from jedi_env.envs.atari import life_lost
from jedi_env.envs.real import make_pixels
from jedi_env.types import Segment
from trainers.policy import Policy
from trainers.ram import Bytes, Twin
from trainers.rules import Rules

HELD_OUT = 0x0F1DE117  # in the seed of every game played here and of none that a training plays
BLOCK = 200  # steps of a game that a bootstrap keeps together

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class HeldOut:
    """Real play, a row an observation; the games stand one after another.

    An episode that ends within a game (a lost life) shares its last observation with the next one's first.

    Attributes:
        pixels: uint8 ``(N, 64, 64, 3)``.
        actions, rewards, ended: ``(N, ...)``, of the transition from the row; in a game's last row nothing is done.
        games: int64 ``(N,)``, which game the row is of.
        first, last: int64 ``(N,)``, the first and last row of the episode that the row's transition is of.
        blocks: int64 ``(N,)``, the row's :data:`BLOCK` of steps.
        ram: uint8 ``(N, 128)``, or None.
    """

    pixels: npt.NDArray[np.uint8]
    actions: npt.NDArray[Any]
    rewards: npt.NDArray[np.float32]
    ended: npt.NDArray[np.bool_]
    games: Ints
    first: Ints
    last: Ints
    blocks: Ints
    ram: Bytes | None

    @property
    def transitions(self) -> Ints:
        """The rows from which an action was taken."""
        return np.flatnonzero(self.first < self.last)

    def segments(self, starts: Ints, context: int, horizon: int) -> tuple[Segment, Ints]:
        """Return segments of ``context`` observations up to each start and ``horizon`` steps after it.

        Before an episode's first observation that one is repeated, as in every dream's context; beyond its last one the
        mask is False.

        Returns:
            The segments, and the rows ``(B, horizon + 1)`` of the observations from the start on.
        """
        rows = starts[:, None] + np.arange(1 - context, horizon + 1)
        first, last = self.first[starts, None], self.last[starts, None]
        inside = np.clip(rows, first, last)
        mask = (rows[:, :-1] >= first) & (rows[:, :-1] < last)
        took = inside[:, :-1]
        actions = self.actions[took]
        actions[~mask] = self.actions[-1]
        segment = Segment(
            pixels=torch.from_numpy(self.pixels[inside]),
            actions=torch.from_numpy(actions),
            rewards=torch.from_numpy(np.where(mask, self.rewards[took], 0).astype(np.float32)),
            terminated=torch.from_numpy(self.ended[took] & mask),
            mask=torch.from_numpy(mask),
        )
        return segment, inside[:, context - 1 :]


def play_games(
    game: str,
    policy: Policy,
    steps: int,
    seed: tuple[int, ...],
    rules: Rules,
    *,
    twin: Twin | None = None,
    on_step: Callable[[], object] | None = None,
) -> HeldOut:
    """Play ``steps`` steps of the real game, the last game cut off.

    Args:
        game: one of the 26 games or a Gymnasium id.
        policy: chooses the actions.
        steps: transitions.
        seed: game i is seeded by this, :data:`HELD_OUT` and i.
        rules: those of the training.
        twin: asked for the RAM of every observation.
        on_step: called at each step.
    """
    played: list[HeldOut] = []
    with closing(make_pixels(game, **rules.whole_games(game))) as env:
        blank = actions_of(env.action_space, game).blank
        left = steps
        while left > 0:
            entropy = np.random.SeedSequence((*seed, HELD_OUT, len(played)))
            now, info = env.reset(seed=int(entropy.generate_state(1)[0] >> 1))
            noops, lives, first = info.get("frame_number", 0), info.get("lives", 0), True
            seen, took = [now], list[tuple[Any, float, bool]]()
            over = False
            while not over and left > 0:
                action = policy.act(now[None], np.array([first]))[0]
                now, reward, terminated, truncated, info = env.step(np.asarray(action, env.action_space.dtype)[()])
                left, over = left - 1, terminated or truncated
                before, lives = lives, info.get("lives", 0)
                lost = rules.life_loss and life_lost(before, lives)
                first = terminated or lost
                seen.append(now)
                took.append((action, float(reward), first))
                if on_step is not None:
                    on_step()
            ram = None
            if twin is not None:
                ram = twin.play(noops, [row[0] for row in took], [row[1] for row in took], np.stack(seen))
            played.append(_one_game(seen, took, blank, ram))
    return _join(played)


def event_starts(play: HeldOut, number: int, steps: Sequence[int], rng: np.random.Generator) -> Ints:
    """Return up to ``number`` starts so that an event comes at each of ``steps`` equally often.

    The kinds of event (reward above 0, below 0, end) take turns, those of them that occur. No event comes twice at a
    step, until all of its kind have been there.
    """
    reachable: dict[int, list[npt.NDArray[np.intp]]] = {}
    for step in steps:
        kinds = [np.flatnonzero(kind) for kind in (play.rewards > 0, play.rewards < 0, play.ended)]
        kinds = [rows[rows - (step - 1) >= play.first[rows]] for rows in kinds]
        reachable[step] = [rng.permutation(rows) for rows in kinds if len(rows)]
    starts: list[int] = []
    for turn in range(number):
        step, again = steps[turn % len(steps)], turn // len(steps)
        if kinds := reachable[step]:
            rows = kinds[again % len(kinds)]
            starts.append(int(rows[again // len(kinds) % len(rows)]) - (step - 1))
    return np.array(starts, dtype=np.int64)


def _one_game(
    seen: Sequence[npt.NDArray[np.uint8]],
    took: Sequence[tuple[Any, float, bool]],
    blank: int | tuple[float, ...],
    ram: Bytes | None,
) -> HeldOut:
    """Return one game as play, rows counted from 0."""
    rows = len(seen)
    actions, rewards, ended = (np.array(column) for column in zip(*took, (blank, 0.0, False), strict=True))
    edges = np.unique([0, *(np.flatnonzero(ended) + 1), rows - 1])
    episode = np.minimum(np.searchsorted(edges, np.arange(rows), side="right") - 1, len(edges) - 2)
    first, last = edges[episode], edges[episode + 1]
    first[-1] = last[-1]  # a game's last row has no transition
    return HeldOut(
        pixels=np.stack(seen),
        actions=actions.astype(took[0][0].dtype),
        rewards=rewards.astype(np.float32),
        ended=ended.astype(np.bool_),
        games=np.zeros(rows, np.int64),
        first=first,
        last=last,
        blocks=np.arange(rows) // BLOCK,
        ram=ram,
    )


def _join(games: Sequence[HeldOut]) -> HeldOut:
    """Return the games one after another."""
    place = np.cumsum([0, *(len(game.pixels) for game in games)])
    block = np.cumsum([0, *(int(game.blocks[-1]) + 1 for game in games)])
    rams = [game.ram for game in games if game.ram is not None]
    return HeldOut(
        pixels=np.concatenate([game.pixels for game in games]),
        actions=np.concatenate([game.actions for game in games]),
        rewards=np.concatenate([game.rewards for game in games]),
        ended=np.concatenate([game.ended for game in games]),
        games=np.concatenate([np.full(len(game.pixels), i) for i, game in enumerate(games)]),
        first=np.concatenate([game.first + at for game, at in zip(games, place, strict=False)]),
        last=np.concatenate([game.last + at for game, at in zip(games, place, strict=False)]),
        blocks=np.concatenate([game.blocks + at for game, at in zip(games, block, strict=False)]),
        ram=np.concatenate(rams) if rams else None,
    )
