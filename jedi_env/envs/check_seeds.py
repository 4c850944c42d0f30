"""What a seed promises of a ``VectorEnv``: other starts for other seeds, a lane to each, and the same run again.

The same run also for a caller who overwrites returned memory: what that changes, the environment should have copied.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence

from jedi_env.envs.check_answer import fault
from jedi_env.envs.check_player import Player, Run
from jedi_env.errors import VectorEnvError

STARTS = 16  # resets until "always the same start" is believed (a coin would fool fewer)


def check_repeats(player: Player, run: Run) -> None:
    """The same seed and actions give the same run, also if the caller overwrites all that was returned."""
    again = []
    for spoil in (False, True):
        player.spoil = spoil
        start = player.reset(run.seed)
        repeated = [(0, None if data_equivalence(run.start, start) else "observation")]
        steps = run.play(player, len(run.steps))
        repeated += [(i + 1, one.difference(two)) for i, (one, two) in enumerate(zip(run.steps, steps, strict=True))]
        for index, name in repeated:
            if name is None:
                continue
            where = f"step {index} after reset(seed={run.seed})" if index else f"reset(seed={run.seed})"
            if spoil:
                fault(
                    where,
                    f"gives another {name} once the caller overwrites returned arrays or used actions.",
                    "Return copies of what the environment keeps, and keep copies of actions.",
                )
            fault(
                where,
                f"gave another {name} the second time.",
                "Take every random number from generators that reset(seed=...) seeds, or say so: "
                "spec.nondeterministic.",
            )
        player.spoil = False
        again.append(player.reset())
    if not data_equivalence(*again):
        fault(
            f"reset() {len(run.steps)} steps after reset(seed={run.seed})",
            "gave another observation the second time.",
            "Let an unseeded reset go on with the generators that the seed made.",
        )


def check_starts(player: Player, seed: int, notes: list[str]) -> bool:
    """Starts that differ between seeds also differ between lanes, and between unseeded resets."""
    starts = [player.lanes(player.reset(seed))]
    differ = lanes_differ = False
    while len(starts) < STARTS and not (differ and (lanes_differ or player.num_envs == 1)):
        starts.append(player.lanes(player.reset(seed + len(starts) * player.num_envs)))
        differ = differ or not data_equivalence(starts[0][0], starts[-1][0])
        lanes_differ = any(not data_equivalence(start[0], lane) for start in starts for lane in start[1:])
    if not differ:
        notes.append(f"{STARTS} seeds gave lane 0 the same start, so lanes and unseeded resets may start alike too.")
        return False
    if player.num_envs > 1 and not lanes_differ:
        fault(
            f"reset(seed={seed})",
            f"starts all {player.num_envs} lanes alike, whatever the seed, although another seed starts differently.",
            "Give lane i a generator of its own, e.g. from seed + i.",
        )
    first = player.reset()
    for _ in range(STARTS):
        if not data_equivalence(first, player.reset()):
            return True
    fault(
        "reset() without a seed",
        f"gave the same start {STARTS} times, although seeds start differently.",
        "Go on with the generators there are; the default is seed=None, and no fixed seed.",
    )


def check_lane_seeds(player: Player, seed: int, notes: list[str]) -> bool:
    """If a sequence of seeds is accepted, each is its own lane's."""
    number = player.num_envs
    seeds = [seed + 7 * lane for lane in range(number)]
    forms: tuple[Callable[[list[int]], Any], ...] = (list, np.array)
    for accepted in forms:
        try:
            start = player.lanes(player.reset(accepted(seeds)))
            break
        except VectorEnvError:
            raise
        except Exception as error:
            refusal = f"{type(error).__name__}: {error}"
    else:
        notes.append(f"A sequence of seeds, one a lane, is not accepted ({refusal}).")
        player.reset(seed)  # out of whatever the refusal left behind
        return False
    changes = {None, 0, number - 1} if number > 1 else {None}
    for changed in changes:
        others = [own + 1000 if lane == changed else own for lane, own in enumerate(seeds)]
        for lane, (old, new) in enumerate(zip(start, player.lanes(player.reset(accepted(others))), strict=True)):
            if lane != changed and not data_equivalence(old, new):
                fault(
                    f"reset(seed={others})",
                    f"starts lane {lane} otherwise than reset(seed={seeds}), although its own seed is the same.",
                    "Seed lane i with seed[i] alone.",
                )
    return True
