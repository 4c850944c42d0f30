"""The run directories of a report: doubles left out, grouped by their settings; the material of ``jedi-env report``.

What is missing, unfinished or damaged is named in a warning. A run is read in ``run_files.py``, means are made in
``report_tables.py``, the page in ``report_page``.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from jedi_env.config_json import KIND, to_json
from jedi_env.errors import RunError, UsageError
from trainers.config import differences
from trainers.presets import PRESETS
from trainers.run_files import DamagedError, Run, read_run, why_no_run

CHANGES_NAMED = 2  # settings that differ from the preset: so many are named in a label, more are counted


@dataclass(frozen=True)
class Method:
    """Runs with the same settings.

    Attributes:
        label: family and nearest preset, with what was changed.
        family: ``"JEDI"`` where the world model lives in latents, ``"DIAMOND"`` where in pixels.
        preset: the nearest.
        changes: settings that differ from it: (path, the preset's value, the run's).
        config_hash: of the settings.
    """

    label: str
    family: str
    preset: str
    changes: tuple[tuple[str, str, str], ...]
    config_hash: str


@dataclass(frozen=True)
class Gathered:
    """All that was read.

    Attributes:
        runs: ordered by method, game, seed.
        methods: in the order of the presets.
        warnings: sentences about what is missing, unfinished or damaged.
    """

    runs: tuple[Run, ...]
    methods: tuple[Method, ...]
    warnings: tuple[str, ...]


def gather(folders: Sequence[Path], now: datetime) -> Gathered:
    """Read run directories.

    Args:
        folders: run directories; one given twice counts once.
        now: the time, to say how long ago an unfinished run wrote.

    Raises:
        UsageError: none of the folders is a run directory, or one does not exist.
        RunError: all of them are damaged.
    """
    unique = list({folder.resolve(): folder for folder in folders}.values())
    if not unique:
        raise UsageError("There is nothing to report on: write run directories, such as `jedi-env report runs/*`.")
    wrong = {folder: sentence for folder in unique if (sentence := why_no_run(folder)) is not None}
    if len(wrong) == len(unique) or not all(folder.is_dir() for folder in wrong):
        raise UsageError(" ".join(wrong.values()))
    warnings = [f"{sentence} It is left out." for sentence in wrong.values()]
    runs = []
    for folder in unique:
        if folder in wrong:
            continue
        try:
            runs.append(read_run(folder))
        except DamagedError as error:
            warnings.append(f"{error} It is left out.")
    if not runs:
        raise RunError(" ".join(warnings))
    runs, doubled = _without_doubles(runs)
    methods = _methods(runs)
    labels = {method.config_hash: method.label for method in methods}
    order = {method.config_hash: i for i, method in enumerate(methods)}
    runs = sorted(runs, key=lambda run: (order[run.config_hash], run.game, run.seed, str(run.path)))
    named = tuple(replace(run, method=labels[run.config_hash]) for run in runs)
    warnings += doubled + [sentence for run in named for sentence in _warnings(run, now)]
    return Gathered(named, methods, tuple(warnings + _missing_seeds(named)))


# Groups


def _methods(runs: Sequence[Run]) -> tuple[Method, ...]:
    by_hash = {run.config_hash: run.config for run in runs}
    methods = [_method(config_hash, config) for config_hash, config in by_hash.items()]
    methods.sort(key=lambda method: (list(PRESETS).index(method.preset), len(method.changes), method.config_hash))
    twice = {label for label, n in Counter(method.label for method in methods).items() if n > 1}
    return tuple(
        replace(method, label=f"{method.label}, {method.config_hash}") if method.label in twice else method
        for method in methods
    )


def _method(config_hash: str, config: Mapping[str, Any]) -> Method:
    found = {name: list(differences(to_json(preset), config)) for name, preset in PRESETS.items()}
    preset = min(found, key=lambda name: len(found[name]))
    changes = tuple((path, json.dumps(there), json.dumps(here)) for path, there, here in found[preset])
    world_model = config.get("world_model")
    encoder = world_model.get("encoder") if isinstance(world_model, Mapping) else None
    pixels = isinstance(encoder, Mapping) and encoder.get(KIND) == "PixelEncoderConfig"
    family = "DIAMOND" if pixels else "JEDI"
    label = f"{family} ({'ours' if preset == family.lower() else preset})"  # a DIAMOND is published too
    if len(changes) > CHANGES_NAMED:
        label += f", {len(changes)} settings changed"
    elif changes:
        label += ", " + ", ".join(f"{path.rpartition('.')[2]} {here}" for path, _, here in changes)
    return Method(label, family, preset, changes, config_hash)


def _without_doubles(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """Return the runs without those that are there twice, the one that came further kept, and what was left out."""
    kept: dict[tuple[str, str, int], Run] = {}
    left = []
    for run in runs:
        key = (run.config_hash, run.game, run.seed)
        other = kept.get(key)
        if other is None:
            kept[key] = run
            continue
        first, second = sorted((other, run), key=lambda it: (it.finished, it.epochs), reverse=True)
        kept[key] = first
        left.append(
            f"{second.path} is the same run as {first.path} (settings, game, seed): it is left out, for its scores "
            f"would count twice."
        )
    return list(kept.values()), left


# Warnings


def _warnings(run: Run, now: datetime) -> Iterator[str]:
    for fault in run.faults:
        yield fault if str(run.path) in fault else f"{run.path}: {fault}"
    if not run.finished:
        yield f"{run.path} is unfinished: {progress_of(run)}, last wrote {ago(run.last_write, now)}."
    elif not run.evaluations and run.demo is None:
        yield f"{run.path} is finished, but its agent was never scored: it is in no table."


def progress_of(run: Run) -> str:
    """Return how far a run came, in words."""
    planned = "" if run.epochs_planned is None else f" of {run.epochs_planned}"
    steps = max((int(p.real_steps) for p in (*run.play, *run.dream_reward, *run.real_reward)), default=0)
    return f"epoch {run.epochs}{planned}, {steps:,} real steps" if run.epochs else "nothing is logged yet"


def ago(then: datetime | None, now: datetime) -> str:
    """Return how long ago, in words."""
    if then is None:
        return "never"
    minutes = max(0.0, (now - then).total_seconds() / 60)
    if minutes < 1:
        return "just now"
    for size, name in ((60 * 24, "days"), (60, "hours")):
        if minutes >= 2 * size:
            return f"{minutes / size:.0f} {name} ago"
    return f"{minutes:.0f} minutes ago"


def _missing_seeds(runs: Sequence[Run]) -> list[str]:
    """Return a sentence for every game that lacks seeds which other games of its method have."""
    sentences = []
    for method in dict.fromkeys(run.method for run in runs):
        seeds: dict[str, set[int]] = {}
        for run in runs:
            if run.method == method and run.evaluations:
                seeds.setdefault(run.game, set()).add(run.seed)
        every = set().union(*seeds.values()) if seeds else set()
        lacking = [
            f"{game} (seed {', '.join(map(str, sorted(every - have)))})" for game, have in seeds.items() if every - have
        ]
        if lacking:
            sentences.append(f"{method}: no score yet in {'; '.join(lacking)}.")
    return sentences
