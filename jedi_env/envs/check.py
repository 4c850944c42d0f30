"""check_vector_env: plays with a Gymnasium ``VectorEnv`` and looks at everything it returns.

Gymnasium's own checker is for single environments. This one covers what only batches have: batched spaces, the three
autoreset modes, ``reset_mask``, a seed a lane, the layout of ``info``, and memory that two calls must not share. It
knows nothing of dreams, reads NumPy only, and demands what Gymnasium 1.4's ``SyncVectorEnv`` keeps in every mode.
"""

import inspect
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from gymnasium import Space, spaces
from gymnasium.spaces.utils import is_space_dtype_shape_equiv
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from jedi_env.errors import JediEnvError, UsageError

COMPARED = 20  # steps of a run that are kept and compared with its repetitions
REMEMBERED = 2  # earlier calls whose memory a call must not share: enough to see two buffers that alternate
AFTER_ENDS = 3  # steps to go on after every lane has ended once
STARTS = 16  # resets until "always the same start" is believed (a coin would fool fewer)
ENDS = 3  # ends that are looked at closely

Mask = NDArray[np.bool_]
Data = Any  # whatever a space contains
Mutable = dict[Any, Any] | NDArray[Any]


class VectorEnvError(JediEnvError):
    """A vector environment breaks its contract; the message says where, how, and what to write instead."""


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
    player = _Player(env, _check_attributes(env), seed)
    notes: list[str] = []
    run = _explore(player, seed, steps)
    seeding = not (env.spec is not None and env.spec.nondeterministic)
    lane_seeds = random_starts = False
    if seeding:
        _check_repeats(player, run)
        random_starts = _check_starts(player, seed, notes)
        lane_seeds = _check_lane_seeds(player, seed, notes)
    else:
        notes.append("Seeding was not checked: the environment's spec says that it is nondeterministic.")
    partial_reset = _check_partial_reset(player, run, lane_seeds, notes)
    if not run.ends:
        notes.append(f"No episode ended within {steps} steps, so autoreset was not checked: give more steps.")
    else:
        if seeding:
            _check_reset_after_end(player, run, partial_reset)
            _check_next_step_ignores_action(player, run)
            _check_end_is_no_start(player, run)
        _check_disabled_stays_ended(player, run)  # last: the environment may fail for good
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


def _fault(where: str, what: str, instead: str) -> NoReturn:
    raise VectorEnvError(f"{where}: {what} {instead}")


# ---------------------------------------------------------------- attributes


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
            _fault(name, "is missing.", "Set it in the constructor.")
    if isinstance(env.num_envs, bool) or not isinstance(env.num_envs, int) or env.num_envs < 1:
        _fault("num_envs", f"is {env.num_envs!r}.", "Set the number of lanes, an int of at least 1.")
    for single, batched in (
        ("single_observation_space", "observation_space"),
        ("single_action_space", "action_space"),
    ):
        space, actual = getattr(env, single), getattr(env, batched)
        for name, value in ((single, space), (batched, actual)):
            if not isinstance(value, Space):
                _fault(name, f"is {value!r}.", "Set a gymnasium.Space.")
        wanted = batch_space(space, env.num_envs)
        # Gymnasium allows lanes with differing bounds, but not with differing shapes or dtypes.
        if actual != wanted and not is_space_dtype_shape_equiv(actual, wanted):
            _fault(
                batched,
                f"is {actual}, but {env.num_envs} lanes of {single} make {wanted}.",
                f"Set it to gymnasium.vector.utils.batch_space(self.{single}, self.num_envs).",
            )
    mode = env.metadata.get("autoreset_mode") if isinstance(env.metadata, dict) else None
    if not isinstance(mode, AutoresetMode):
        _fault(
            "metadata['autoreset_mode']",
            f"is {mode!r}.",
            "Set self.metadata = {..., 'autoreset_mode': AutoresetMode.SAME_STEP} (or NEXT_STEP, or DISABLED).",
        )
    base = env.unwrapped
    chosen = "autoreset_mode" in inspect.signature(type(base).__init__).parameters
    if base.metadata is VectorEnv.metadata or (chosen and "metadata" not in vars(base)):
        _fault(
            "metadata",
            "is a dict that instances share, so that the next one made changes the mode of this one.",
            "Give every instance its own in the constructor: self.metadata = {..., 'autoreset_mode': mode}.",
        )
    return mode


# ---------------------------------------------------------------- one call


def _check_member(value: Data, space: Space[Any], where: str) -> None:
    """Check that ``value`` is in ``space``, with exactly its dtype and shape."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict) or value.keys() != space.keys():
            _fault(where, f"is {_brief(value)}.", f"Return a dict with the keys {sorted(space.keys())}.")
        for key, part in space.items():
            _check_member(value[key], part, f"{where}[{key!r}]")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple) or len(value) != len(space):
            _fault(where, f"is {_brief(value)}.", f"Return a tuple of {len(space)}.")
        for index, part in enumerate(space):
            _check_member(value[index], part, f"{where}[{index}]")
    elif isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        _check_array(value, space.dtype, space.shape, where)
        if not space.contains(value):
            reach = f"from {value.min()} to {value.max()}" if value.size else "none"
            _fault(where, f"has values ({reach}) outside {space}.", "Return values inside, or widen the space.")
    elif not space.contains(value):
        _fault(where, f"is {_brief(value)}.", f"Return an element of {space}.")


def _check_array(value: object, dtype: np.dtype[Any] | None, shape: tuple[int, ...], where: str) -> None:
    if not isinstance(value, np.ndarray):
        if hasattr(value, "__dlpack__"):
            raise UsageError(
                f"{where}: is a {type(value).__module__}.{type(value).__name__}, but check_vector_env reads NumPy. "
                "Make the environment with NumPy output (in this package output='numpy'), or check it inside "
                "gymnasium.wrappers.vector.ArrayConversion."
            )
        _fault(where, f"is {_brief(value)}.", f"Return a NumPy array of dtype {dtype} and shape {shape}.")
    if value.shape != shape or (dtype is not None and value.dtype != dtype):
        _fault(
            where,
            f"has dtype {value.dtype} and shape {value.shape}.",
            f"Return dtype {dtype or value.dtype} and shape {shape}.",
        )


def _check_info(info: object, num_envs: int, where: str) -> None:
    if not isinstance(info, dict):
        _fault(
            where, f"is {_brief(info)}.", "Return a dict of arrays, one entry a lane; {} if there is nothing to say."
        )
    for key, value in info.items():
        here = f"{where}[{key!r}]"
        if not isinstance(key, str):
            _fault(here, "has a key that is no string.", "Name it.")
        if key.startswith("_"):
            if key[1:] not in info:
                _fault(here, f"is a mask of {key[1:]!r}, which is missing.", "Return both, or neither.")
            _check_array(value, np.dtype(np.bool_), (num_envs,), here)
        elif isinstance(value, dict):
            _check_info(value, num_envs, here)
        elif not isinstance(value, np.ndarray) or value.shape[:1] != (num_envs,):
            _fault(here, f"is {_brief(value)}.", f"Return an array with one entry for each of the {num_envs} lanes.")


def _brief(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of dtype {value.dtype} and shape {value.shape}"
    if isinstance(value, dict):
        return f"a dict with the keys {list(value)}"
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text if len(text) < 80 else text[:77] + '...'}"


def _mutables(data: object, path: str) -> Iterator[tuple[str, Mutable]]:
    """Yield every dict and array in ``data``, and where it is."""
    if isinstance(data, dict):
        yield path, data
        for key, value in data.items():
            yield from _mutables(value, f"{path}[{key!r}]")
    elif isinstance(data, np.ndarray):
        yield path, data
        if data.dtype == object:
            for index, value in enumerate(data.flat):
                yield from _mutables(value, f"{path}[{index}]")
    elif isinstance(data, tuple | list):
        for index, value in enumerate(data):
            yield from _mutables(value, f"{path}[{index}]")


def _overlap(one: Mutable, other: Mutable) -> bool:
    if one is other:
        return True
    return (
        isinstance(one, np.ndarray)
        and isinstance(other, np.ndarray)
        and np.may_share_memory(one, other)  # cheap, and sure if it says no
        and np.shares_memory(one, other)
    )


def _spoil(data: object) -> None:
    """Change every number in ``data`` in place, as a caller may who owns it."""
    for _, value in _mutables(data, ""):
        if isinstance(value, np.ndarray) and value.flags.writeable:
            if value.dtype == np.bool_:
                np.logical_not(value, out=value)
            elif np.issubdtype(value.dtype, np.number):
                np.add(value, 1, out=value, casting="unsafe")


# ---------------------------------------------------------------- playing


@dataclass(frozen=True)
class _Step:
    """Copies of what one step returned; ``finals`` are the final observations of the lanes that ended (SAME_STEP)."""

    observation: Data
    rewards: NDArray[Any]
    terminated: Mask
    truncated: Mask
    finals: dict[int, Data]

    @property
    def ended(self) -> Mask:
        return self.terminated | self.truncated

    @property
    def outcome(self) -> dict[str, NDArray[Any]]:
        return {"rewards": self.rewards, "terminated": self.terminated, "truncated": self.truncated}

    def difference(self, other: "_Step") -> str | None:
        """Return the name of a field in which the two differ."""
        for name in ("observation", "rewards", "terminated", "truncated", "finals"):
            if not data_equivalence(getattr(self, name), getattr(other, name)):
                return name
        return None


class _Player:
    """Calls the environment as a careful user would, and checks every answer.

    In mode DISABLED the lanes that ended are reset by mask just before the next step.

    Attributes:
        actions: the space to sample from, with a generator of its own.
        pending: lanes that ended and still have to begin anew (NEXT_STEP: at the next step; DISABLED: by a reset).
        observation: the last one, copied.
        spoil: overwrite whatever was returned, and every array of actions, after each call.
        same_boundary: for every new episode, whether it began with the observation that the old one ended with.
        varied: an observation changed within an episode.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], mode: AutoresetMode, seed: int) -> None:
        self.env = env
        self.mode = mode
        self.actions = deepcopy(env.action_space)
        self.actions.seed(seed)
        self.num_envs = env.num_envs
        self.pending: Mask = np.zeros(env.num_envs, dtype=np.bool_)
        self.observation: Data = None
        self.spoil = False
        self.same_boundary: list[bool] = []
        self.varied = False
        self.emptied_options = False
        self.steps = 0
        self.episodes = 0
        self._where = ""
        self._since_reset = 0
        self._returned: deque[tuple[str, list[tuple[str, Mutable]]]] = deque(maxlen=REMEMBERED)

    def lanes(self, observation: Data) -> list[Data]:
        """Return the observation of each lane."""
        return list(iterate(self.env.observation_space, observation))

    def reset(self, seed: int | Sequence[int] | NDArray[np.int64] | None = None, mask: Mask | None = None) -> Data:
        """Reset all lanes, or those of ``mask``, and return a copy of the observation."""
        given = "" if seed is None else f"seed={seed}"
        if mask is None:
            where = f"reset({given})"
            result = self.env.reset(seed=seed, options=None)  # type: ignore[arg-type]  # a seed a lane is tried too
            self._where, self._since_reset = where, 0
        else:
            options = {"reset_mask": mask.copy()}
            where = f"reset({given + ', ' if given else ''}options={{'reset_mask': {mask}}})"
            handed = options["reset_mask"]
            try:
                result = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
            except Exception as error:
                if self.mode is not AutoresetMode.DISABLED:
                    raise
                raise VectorEnvError(
                    f"{where}: failed ({type(error).__name__}: {error}). Mode DISABLED leaves resets to the caller: "
                    "accept a bool array of shape (num_envs,) as 'reset_mask'."
                ) from error
            if not np.array_equal(handed, mask):
                _fault(where, f"changed the caller's reset_mask to {handed}.", "Copy it before writing to it.")
            self.emptied_options |= "reset_mask" not in options
        if not isinstance(result, tuple) or len(result) != 2:
            _fault(where, f"returned {_brief(result)}.", "Return (observations, infos).")
        _check_member(result[0], self.env.observation_space, f"{where}, observations")
        _check_info(result[1], self.num_envs, f"{where}, infos")
        before, self.observation = self.observation, self._keep(where, result)[0]
        if self.spoil:
            _spoil(result)
        if mask is not None:
            for lane, (old, new) in enumerate(zip(self.lanes(before), self.lanes(self.observation), strict=True)):
                if not mask[lane] and not data_equivalence(old, new):
                    _fault(
                        f"{where}, {self._since_reset} steps after {self._where}",
                        f"changed the observation of lane {lane}, which the mask leaves out.",
                        "Reset the masked lanes only, and return the last observation of the others.",
                    )
                if mask[lane] and self.pending[lane]:
                    self.same_boundary.append(data_equivalence(old, new))
        self.pending = self.pending & ~mask if mask is not None else np.zeros_like(self.pending)
        return self.observation

    def step(self, actions: Data) -> _Step:
        """Play one step, after resetting what DISABLED leaves to the caller."""
        if self.mode is AutoresetMode.DISABLED and self.pending.any():
            self.reset(mask=self.pending)
        self._since_reset += 1
        self.steps += 1
        where = f"step() {self._since_reset} after {self._where}"
        handed = deepcopy(actions)
        result = self.env.step(handed)
        if not data_equivalence(handed, actions):
            _fault(where, "changed the caller's actions.", "Copy them before writing to them.")
        if not isinstance(result, tuple) or len(result) != 5:
            _fault(
                where, f"returned {_brief(result)}.", "Return (observations, rewards, terminated, truncated, infos)."
            )
        observation, rewards, terminated, truncated, info = result
        _check_member(observation, self.env.observation_space, f"{where}, observations")
        _check_array(rewards, None, (self.num_envs,), f"{where}, rewards")
        if not np.issubdtype(rewards.dtype, np.floating):
            _fault(f"{where}, rewards", f"have dtype {rewards.dtype}.", "Return float32 or float64.")
        if np.isnan(rewards).any():
            _fault(f"{where}, rewards", f"are {rewards}.", "Return numbers.")
        _check_array(terminated, np.dtype(np.bool_), (self.num_envs,), f"{where}, terminated")
        _check_array(truncated, np.dtype(np.bool_), (self.num_envs,), f"{where}, truncated")
        _check_info(info, self.num_envs, f"{where}, infos")
        observation, rewards, terminated, truncated, info = self._keep(where, result)
        finals = self._finals(info, terminated | truncated, where) if self.mode is AutoresetMode.SAME_STEP else {}
        step = _Step(observation, rewards, terminated, truncated, finals)
        self._follow(step, where)
        if self.spoil:
            _spoil(result)
            if isinstance(handed, np.ndarray):
                handed[...] = self.actions.sample()
        return step

    def _keep(self, where: str, result: tuple[Any, ...]) -> tuple[Any, ...]:
        """Check that ``result`` shares no memory with earlier ones, and return a copy."""
        parts = ("observations", "rewards", "terminated", "truncated", "infos")
        names = parts if len(result) == len(parts) else ("observations", "infos")
        now = [item for name, data in zip(names, result, strict=True) for item in _mutables(data, name)]
        for earlier, before in self._returned:
            for old_name, old in before:
                for name, new in now:
                    if _overlap(old, new):
                        _fault(
                            f"{where}, {name}",
                            f"shares memory with the {old_name} of {earlier}, so that it changes what the caller kept.",
                            "Return a copy.",
                        )
        self._returned.append((where, now))
        return deepcopy(result)

    def _finals(self, info: dict[str, Any], ended: Mask, where: str) -> dict[int, Data]:
        """Check SAME_STEP's ``final_obs`` and ``final_info`` and return the former's entries."""
        for key in ("final_obs", "final_info"):
            mask = info.get(f"_{key}")
            if key not in info and not (key == "final_obs" and ended.any()):
                continue
            if key not in info or mask is None or not np.array_equal(mask, ended):
                is_what = "is missing" if key not in info else "has no mask" if mask is None else f"has the mask {mask}"
                _fault(
                    f"{where}, infos[{key!r}]",
                    f"{is_what}, but the lanes that ended are {ended}.",
                    f"Mode SAME_STEP: return {key!r} for these lanes with infos['_{key}'] a copy of that mask.",
                )
        finals = {}
        for lane in np.flatnonzero(ended).tolist():
            final = info["final_obs"]
            finals[lane] = {k: v[lane] for k, v in final.items()} if isinstance(final, dict) else final[lane]
            _check_member(finals[lane], self.env.single_observation_space, f"{where}, infos['final_obs'][{lane}]")
        return finals

    def _follow(self, step: _Step, where: str) -> None:
        """Check the step against what was pending, and note who is pending now."""
        before, after = self.lanes(self.observation), self.lanes(step.observation)
        self.episodes += int(step.ended.sum())
        for lane in range(self.num_envs):
            if self.mode is AutoresetMode.NEXT_STEP and self.pending[lane]:
                if step.rewards[lane] != 0 or step.ended[lane]:
                    _fault(
                        f"{where}, lane {lane}",
                        "its episode ended at the step before, yet this step has reward "
                        f"{step.rewards[lane]}, terminated {step.terminated[lane]}, truncated {step.truncated[lane]}.",
                        "Mode NEXT_STEP: this step resets the lane, with reward 0 and no end.",
                    )
                self.same_boundary.append(data_equivalence(before[lane], after[lane]))
            elif lane in step.finals:
                self.same_boundary.append(data_equivalence(step.finals[lane], after[lane]))
            else:
                self.varied = self.varied or not data_equivalence(before[lane], after[lane])
        self.observation = step.observation
        self.pending = step.ended if self.mode is not AutoresetMode.SAME_STEP else np.zeros_like(step.ended)


@dataclass
class _Run:
    """A seeded run of random actions.

    Attributes:
        seed: of the reset that began it.
        start: the observation of that reset.
        actions: all of them.
        steps: the first ``COMPARED`` steps.
        outcomes: rewards, terminations and truncations of all steps.
        ends: the first ``ENDS`` steps at which a lane ended, by index.
        after_end: the step after the first of these.
        seamless: every new episode began with the observation that the old one ended with, though observations vary.
    """

    seed: int
    start: Data
    actions: list[Data]
    steps: list[_Step]
    outcomes: list[dict[str, NDArray[Any]]]
    ends: dict[int, _Step]
    after_end: _Step | None = None
    seamless: bool = False

    @property
    def first_end(self) -> int | None:
        """The index of the first step at which a lane ended."""
        return min(self.ends, default=None)

    def play(self, player: _Player, length: int) -> list[_Step]:
        """Play the first ``length`` steps again and return what is kept of them."""
        player.reset(self.seed)
        steps = [player.step(action) for action in self.actions[:length]]
        return steps[:COMPARED]


def _explore(player: _Player, seed: int, limit: int) -> _Run:
    """Play until every lane has ended, and a little longer; the player checks every step."""
    run = _Run(seed, player.reset(seed), [], [], [], {})
    seen = np.zeros(player.num_envs, dtype=np.bool_)
    extra = AFTER_ENDS
    while len(run.actions) < limit and extra:
        index = len(run.actions)
        run.actions.append(player.actions.sample())
        step = player.step(run.actions[index])
        run.outcomes.append(step.outcome)
        if run.first_end == index - 1:
            run.after_end = step
        if step.ended.any() and len(run.ends) < ENDS:
            run.ends[index] = step
        if index < COMPARED:
            run.steps.append(step)
        extra -= bool(seen.all())
        seen |= step.ended
    run.seamless = player.varied and bool(player.same_boundary) and all(player.same_boundary)
    return run


# ---------------------------------------------------------------- seeds and memory


def _check_repeats(player: _Player, run: _Run) -> None:
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
                _fault(
                    where,
                    f"gives another {name} once the caller overwrites returned arrays or used actions.",
                    "Return copies of what the environment keeps, and keep copies of actions.",
                )
            _fault(
                where,
                f"gave another {name} the second time.",
                "Take every random number from generators that reset(seed=...) seeds, or say so: "
                "spec.nondeterministic.",
            )
        player.spoil = False
        again.append(player.reset())
    if not data_equivalence(*again):
        _fault(
            f"reset() {len(run.steps)} steps after reset(seed={run.seed})",
            "gave another observation the second time.",
            "Let an unseeded reset go on with the generators that the seed made.",
        )


def _check_starts(player: _Player, seed: int, notes: list[str]) -> bool:
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
        _fault(
            f"reset(seed={seed})",
            f"starts all {player.num_envs} lanes alike, whatever the seed, although another seed starts differently.",
            "Give lane i a generator of its own, e.g. from seed + i.",
        )
    first = player.reset()
    for _ in range(STARTS):
        if not data_equivalence(first, player.reset()):
            return True
    _fault(
        "reset() without a seed",
        f"gave the same start {STARTS} times, although seeds start differently.",
        "Go on with the generators there are; the default is seed=None, and no fixed seed.",
    )


def _check_lane_seeds(player: _Player, seed: int, notes: list[str]) -> bool:
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
                _fault(
                    f"reset(seed={others})",
                    f"starts lane {lane} otherwise than reset(seed={seeds}), although its own seed is the same.",
                    "Seed lane i with seed[i] alone.",
                )
    return True


# ---------------------------------------------------------------- resets


def _check_partial_reset(player: _Player, run: _Run, lane_seeds: bool, notes: list[str]) -> bool:
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
        _fault(
            f"reset(seed={run.seed}, options={{'reset_mask': {mask}}})",
            f"starts lane 0 otherwise than reset(seed={run.seed}) does.",
            "Reset the masked lanes as a full reset with their seeds would.",
        )
    going_on = dict.fromkeys(range(player.num_envs), begun) | {0: 0}  # each lane's place in the run, till its end there
    for count in range(1, len(run.actions) - begun + 1):
        step = player.step(_mixed(player, run.actions[count - 1], run.actions[count - 1 + begun]))
        for lane, offset in tuple(going_on.items()):
            index = count - 1 + offset
            name = _lane_difference(player, run, index, step, lane)
            if name and lane == 0:
                _fault(
                    f"step {count} after a reset of lane 0 alone",
                    f"{name} of lane 0 is not what it is after reset(seed={run.seed}).",
                    "Reset everything of the masked lanes, also their counters and generators.",
                )
            if name:
                _fault(
                    f"step {count} after a reset of lane 0 alone",
                    f"{name} of lane {lane} is not what it is without that reset.",
                    "Keep everything of the other lanes, also their counters and generators.",
                )
            if run.outcomes[index]["terminated"][lane] or run.outcomes[index]["truncated"][lane]:
                del going_on[lane]
        if not going_on:
            break
    return True


def _mixed(player: _Player, first: Data, others: Data) -> Data:
    """Return the actions ``others`` with those of ``first`` in lane 0."""
    batch, single = player.env.action_space, player.env.single_action_space
    lanes = [next(iter(iterate(batch, first))), *list(iterate(batch, others))[1:]]
    empty: Data = create_empty_array(single, player.num_envs)
    return concatenate(single, lanes, empty)


def _lane_difference(player: _Player, run: _Run, index: int, step: _Step, lane: int) -> str | None:
    """Return in what a lane's ``step`` differs from its step ``index`` of the run, of what is kept of that."""
    for name, new in step.outcome.items():
        if new[lane] != run.outcomes[index][name][lane]:
            return name
    if index < len(run.steps):
        old, shown = (player.lanes(one.observation)[lane] for one in (run.steps[index], step))
        return None if data_equivalence(old, shown) else "observation"
    return None


def _check_reset_after_end(player: _Player, run: _Run, partial_reset: bool) -> None:
    """A seeded reset right after an end starts over: nothing of the end is left."""
    everyone = np.ones(player.num_envs, dtype=np.bool_)
    for mask in (None, everyone) if partial_reset else (None,):
        run.play(player, min(run.ends) + 1)
        start = player.reset(run.seed, mask)
        name = None if data_equivalence(run.start, start) else "observation"
        name = name or run.steps[0].difference(player.step(run.actions[0]))
        if name:
            _fault(
                f"reset(seed={run.seed}{'' if mask is None else ', reset_mask of all lanes'}) right after an end",
                f"does not start over: {name} is not what it is after a first reset with that seed.",
                "Let a reset clear everything, also the memory of who has ended.",
            )


def _check_next_step_ignores_action(player: _Player, run: _Run) -> None:
    """In mode NEXT_STEP, the action of a lane that is being reset does nothing."""
    if player.mode is not AutoresetMode.NEXT_STEP or run.after_end is None:
        return
    index = min(run.ends) + 1
    run.play(player, index)
    batch, single = player.env.action_space, player.env.single_action_space
    planned = list(iterate(batch, run.actions[index]))
    actions = list(planned)
    for _ in range(STARTS):
        other = list(iterate(batch, player.actions.sample()))
        for lane in np.flatnonzero(player.pending):
            if data_equivalence(actions[lane], planned[lane]):
                actions[lane] = other[lane]
    empty: Data = create_empty_array(single, player.num_envs)
    step = player.step(concatenate(single, actions, empty))
    name = run.after_end.difference(step)
    if name:
        _fault(
            f"step {index + 1} after reset(seed={run.seed})",
            f"{name} depends on the action of a lane that is being reset.",
            "Mode NEXT_STEP: ignore the actions of lanes whose episode ended at the step before.",
        )


def _check_end_is_no_start(player: _Player, run: _Run) -> None:
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
        _fault(
            f"step {min(run.ends) + 1} after reset(seed={run.seed})",
            f"the lanes {np.flatnonzero(run.ends[min(run.ends)].ended)} ended, but what is shown as their final "
            "observation is the first of the next episode.",
            "Keep the observation before you reset: it is infos['final_obs'] in mode SAME_STEP, and the returned "
            "observation in the others.",
        )


def _check_disabled_stays_ended(player: _Player, run: _Run) -> None:
    """In mode DISABLED, a lane that ended does not come back by itself."""
    if player.mode is not AutoresetMode.DISABLED:
        return
    index = min(run.ends)
    run.play(player, index + 1)
    ended = player.pending
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # AsyncVectorEnv warns of what its processes raise
        try:
            _, _, terminated, truncated, _ = player.env.step(run.actions[0])
        except Exception:
            return  # to refuse is right
    if not (terminated | truncated)[ended].all():
        _fault(
            f"step {index + 2} after reset(seed={run.seed})",
            f"the lanes {np.flatnonzero(ended)} had ended, but play on without a reset.",
            "Mode DISABLED: keep them ended until reset(options={'reset_mask': ...}), or refuse the step.",
        )


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
        _fault("closed", "is False after close().", "Override close_extras() rather than close().")
