"""One run directory, read into a record: nothing is written, and no run is too young or too broken to be read.

What is missing or damaged is left out and named among the record's faults.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jedi_env.checkpoint_config import FORMAT
from jedi_env.config_json import from_json
from jedi_env.errors import CheckpointError
from trainers.config import with_defaults

if TYPE_CHECKING:
    from trainers.fidelity import FidelityReport

PICTURES = ("strip.png", "fidelity/strip.png")  # dream beside reality, the first that is there
FIDELITY_PLOT = "fidelity/fidelity.png"
_PATH_KEYS = {"game", "seed", "config"}


@dataclass(frozen=True)
class Point:
    """A number measured at some point of a run.

    Attributes:
        real_steps: steps taken on the real game so far.
        imagined_steps: dream steps that the agent has learned from so far.
        minutes: of computing so far, all phases.
        value: what was measured.
        weight: how many measurements ``value`` is the mean of.
    """

    real_steps: float
    imagined_steps: float
    minutes: float
    value: float
    weight: float = 1.0


@dataclass(frozen=True)
class Evaluation:
    """The agent's score on full real games, at some point of its run.

    Attributes:
        at: where, and the mean return.
        episodes: how many games.
        returns: of each; empty where ``scores.json`` could not be read.
        final: the last evaluation of a run that came to its end.
        protocol: how the game was played.
    """

    at: Point
    episodes: int
    returns: tuple[float, ...]
    final: bool
    protocol: Mapping[str, Any]


@dataclass(frozen=True)
class Demo:
    """A Stable-Baselines3 policy that learned in the run's dream, beside a random one (``trainers.demo``).

    Attributes:
        agent, random: returns of full real games.
        imagined_steps: that it learned from.
        dream_return: of its last dream episodes (signs of rewards), None if unknown.
        horizon: dream steps an episode, None if unknown.
        seconds: by phase.
    """

    agent: tuple[float, ...]
    random: tuple[float, ...]
    imagined_steps: int
    dream_return: float | None
    horizon: int | None
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Run:
    """One run directory.

    Attributes:
        path: as it was given.
        game: as it was named.
        seed: of everything random.
        config: all its settings.
        config_hash: of them.
        method: the label of its group: runs with the same settings.
        epochs: begun, the last of which may be under way.
        epochs_planned: in all; None while the first is not over.
        finished: it has its checkpoint.
        last_write: when it logged last.
        evaluations: in order.
        play: mean score of the games that ended in an epoch's real play, with exploration.
        dream_reward: mean reward in a dream step (of signs, but where rewards of any size are learned).
        real_reward: the same in a real step.
        seconds: of computing, by phase.
        commits, machines: that made its scores.
        picture: dream beside reality, None if there is none.
        fidelity: how far the dream can be trusted, None if it was not measured.
        demo: None unless it is the demonstration's.
        faults: what was wrong with the directory, in sentences.
    """

    path: Path
    game: str
    seed: int
    config: Mapping[str, Any]
    config_hash: str
    method: str
    epochs: int
    epochs_planned: int | None
    finished: bool
    last_write: datetime | None
    evaluations: tuple[Evaluation, ...]
    play: tuple[Point, ...]
    dream_reward: tuple[Point, ...]
    real_reward: tuple[Point, ...]
    seconds: Mapping[str, float]
    commits: tuple[str, ...]
    machines: tuple[str, ...]
    picture: Path | None
    fidelity: FidelityReport | None
    demo: Demo | None
    faults: tuple[str, ...]

    @property
    def score(self) -> Evaluation | None:
        """The final evaluation, or the last one so far; None before the first."""
        return self.evaluations[-1] if self.evaluations else None

    @property
    def minutes(self) -> float:
        """Of computing so far."""
        return sum(self.seconds.values()) / 60


class DamagedError(Exception):
    """A run whose ``config.json`` cannot be read: it cannot even be named."""


def read_run(folder: Path) -> Run:
    """Read one run directory; ``method`` is left empty."""
    described = _described(folder)
    faults: list[str] = []
    logged = list(_log(folder, faults))
    finished = (folder / "checkpoint" / "config.json").is_file()
    clock = _clock(logged)
    config: Any = with_defaults(described["config"])
    records = _scores(folder, faults)
    evaluations = (
        _evaluations_logged(logged, clock, finished) if records is None else _evaluations(records, clock, faults)
    )
    metrics = folder / "metrics.jsonl"
    commits, machines = _origins(folder, records or [], faults)
    return Run(
        path=folder,
        game=described["game"],
        seed=described["seed"],
        config=config,
        config_hash=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12],
        method="",
        epochs=_epochs_done(logged),
        epochs_planned=_epochs_planned(config, logged),
        finished=finished,
        last_write=datetime.fromtimestamp(metrics.stat().st_mtime, UTC) if metrics.exists() else None,
        evaluations=evaluations,
        play=tuple(_series(logged, clock, "collect", "score", weight="games")),
        dream_reward=tuple(_series(logged, clock, "imagine", "dream_reward")),
        real_reward=tuple(_real_reward(logged, clock)),
        seconds=_seconds(logged),
        commits=commits,
        machines=machines,
        picture=next((folder / name for name in PICTURES if (folder / name).is_file()), None),
        fidelity=_fidelity(folder, faults),
        demo=_demo(folder, faults),
        faults=tuple(faults),
    )


# What a run directory is


def why_no_run(folder: Path) -> str | None:
    """Return why a folder is no run directory, or None; a damaged run is one."""
    if not folder.is_dir():
        return f"{folder} is no folder."
    path = folder / "config.json"
    if not path.is_file():
        inside = sorted(child.parent.name for child in folder.glob("*/config.json"))
        holds = f" It holds some: write {folder}/*." if inside and inside != ["checkpoint"] else ""
        return f"{folder} is no run directory: it has no config.json, with which `jedi-env train` begins.{holds}"
    try:
        data = _loads(path.read_text())
    except (ValueError, OSError):
        return None
    if isinstance(data, dict) and data.get("format") == FORMAT:
        return f"{folder} is a checkpoint: write its run directory."
    if not isinstance(data, dict) or not data.keys() >= _PATH_KEYS:
        return f"{folder} is no run directory: its config.json does not say game, seed and config."
    return None


def _loads(text: str | bytes) -> Any:  # noqa: ANN401  # whatever a file may hold
    """Return the JSON in ``text``; nesting too deep for Python is a ValueError like all other damage."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _described(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        data: dict[str, Any] = _loads(path.read_text())
    except (ValueError, OSError) as error:
        raise DamagedError(f"{path} is damaged ({error}).") from error
    kinds = {"game": str, "seed": int, "config": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(data[name], kind)]
    if wrong:
        raise DamagedError(f"{path} is damaged ({', '.join(wrong)} of the wrong kind).")
    return data


# The log


def _log(folder: Path, faults: list[str]) -> Iterator[dict[str, Any]]:
    """Yield the records of ``metrics.jsonl``; lines that are none are counted, the half-written last one forgiven."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")
    bad = 0
    for i, line in enumerate(lines):
        try:
            record = _loads(line) if line else None
        except ValueError:
            bad += i < len(lines) - 1  # a crash, or a reader in between, cuts the last one
            continue
        if isinstance(record, dict) and isinstance(record.get("epoch"), int) and isinstance(record.get("phase"), str):
            yield record
        else:
            bad += record is not None
    if bad:
        faults.append(f"{path}: {bad} damaged line{'s' if bad > 1 else ''} left out.")


def _number(record: Mapping[str, Any], key: str) -> float | None:
    """Return a finite number, or None."""
    value = record.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _clock(logged: Sequence[Mapping[str, Any]]) -> dict[int, Point]:
    """Return where a run stood at the end of each epoch, 0 as the value."""
    clock: dict[int, Point] = {}
    real = imagined = minutes = 0.0
    for record in logged:
        real = _number(record, "real_steps") or real
        imagined = _number(record, "imagined_steps") or imagined
        minutes += (_number(record, "seconds") or 0.0) / 60
        clock[record["epoch"]] = Point(real, imagined, minutes, 0.0)
    return clock


def _series(
    logged: Sequence[Mapping[str, Any]], clock: Mapping[int, Point], phase: str, key: str, weight: str | None = None
) -> Iterator[Point]:
    for record in logged:
        value = _number(record, key)
        if record["phase"] == phase and value is not None:
            heavy = _number(record, weight) if weight else None
            yield replace(clock[record["epoch"]], value=value, weight=heavy or 1.0)


def _seconds(logged: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    seconds: Counter[str] = Counter()
    for record in logged:
        seconds[record["phase"]] += _number(record, "seconds") or 0.0  # type: ignore[assignment]
    return dict(seconds)


def _epochs_done(logged: Sequence[Mapping[str, Any]]) -> int:
    return 1 + max((record["epoch"] for record in logged), default=-1)


def _epochs_planned(config: Mapping[str, Any], logged: Sequence[Mapping[str, Any]]) -> int | None:
    """Return what :func:`trainers.config.epochs` says, from the files alone."""
    first = next((_number(record, "real_steps") for record in logged if record["phase"] == "collect"), None)
    collect = config.get("collect")
    if first is None or not isinstance(collect, Mapping):
        return None
    total, steps, final = (
        _number(*it) for it in ((collect, "total_steps"), (collect, "steps"), (config, "final_epochs"))
    )
    if total is None or not steps or final is None:
        return None
    return 1 + max(0, math.ceil((total - first) / steps)) + int(final)


def _real_reward(logged: Sequence[Mapping[str, Any]], clock: Mapping[int, Point]) -> Iterator[Point]:
    """Yield the mean of the real rewards of each epoch's play, in the dream's own unit."""
    before = 0.0
    for record in logged:
        value, steps = _number(record, "real_reward"), _number(record, "real_steps")
        if record["phase"] == "collect" and value is not None and steps is not None:
            yield replace(clock[record["epoch"]], value=value, weight=steps - before)
            before = steps


# Scores


def _scores(folder: Path, faults: list[str]) -> list[dict[str, Any]] | None:
    """Return the records of ``scores.json``, none if it is not there yet, or None if it is damaged."""
    path = folder / "scores.json"
    if not path.exists():
        return []
    try:
        records = _loads(path.read_text())
        if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
            raise ValueError("no list of records")
    except (ValueError, OSError) as error:
        faults.append(f"{path} is damaged ({error}): the means in metrics.jsonl are shown in its place.")
        return None
    return records


def _evaluations(
    records: Sequence[Mapping[str, Any]], clock: Mapping[int, Point], faults: list[str]
) -> tuple[Evaluation, ...]:
    evaluations = []
    for record in records:
        returns = record.get("returns")
        epoch, real, imagined = record.get("epoch"), _number(record, "real_steps"), _number(record, "imagined_steps")
        numbers = isinstance(returns, list) and all(_number({"": r}, "") is not None for r in returns)
        if not numbers or not returns or real is None or not isinstance(epoch, int):
            faults.append("scores.json: a record without returns or real_steps is left out.")
            continue
        minutes = clock[epoch].minutes if epoch in clock else math.nan
        evaluations.append(
            Evaluation(
                Point(real, imagined or 0.0, minutes, float(np.mean(returns))),
                episodes=len(returns),
                returns=tuple(float(r) for r in returns),
                final=record.get("final") is True,
                protocol=record["protocol"] if isinstance(record.get("protocol"), dict) else {},
            )
        )
    return tuple(evaluations)


def _evaluations_logged(
    logged: Sequence[Mapping[str, Any]], clock: Mapping[int, Point], finished: bool
) -> tuple[Evaluation, ...]:
    points = list(_series(logged, clock, "evaluate", "score", weight="episodes"))
    return tuple(
        Evaluation(replace(point, weight=1.0), int(point.weight), (), finished and i == len(points) - 1, {})
        for i, point in enumerate(points)
    )


def _origins(
    folder: Path, records: Sequence[Mapping[str, Any]], faults: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the commits and machines that a run's files name."""
    sources = list(records)
    path = folder / "checkpoint" / "config.json"
    if path.is_file():
        try:
            sources.append(_loads(path.read_text())["provenance"])
        except (ValueError, OSError, KeyError, TypeError) as error:
            faults.append(f"{path} is damaged ({error!r}).")
    commits, machines = (
        tuple(dict.fromkeys(str(source[key]) for source in sources if isinstance(source, dict) and source.get(key)))
        for key in ("commit", "machine")
    )
    return commits, machines


# What else may lie there


def _fidelity(folder: Path, faults: list[str]) -> FidelityReport | None:
    from trainers.fidelity import ENTRY, FidelityReport

    path, data = folder / "fidelity" / "fidelity.json", None
    try:
        if path.is_file():
            data = _loads(path.read_text())
        elif (path := folder / "checkpoint" / "config.json").is_file():
            data = _loads(path.read_text()).get("metrics", {}).get(ENTRY)
        return None if data is None else from_json(FidelityReport, data, "fidelity")
    except (ValueError, OSError, AttributeError, CheckpointError) as error:
        faults.append(f"{path}: the fidelity report cannot be read ({error}).")
        return None


def _demo(folder: Path, faults: list[str]) -> Demo | None:
    path = folder / "summary.json"
    if not path.is_file():
        return None
    try:
        data = _loads(path.read_text())
        agent, random = (tuple(float(r) for r in data[name]["returns"]) for name in ("agent", "random"))
        if not agent or not random or not all(math.isfinite(r) for r in (*agent, *random)):
            raise ValueError("no returns")
        horizon = _number(data["demo"], "horizon")
        return Demo(
            agent,
            random,
            imagined_steps=int(data["imagined_steps"]),
            dream_return=_number(data, "dream_return"),
            horizon=None if horizon is None else int(horizon),
            seconds={str(name): float(value) for name, value in data["seconds"].items()},
        )
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
        faults.append(f"{path} is damaged ({error!r}): the Stable-Baselines3 card is left out.")
        return None
