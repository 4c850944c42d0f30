"""How episodes of a ``VectorEnv`` begin anew: by ``reset_mask``, after an end, and as the autoreset mode has it."""

import warnings

import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode

from jedi_env.envs.check_answer import fault
from jedi_env.envs.check_player import AFTER_ENDS, Player, Run, Step
from jedi_env.errors import VectorEnvError

DRAWS = 16  # random actions until one differs from what was planned


def check_partial_reset(player: Player, run: Run, lane_seeds: bool, notes: list[str]) -> bool:
    """A masked reset begins lane 0 anew and leaves the others alone, then and up to each lane's end."""
    if player.num_envs == 1:
        notes.append("Partial resets were not checked: they need at least 2 lanes.")
        return False
    begun = min(AFTER_ENDS, len(run.steps) - 1, *run.ends)  # no lane ends before
    run.play(player, begun)
    mask = np.arange(player.num_envs) == 0
    try:
        start = player.reset(seed=run.seed if lane_seeds else None, mask=mask)
    except VectorEnvError:
        raise
    except Exception as error:
        notes.append(f"Partial resets are not accepted ({type(error).__name__}: {error}).")
        player.reset(run.seed)
        return False
    if not lane_seeds:
        notes.append("What follows a partial reset was not checked: lanes have no seeds of their own.")
        return True
    if not data_equivalence(player.lanes(start)[0], player.lanes(run.start)[0]):
        fault(
            f"reset(seed={run.seed}, options={{'reset_mask': {mask}}})",
            f"starts lane 0 otherwise than reset(seed={run.seed}) does.",
            "Reset the masked lanes as a full reset with their seeds would.",
        )
    going_on = dict.fromkeys(range(player.num_envs), begun) | {0: 0}  # each lane's place in the run, till its end there
    for count in range(1, len(run.actions) - begun + 1):
        first, *_ = player.split(run.actions[count - 1])
        _, *others = player.split(run.actions[count - 1 + begun])
        step = player.step(player.join([first, *others]))
        for lane, offset in tuple(going_on.items()):
            index = count - 1 + offset
            name = _lane_difference(player, run, index, step, lane)
            if name:
                usual, instead = (
                    (f"after reset(seed={run.seed})", "Reset everything of the masked lanes")
                    if lane == 0
                    else ("without that reset", "Keep everything of the other lanes")
                )
                fault(
                    f"step {count} after a reset of lane 0 alone",
                    f"{name} of lane {lane} is not what it is {usual}.",
                    f"{instead}, also their counters and generators.",
                )
            if run.outcomes[index]["terminated"][lane] or run.outcomes[index]["truncated"][lane]:
                del going_on[lane]
        if not going_on:
            break
    return True


def _lane_difference(player: Player, run: Run, index: int, step: Step, lane: int) -> str | None:
    """Return in what a lane's ``step`` differs from its step ``index`` of the run, of what is kept of that."""
    for name, new in step.outcome.items():
        if new[lane] != run.outcomes[index][name][lane]:
            return name
    if index < len(run.steps):
        old, shown = (player.lanes(one.observation)[lane] for one in (run.steps[index], step))
        return None if data_equivalence(old, shown) else "observation"
    return None


def check_reset_after_end(player: Player, run: Run, partial_reset: bool) -> None:
    """A seeded reset right after an end starts over: nothing of the end is left."""
    everyone = np.ones(player.num_envs, dtype=np.bool_)
    for mask in (None, everyone) if partial_reset else (None,):
        run.play(player, run.first_end + 1)
        start = player.reset(run.seed, mask)
        name = None if data_equivalence(run.start, start) else "observation"
        name = name or run.steps[0].difference(player.step(run.actions[0]))
        if name:
            fault(
                f"reset(seed={run.seed}{'' if mask is None else ', reset_mask of all lanes'}) right after an end",
                f"does not start over: {name} is not what it is after a first reset with that seed.",
                "Let a reset clear everything, also the memory of who has ended.",
            )


def check_next_step_ignores_action(player: Player, run: Run) -> None:
    """In mode NEXT_STEP, the action of a lane that is being reset does nothing."""
    if player.mode is not AutoresetMode.NEXT_STEP or run.after_end is None:
        return
    index = run.first_end + 1
    run.play(player, index)
    planned = player.split(run.actions[index])
    actions = list(planned)
    for _ in range(DRAWS):
        other = player.split(player.actions.sample())
        for lane in np.flatnonzero(player.pending):
            if data_equivalence(actions[lane], planned[lane]):
                actions[lane] = other[lane]
    name = run.after_end.difference(player.step(player.join(actions)))
    if name:
        fault(
            f"step {index + 1} after reset(seed={run.seed})",
            f"{name} depends on the action of a lane that is being reset.",
            "Mode NEXT_STEP: ignore the actions of lanes whose episode ended at the step before.",
        )


def check_end_is_no_start(player: Player, run: Run) -> None:
    """What is shown as the end of an episode is not the start of the next.

    A reset in place of the step that ended the episode shows the start that the autoreset drew, if steps draw no random
    numbers. One end that looks like a start may be a coincidence; all are not.
    """
    pairs = []
    for index, step in run.ends.items():
        run.play(player, index)
        fresh, shown = player.lanes(player.reset()), player.lanes(step.observation)
        pairs += [
            data_equivalence(step.finals.get(lane, shown[lane]), fresh[lane])
            for lane in np.flatnonzero(step.ended).tolist()
        ]
    if player.varied and all(pairs):
        fault(
            f"step {run.first_end + 1} after reset(seed={run.seed})",
            f"the lanes {np.flatnonzero(run.ends[run.first_end].ended)} ended, but what is shown as their final "
            "observation is the first of the next episode.",
            "Keep the observation before you reset: it is infos['final_obs'] in mode SAME_STEP, and the returned "
            "observation in the others.",
        )


def check_disabled_stays_ended(player: Player, run: Run) -> None:
    """In mode DISABLED, a lane that ended does not come back by itself."""
    if player.mode is not AutoresetMode.DISABLED:
        return
    run.play(player, run.first_end + 1)
    ended = player.pending
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AsyncVectorEnv warns of what its processes raise
        try:
            _, _, terminated, truncated, _ = player.env.step(run.actions[0])
        except Exception:
            return  # to refuse is right
    if not (terminated | truncated)[ended].all():
        fault(
            f"step {run.first_end + 2} after reset(seed={run.seed})",
            f"the lanes {np.flatnonzero(ended)} had ended, but play on without a reset.",
            "Mode DISABLED: keep them ended until reset(options={'reset_mask': ...}), or refuse the step.",
        )
