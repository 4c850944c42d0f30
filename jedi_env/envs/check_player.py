"""Playing with a ``VectorEnv`` as a careful user would: every answer is checked, alone and after those before it.

``explore`` plays a run and keeps what the checks of seeds and resets compare with when they play it again.
"""

from collections import deque
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array, iterate
from numpy.typing import NDArray

from jedi_env.envs.check_answer import (
    Data,
    Mutable,
    brief,
    check_array,
    check_info,
    check_member,
    fault,
    mutables,
    overlap,
    spoil,
)
from jedi_env.errors import VectorEnvError

COMPARED = 20  # steps of a run that are kept and compared with its repetitions
REMEMBERED = 2  # earlier calls whose memory a call must not share: enough to see two buffers that alternate
AFTER_ENDS = 3  # steps to go on after every lane has ended once
ENDS = 3  # ends that are looked at closely

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Step:
    """Copies of what one step returned; ``finals`` are the final observations of the lanes that ended (SAME_STEP)."""

    observation: Data
    rewards: NDArray[Any]
    terminated: Mask
    truncated: Mask
    finals: dict[int, Data]

    @property
    def ended(self) -> Mask:
        """The lanes whose episode this step ended."""
        return self.terminated | self.truncated

    @property
    def outcome(self) -> dict[str, NDArray[Any]]:
        """All but the observations, by name."""
        return {"rewards": self.rewards, "terminated": self.terminated, "truncated": self.truncated}

    def difference(self, other: "Step") -> str | None:
        """Return the name of a field in which the two differ."""
        for name in ("observation", "rewards", "terminated", "truncated", "finals"):
            if not data_equivalence(getattr(self, name), getattr(other, name)):
                return name
        return None


class Player:
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

    def split(self, actions: Data) -> list[Data]:
        """Return the action of each lane."""
        return list(iterate(self.env.action_space, actions))

    def join(self, actions: list[Data]) -> Data:
        """Return a batch of one action a lane."""
        single = self.env.single_action_space
        empty: Data = create_empty_array(single, self.num_envs)
        return concatenate(single, actions, empty)

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
                fault(where, f"changed the caller's reset_mask to {handed}.", "Copy it before writing to it.")
            self.emptied_options |= "reset_mask" not in options
        if not isinstance(result, tuple) or len(result) != 2:
            fault(where, f"returned {brief(result)}.", "Return (observations, infos).")
        check_member(result[0], self.env.observation_space, f"{where}, observations")
        check_info(result[1], self.num_envs, f"{where}, infos")
        before, self.observation = self.observation, self._keep(where, result)[0]
        if self.spoil:
            spoil(result)
        if mask is not None:
            for lane, (old, new) in enumerate(zip(self.lanes(before), self.lanes(self.observation), strict=True)):
                if not mask[lane] and not data_equivalence(old, new):
                    fault(
                        f"{where}, {self._since_reset} steps after {self._where}",
                        f"changed the observation of lane {lane}, which the mask leaves out.",
                        "Reset the masked lanes only, and return the last observation of the others.",
                    )
                if mask[lane] and self.pending[lane]:
                    self.same_boundary.append(data_equivalence(old, new))
        self.pending = self.pending & ~mask if mask is not None else np.zeros_like(self.pending)
        return self.observation

    def step(self, actions: Data) -> Step:
        """Play one step, after resetting what DISABLED leaves to the caller."""
        if self.mode is AutoresetMode.DISABLED and self.pending.any():
            self.reset(mask=self.pending)
        self._since_reset += 1
        self.steps += 1
        where = f"step() {self._since_reset} after {self._where}"
        handed = deepcopy(actions)
        result = self.env.step(handed)
        if not data_equivalence(handed, actions):
            fault(where, "changed the caller's actions.", "Copy them before writing to them.")
        if not isinstance(result, tuple) or len(result) != 5:
            fault(where, f"returned {brief(result)}.", "Return (observations, rewards, terminated, truncated, infos).")
        observation, rewards, terminated, truncated, info = result
        check_member(observation, self.env.observation_space, f"{where}, observations")
        check_array(rewards, None, (self.num_envs,), f"{where}, rewards")
        if not np.issubdtype(rewards.dtype, np.floating):
            fault(f"{where}, rewards", f"have dtype {rewards.dtype}.", "Return float32 or float64.")
        if np.isnan(rewards).any():
            fault(f"{where}, rewards", f"are {rewards}.", "Return numbers.")
        check_array(terminated, np.dtype(np.bool_), (self.num_envs,), f"{where}, terminated")
        check_array(truncated, np.dtype(np.bool_), (self.num_envs,), f"{where}, truncated")
        check_info(info, self.num_envs, f"{where}, infos")
        observation, rewards, terminated, truncated, info = self._keep(where, result)
        finals = self._finals(info, terminated | truncated, where) if self.mode is AutoresetMode.SAME_STEP else {}
        step = Step(observation, rewards, terminated, truncated, finals)
        self._follow(step, where)
        if self.spoil:
            spoil(result)
            if isinstance(handed, np.ndarray):
                handed[...] = self.actions.sample()
        return step

    def _keep(self, where: str, result: tuple[Any, ...]) -> tuple[Any, ...]:
        """Check that ``result`` shares no memory with earlier ones, and return a copy."""
        parts = ("observations", "rewards", "terminated", "truncated", "infos")
        names = parts if len(result) == len(parts) else ("observations", "infos")
        now = [item for name, data in zip(names, result, strict=True) for item in mutables(data, name)]
        for earlier, before in self._returned:
            for old_name, old in before:
                for name, new in now:
                    if overlap(old, new):
                        fault(
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
                fault(
                    f"{where}, infos[{key!r}]",
                    f"{is_what}, but the lanes that ended are {ended}.",
                    f"Mode SAME_STEP: return {key!r} for these lanes with infos['_{key}'] a copy of that mask.",
                )
        finals = {}
        for lane in np.flatnonzero(ended).tolist():
            final = info["final_obs"]
            finals[lane] = {k: v[lane] for k, v in final.items()} if isinstance(final, dict) else final[lane]
            check_member(finals[lane], self.env.single_observation_space, f"{where}, infos['final_obs'][{lane}]")
        return finals

    def _follow(self, step: Step, where: str) -> None:
        """Check the step against what was pending, and note who is pending now."""
        before, after = self.lanes(self.observation), self.lanes(step.observation)
        self.episodes += int(step.ended.sum())
        for lane in range(self.num_envs):
            if self.mode is AutoresetMode.NEXT_STEP and self.pending[lane]:
                if step.rewards[lane] != 0 or step.ended[lane]:
                    fault(
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
class Run:
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
    steps: list[Step]
    outcomes: list[dict[str, NDArray[Any]]]
    ends: dict[int, Step]
    after_end: Step | None = None
    seamless: bool = False

    @property
    def first_end(self) -> int:
        """The index of the first step at which a lane ended; some lane must have."""
        return min(self.ends)

    def play(self, player: Player, length: int) -> list[Step]:
        """Play the first ``length`` steps again and return what is kept of them."""
        player.reset(self.seed)
        steps = [player.step(action) for action in self.actions[:length]]
        return steps[:COMPARED]


def explore(player: Player, seed: int, limit: int) -> Run:
    """Play until every lane has ended, and a little longer; the player checks every step."""
    run = Run(seed, player.reset(seed), [], [], [], {})
    seen = np.zeros(player.num_envs, dtype=np.bool_)
    extra = AFTER_ENDS
    while len(run.actions) < limit and extra:
        index = len(run.actions)
        run.actions.append(player.actions.sample())
        step = player.step(run.actions[index])
        run.outcomes.append(step.outcome)
        if run.ends and run.after_end is None:
            run.after_end = step
        if step.ended.any() and len(run.ends) < ENDS:
            run.ends[index] = step
        if index < COMPARED:
            run.steps.append(step)
        extra -= bool(seen.all())
        seen |= step.ended
    run.seamless = player.varied and bool(player.same_boundary) and all(player.same_boundary)
    return run
