"""check_vector_env: plays with a Gymnasium ``VectorEnv`` and looks at everything it returns.

Gymnasium's own checker is for single environments. This one covers what only batches have: batched spaces, the three
autoreset modes, ``reset_mask``, a seed a lane, the layout of ``info``, and memory that two calls must not share. It
knows nothing of dreams, reads NumPy only, and demands what Gymnasium 1.4's ``SyncVectorEnv`` keeps in every mode.

Here is what is checked in what order, and what takes no playing; the rest is in the ``check_*.py`` beside this file.
"""

import inspect
from dataclasses import dataclass
from typing import Any

from gymnasium import Space
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from jedi_env.arguments import check_seed
from jedi_env.envs.check_answer import fault
from jedi_env.envs.check_player import Player, explore
from jedi_env.envs.check_resets import (
    check_disabled_stays_ended,
    check_end_is_no_start,
    check_next_step_ignores_action,
    check_partial_reset,
    check_reset_after_end,
)
from jedi_env.envs.check_seeds import check_lane_seeds, check_repeats, check_starts
from jedi_env.errors import UsageError, VectorEnvError


@dataclass(frozen=True)
class CheckReport:
    """What :func:`check_vector_env` could check; what it could check was right.

    Attributes:
        autoreset_mode: the mode that the environment declares.
        steps: steps that were played.
        episodes: episodes that ended.
        seeding: equal seeds were compared (not if ``spec.nondeterministic``).
        lane_seeds: a seed a lane was accepted, and is its lane's alone.
        random_starts: different seeds start differently, and so do lanes and unseeded resets.
        autoreset: an episode ended, so what follows an end was seen.
        partial_reset: ``reset_mask`` was accepted, and left the other lanes alone.
        notes: a sentence for everything that was not checked, or is odd but allowed.
    """

    autoreset_mode: AutoresetMode
    steps: int
    episodes: int
    seeding: bool
    lane_seeds: bool
    random_starts: bool
    autoreset: bool
    partial_reset: bool
    notes: tuple[str, ...]


def check_vector_env(env: VectorEnv[Any, Any, Any], *, seed: int = 0, steps: int = 1000) -> CheckReport:
    """Check that ``env`` keeps the contract of ``gymnasium.vector.VectorEnv``, and close it.

    Checked are the spaces, the declared autoreset mode and whether it is kept, dtypes and shapes, the layout of
    ``info``, that returned memory is the caller's own, seeding, partial resets (``options={"reset_mask": ...}``), and
    ``close``.

    Args:
        env: made with NumPy output. It is played with random actions, reset often, and closed in the end.
        seed: for the environment and the random actions.
        steps: how long to look for the end of an episode in every lane; a run is repeated up to eight times.

    Returns:
        What could be checked; read ``notes`` if a field is False.

    Raises:
        VectorEnvError: the environment breaks the contract. It is left open.
        UsageError: ``env`` is no open ``VectorEnv`` or does not return NumPy arrays, or ``steps`` is less than 1.
    """
    if not isinstance(env, VectorEnv):
        raise UsageError(
            f"check_vector_env checks a gymnasium.vector.VectorEnv, not {type(env).__name__}: make one with "
            "gymnasium.make_vec(...), or check a gymnasium.Env with gymnasium.utils.env_checker.check_env(env)."
        )
    if env.closed:
        raise UsageError("The environment is closed: make a new one and check that.")
    if steps < 1:
        raise UsageError(f"steps is {steps}, but it takes at least 1 (1000 is usual) to look for an end.")
    seed = check_seed(seed) or 0
    player = Player(env, _check_attributes(env), seed)
    notes: list[str] = []
    run = explore(player, seed, steps)
    seeding = not (env.spec is not None and env.spec.nondeterministic)
    lane_seeds = random_starts = False
    if seeding:
        check_repeats(player, run)
        random_starts = check_starts(player, seed, notes)
        lane_seeds = check_lane_seeds(player, seed, notes)
    else:
        notes.append("Seeding was not checked: the environment's spec says that it is nondeterministic.")
    partial_reset = check_partial_reset(player, run, lane_seeds, notes)
    if not run.ends:
        notes.append(f"No episode ended within {steps} steps, so autoreset was not checked: give more steps.")
    else:
        if seeding:
            check_reset_after_end(player, run, partial_reset)
            check_next_step_ignores_action(player, run)
            check_end_is_no_start(player, run)
        check_disabled_stays_ended(player, run)  # last: the environment may fail for good
    if run.seamless:
        notes.append(
            "Every episode began with the observation that the one before ended with. That is right where a reset goes "
            "on with the same game, as after a lost life; else lanes are not reset, or the final observation is lost."
        )
    if player.emptied_options:
        notes.append(
            "reset(options=...) takes 'reset_mask' out of the caller's dict (as Gymnasium's own environments do); "
            "better read it with options.get."
        )
    _check_close(env)
    return CheckReport(
        autoreset_mode=player.mode,
        steps=player.steps,
        episodes=player.episodes,
        seeding=seeding,
        lane_seeds=lane_seeds,
        random_starts=random_starts,
        autoreset=bool(run.ends),
        partial_reset=partial_reset,
        notes=tuple(notes),
    )


def _check_attributes(env: VectorEnv[Any, Any, Any]) -> AutoresetMode:
    """Check what can be read without playing, and return the declared mode."""
    for name in (
        "num_envs",
        "single_observation_space",
        "observation_space",
        "single_action_space",
        "action_space",
    ):
        if not hasattr(env, name):
            fault(name, "is missing.", "Set it in the constructor.")
    if isinstance(env.num_envs, bool) or not isinstance(env.num_envs, int) or env.num_envs < 1:
        fault("num_envs", f"is {env.num_envs!r}.", "Set the number of lanes, an int of at least 1.")
    for single, batched in (
        ("single_observation_space", "observation_space"),
        ("single_action_space", "action_space"),
    ):
        space, actual = getattr(env, single), getattr(env, batched)
        for name, value in ((single, space), (batched, actual)):
            if not isinstance(value, Space):
                fault(name, f"is {value!r}.", "Set a gymnasium.Space.")
        wanted = batch_space(space, env.num_envs)
        # Gymnasium allows lanes with differing bounds, but not with differing shapes or dtypes.
        if actual != wanted and not is_space_dtype_shape_equiv(actual, wanted):
            fault(
                batched,
                f"is {actual}, but {env.num_envs} lanes of {single} make {wanted}.",
                f"Set it to gymnasium.vector.utils.batch_space(self.{single}, self.num_envs).",
            )
    mode = env.metadata.get("autoreset_mode") if isinstance(env.metadata, dict) else None
    if not isinstance(mode, AutoresetMode):
        fault(
            "metadata['autoreset_mode']",
            f"is {mode!r}.",
            "Set self.metadata = {..., 'autoreset_mode': AutoresetMode.SAME_STEP} (or NEXT_STEP, or DISABLED).",
        )
    base = env.unwrapped
    chosen = "autoreset_mode" in inspect.signature(type(base).__init__).parameters
    if base.metadata is VectorEnv.metadata or (chosen and "metadata" not in vars(base)):
        fault(
            "metadata",
            "is a dict that instances share, so that the next one made changes the mode of this one.",
            "Give every instance its own in the constructor: self.metadata = {..., 'autoreset_mode': mode}.",
        )
    return mode


def _check_close(env: VectorEnv[Any, Any, Any]) -> None:
    for time in ("", " a second time"):
        try:
            env.close()
        except Exception as error:
            raise VectorEnvError(
                f"close(){time}: failed ({type(error).__name__}: {error}). Let it be called more than once: "
                "write close_extras(), which VectorEnv.close() calls once."
            ) from error
    if not env.closed:
        fault("closed", "is False after close().", "Override close_extras() rather than close().")
