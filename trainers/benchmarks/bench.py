"""The whole measurement, as a plain record that goes into JSON: the page and the pictures are made of that alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from jedi_env.config_json import to_json
from trainers.benchmarks.clock import Measured, Outcome, Place, Skipped, Workload, in_turns
from trainers.benchmarks.layers import first_step, layers, ppo
from trainers.benchmarks.public import PublicAgentUpdate, PublicDenoiserUpdate, PublicDream, PublicRewardEndUpdate
from trainers.benchmarks.workloads import AgentUpdate, DenoiserUpdate, DreamSteps, ReplayDraws, RewardEndUpdate
from trainers.presets import PRESETS
from trainers.provenance import provenance

OURS, BASELINE, PUBLIC = "model", "baseline", "public code"  # who is who in the record
PUBLIC_FLOAT32 = f"{PUBLIC}, float32"
PARTS = ("dream", "updates", "layers", "growth")
_PUBLIC_LANES = 32  # DIAMOND's own batch: its code is not asked for more
_MIB = 2**20
_ROWS = (10_000, 30_000, 100_000, 300_000, 1_000_000)
_WIDTHS = (32, 64, 96, 160, 256, 320)
_BATCHES = (32, 64, 128, 256)
_LAYER_LANES = (64, 512)
_FEWER = "fewer lanes were passed over too: "
_PUBLIC_AGENT_HORIZON = 2


@dataclass(frozen=True)
class BenchConfig:
    """What to measure.

    Attributes:
        model, baseline: presets that are compared.
        small: the preset for what users run on two cores: the layers around a dream, PPO in it.
        lanes: dreams side by side.
        seconds: how long each thing is repeated; at least three times however long that takes.
        longest: lane counts at which a step would take more seconds than this are passed over.
        horizon: imagined steps of the agent's update that is run; the time of a whole one is a multiple.
        parts: of :data:`PARTS`.
        against: a checkout of DIAMOND's public code; None: not measured.
        quick: fewer sizes: a look, not a measurement.
    """

    model: str = "paper"
    baseline: str = "diamond"
    small: str = "tiny"
    lanes: tuple[int, ...] = (1, 8, 32, 128, 512, 2048)
    seconds: float = 4.0
    longest: float = 10.0
    horizon: int = 5
    parts: tuple[str, ...] = PARTS
    against: str | None = None
    quick: bool = False


def bench(config: BenchConfig, place: Place, tell: Callable[[str], object]) -> dict[str, Any]:
    """Measure everything and return the record.

    Args:
        config: what.
        place: where.
        tell: is told what is being measured.
    """
    began = time.perf_counter()
    if place.threads is not None:
        torch.set_num_threads(place.threads)
    record: dict[str, Any] = {
        **provenance(config),
        "config": to_json(config),
        "device": place.device,
        "dtype": place.dtype,
        "compile": place.compile,
        "threads": torch.get_num_threads(),
        "load_before": os.getloadavg()[0],
    }
    if "dream" in config.parts:
        record["dream"] = _dreams(config, place, tell)
    if "updates" in config.parts:
        record["updates"] = _updates(config, place, tell)
    if "layers" in config.parts:
        tell("the layers around a dream, PPO in it, the first step")
        lanes = [n for n in _LAYER_LANES if n <= max(config.lanes)] or [max(config.lanes)]
        record["layers"] = [
            layers(config.small, n, place, config.seconds) for n in lanes[: 1 if config.quick else None]
        ]
        record["ppo"] = ppo(config.small, lanes[0], place, config.seconds)
        record["first_step"] = first_step(config.small, 3 if config.quick else 5)
    if "growth" in config.parts:
        record["replay"] = _replays(config, place, tell)
        record["width"] = _widths(config, place, tell)
        record["imagination"] = _imagination(config, place, tell)
    record["bars"] = bars(record)
    record["seconds"] = time.perf_counter() - began
    record["load_after"] = os.getloadavg()[0]
    return record


def best(rows: Sequence[dict[str, Any]], who: str) -> dict[str, Any] | None:
    """Return the fastest of the rows of ``who``, if any was measured."""
    measured = [row for row in rows if row["who"] == who and row["skipped"] is None]
    return max(measured, key=lambda row: float(row["rate"]), default=None)


def bars(record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what was aimed at and what was reached, of what was measured: name, wanted, measured, reached."""
    found: list[dict[str, Any]] = []

    def bar(name: str, wanted: str, measured: float | None, reached: Callable[[float], bool]) -> None:
        if measured is not None:
            found.append({"name": name, "wanted": wanted, "measured": measured, "reached": reached(measured)})

    dreams, updates = record.get("dream", []), record.get("updates", [])
    ours = best(dreams, OURS)
    for who in (BASELINE, PUBLIC, PUBLIC_FLOAT32):
        theirs = best(dreams, who)
        if ours and theirs:
            ratio = ours["rate"] / theirs["rate"]
            bar(f"dream steps/s at the best lane count over the {who}'s", "at least 25", ratio, lambda x: x >= 25)
    if ours:
        share = ours["share"]
        bar("share of the matrix product's FLOP/s, dreaming there", "at least 0.5", share, lambda x: x >= 0.5)
    for who in (BASELINE, PUBLIC):
        mixes = [_mix(updates, one) for one in (OURS, who)]
        if mixes[0] and mixes[1]:
            bar(f"updates/s, equal counts of the three, over the {who}'s", "at least 10", mixes[1] / mixes[0], _ten)
    for name, rows, key in (
        ("dreaming, the most lanes", dreams, "lanes"),
        ("learning, the largest update", updates, "part"),
    ):
        bar(f"peak memory over the baseline's: {name}", "at most 0.57", _memory(rows, key), _small)
    for row in record.get("layers", []):
        added = row["face"] + row["bridge"]
        bar(f"what face and bridge add to a dream step, {row['lanes']} lanes", "below 0.05", added, lambda x: x < 0.05)
    if "first_step" in record:
        seconds = record["first_step"]["seconds"]
        bar("seconds to the first step of gym.make_vec, not compiled", "below 3", seconds, lambda x: x < 3)
    if record["device"].startswith("cuda") and ours:
        bar("dream steps/s at the best lane count", "at least 50000", ours["rate"], lambda x: x >= 50_000)
    return found


def _ten(ratio: float) -> bool:
    return ratio >= 10


def _small(ratio: float) -> bool:
    return ratio <= 0.57


def _mix(rows: Sequence[dict[str, Any]], who: str) -> float | None:
    """Return the seconds of one update of each of the three models."""
    seconds = [1 / row["rate"] for row in rows if row["who"] == who and row["skipped"] is None]
    return sum(seconds) if len(seconds) == 3 else None


def _memory(rows: Sequence[dict[str, Any]], key: str) -> float | None:
    """Return the most memory that ours needs over the most that the baseline needs, where both were measured."""
    needs = {
        who: {row[key]: row["working_mb"] for row in rows if row["who"] == who and row["skipped"] is None}
        for who in (OURS, BASELINE)
    }
    both = needs[OURS].keys() & needs[BASELINE].keys()
    ours, theirs = (max((needs[who][one] for one in both), default=0.0) for who in (OURS, BASELINE))
    return ours / theirs if theirs else None


def _dreams(config: BenchConfig, place: Place, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    full = replace(place, dtype="float32")
    for lanes in config.lanes:
        entries: list[tuple[str, Workload, Place]] = [
            (OURS, DreamSteps(config.model, lanes), place),
            (BASELINE, DreamSteps(config.baseline, lanes), place),
        ]
        if config.against is not None and lanes <= _PUBLIC_LANES:
            entries.append((PUBLIC, PublicDream(Path(config.against), lanes), place))
            if place.dtype != "float32":
                entries.append((PUBLIC_FLOAT32, PublicDream(Path(config.against), lanes), full))
        told = {who: _too_much(rows, who, lanes, config, place) for who, _, _ in entries}
        tell(f"dreaming, {lanes} lanes")
        outcomes = iter(in_turns([(work, where) for who, work, where in entries if not told[who]], config.seconds))
        for who, _, _ in entries:
            reason = told[who]
            rows.append(_row(who, Skipped(reason) if reason else next(outcomes), lanes=lanes))
    return rows


def _too_much(rows: list[dict[str, Any]], who: str, lanes: int, config: BenchConfig, place: Place) -> str | None:
    """Return why so many lanes are not tried, judging from fewer."""
    before = [row for row in rows if row["who"] == who and row["lanes"] < lanes]
    if not before:
        return None
    last = before[-1]
    if last["skipped"] is not None:
        return last["skipped"] if last["skipped"].startswith(_FEWER) else f"{_FEWER}{last['skipped']}"
    growth = lanes / last["lanes"]
    seconds = last["seconds"] * growth
    if seconds > config.longest:
        return f"a step would take about {seconds:.0f} s"
    needed, there = last["working_mb"] * growth, _free_mb(place)
    return f"it would need about {needed:,.0f} MiB of {there:,.0f} MiB that are free" if needed > there else None


def _free_mb(place: Place) -> float:
    if place.device.startswith("cuda"):
        return torch.cuda.mem_get_info(place.device)[0] / _MIB
    info = Path("/proc/meminfo")
    if not info.exists():
        return float("inf")
    line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) / 1024


def _updates(config: BenchConfig, place: Place, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    rows = []
    parts: list[tuple[str, Callable[[str], Workload], Callable[[Path], Workload]]] = [
        ("denoiser", DenoiserUpdate, PublicDenoiserUpdate),
        ("reward and end", RewardEndUpdate, PublicRewardEndUpdate),
        (
            "agent",
            lambda preset: AgentUpdate(preset, config.horizon),
            lambda path: PublicAgentUpdate(path, min(config.horizon, _PUBLIC_AGENT_HORIZON)),
        ),
    ]
    for part, work, public in parts:
        tell(f"updates: {part}")
        entries = [(OURS, work(config.model)), (BASELINE, work(config.baseline))]
        if config.against is not None:
            entries.append((PUBLIC, public(Path(config.against))))
        outcomes = in_turns([(workload, place) for _, workload in entries], config.seconds)
        rows += [_update_row(who, outcome, part=part) for (who, _), outcome in zip(entries, outcomes, strict=True)]
    return rows


def _replays(config: BenchConfig, place: Place, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    sizes = _ROWS[:2] if config.quick else _ROWS
    tell("draws from the replay")
    where = replace(place, device="cpu")
    return [
        _row(OURS, outcome, frames=rows)
        for rows in sizes
        for outcome in in_turns([(ReplayDraws(rows), where)], min(1.0, config.seconds))
    ]


def _widths(config: BenchConfig, place: Place, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    widths = _WIDTHS[:2] if config.quick else _WIDTHS
    lanes = min(64, max(config.lanes))
    tell(f"width of the denoiser, {lanes} lanes")
    return [
        _row(OURS, outcome, width=width)
        for width in widths
        for outcome in in_turns([(DreamSteps(config.model, lanes, width), place)], config.seconds / 3)
    ]


def _imagination(config: BenchConfig, place: Place, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    batches = _BATCHES[:1] if config.quick else _BATCHES
    preset = config.small if config.quick else config.model
    tell("the batch of imagination")
    work = [AgentUpdate(preset, 2, batch) for batch in batches]
    outcomes = in_turns([(one, place) for one in work], config.seconds / 2)
    rows = []
    for batch, outcome in zip(batches, outcomes, strict=True):
        row = _update_row(OURS, outcome, batch=batch)
        if isinstance(outcome, Measured):
            row["imagined_per_second"] = outcome.rate * batch * PRESETS[preset].fit_agent.horizon
        rows.append(row)
    return rows


def _update_row(who: str, outcome: Outcome, **what: float | str) -> dict[str, Any]:
    row = _row(who, outcome, **what)
    if isinstance(outcome, Measured):  # a piece of an update, or several
        row["gflop_per_update"] = row.pop("gflop") / outcome.units
    return row


def _row(who: str, outcome: Outcome, **what: float | str) -> dict[str, Any]:
    if isinstance(outcome, Skipped):
        return {"who": who, **what, "skipped": outcome.reason}
    low, high = outcome.spread
    return {
        "who": who,
        **what,
        "skipped": None,
        "rate": outcome.rate,
        "low": low,
        "high": high,
        "repetitions": len(outcome.seconds),
        "seconds": outcome.units / outcome.rate,
        "gflop": outcome.flops / 1e9,
        "product_gflops": sorted(outcome.product)[len(outcome.product) // 2] / 1e9,
        "share": outcome.share,
        "peak_mb": outcome.peak / _MIB,
        "working_mb": outcome.working / _MIB,
        "noted": outcome.noted,
    }
