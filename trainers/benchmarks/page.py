"""What was measured, for people: a page of tables in Markdown and two pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.benchmarks.bench import BASELINE, OURS, PUBLIC, PUBLIC_FLOAT32

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEAD = """# Speed

Made by `jedi-env bench --page docs/speed.md`; do not edit. What was tried to get here is in [speed_log](speed_log.md).

"""
_COLOURS = {OURS: "tab:blue", BASELINE: "tab:orange", PUBLIC: "tab:red", PUBLIC_FLOAT32: "tab:pink"}


def page(record: dict[str, Any], pictures: Sequence[str] = ()) -> str:
    """Return the page of a record of :func:`trainers.benchmarks.bench.bench`.

    Args:
        record: what was measured.
        pictures: paths of its pictures, relative to the page.
    """
    config = record["config"]
    names = _names(record)
    compiled = ", compiled" if record["compile"] else ""
    against = f" DIAMOND's public code ran beside them, from `{config['against']}`." if config["against"] else ""
    parts = [
        _HEAD,
        f"**{record['machine']}**, {record['device']}, {record['dtype']}{compiled}, torch "
        f"{record['versions'].get('torch', '?')}, commit `{_commit(record)}`, by `{record['command']}`. Load before "
        f"and after: {record['load_before']:.1f}, {record['load_after']:.1f} (without other work at most the number of "
        f"threads, {record['threads']}). The run took {record['seconds'] / 60:.0f} minutes.\n\n"
        f"*{names[OURS]}* is the model of the preset `{config['model']}`, *{names[BASELINE]}* that of "
        f"`{config['baseline']}`, both in this package, with random weights.{against} Every piece runs in a process of "
        "its own; what is compared runs in alternating repetitions. Numbers are medians, with quartiles behind them. "
        "*Share* is the achieved FLOP/s over those of a matrix product in the same precision, timed after every "
        "repetition (recurrent layers are not counted, so it is a little too low). *Memory* is the peak while it ran, "
        "less what the process held before the model was built.\n",
    ]
    if record["bars"]:
        cells = [
            [b["name"], b["wanted"], _number(b["measured"]), "yes" if b["reached"] else "no"] for b in record["bars"]
        ]
        parts.append("\n## Aims\n\n" + _table(["aim", "wanted", "measured", "reached"], cells))
    if "dream" in record:
        parts.append("\n## Dream steps a second\n\n" + _rates(record["dream"], "lanes", "lanes", names))
    if "updates" in record:
        parts.append(
            "\n## Updates a second, at each preset's own batch\n\n" + _rates(record["updates"], "part", "of", names)
        )
        parts.append(
            f"\nOf the agent's updates only {config['horizon']} imagined steps are run (of DIAMOND's code 2), and the "
            "time of all is the multiple. Where chance decides whether the denoiser's own estimates are fed back, one "
            "update of each kind is run. The GFLOP are those of one whole update.\n"
        )
    if "layers" in record:
        parts.append(_layers(record))
    if "replay" in record:
        parts.append(_growth(record))
    parts += [f"\n![{Path(picture).stem}]({picture})\n" for picture in pictures]
    return "".join(parts)


def save_pictures(record: dict[str, Any], folder: Path) -> list[Path]:
    """Save the pictures for which there are numbers; return their paths."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    saved = []
    if "dream" in record:
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        rates, memory = figure.subplots(1, 2)
        for who in dict.fromkeys(row["who"] for row in record["dream"]):
            rows = [row for row in record["dream"] if row["who"] == who and row["skipped"] is None]
            lanes, label = [row["lanes"] for row in rows], _names(record)[who]
            rates.plot(lanes, [row["rate"] for row in rows], "o-", ms=3, color=_COLOURS[who], label=label)
            rates.fill_between(
                lanes, [row["low"] for row in rows], [row["high"] for row in rows], color=_COLOURS[who], alpha=0.2
            )
            memory.plot(lanes, [row["working_mb"] for row in rows], "o-", ms=3, color=_COLOURS[who], label=label)
        _finish(rates, "lanes", "dream steps a second")
        _finish(memory, "lanes", "MiB")
        saved.append(folder / "speed.png")
        figure.savefig(saved[-1], dpi=80)
    if "replay" in record:
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        replay, width = figure.subplots(1, 2)
        rows = [row for row in record["replay"] if row["skipped"] is None]
        frames = [row["frames"] for row in rows]
        replay.plot(frames, [1e3 * row["seconds"] for row in rows], "o-", ms=3, label="draw of a batch, ms")
        replay.plot(frames, [row["noted"]["open"] for row in rows], "s-", ms=3, label="opening the log, s")
        replay.plot(frames, [row["noted"]["index_mb"] for row in rows], "^-", ms=3, label="its index, MiB")
        _finish(replay, "frames in the replay", "")
        rows = [row for row in record["width"] if row["skipped"] is None]
        widths = [row["width"] for row in rows]
        width.plot(widths, [1e3 * row["seconds"] for row in rows], "o-", ms=3, label="dream step, ms")
        width.plot(widths, [row["gflop"] for row in rows], "s-", ms=3, label="GFLOP")
        width.plot(widths, [row["working_mb"] for row in rows], "^-", ms=3, label="memory, MiB")
        _finish(width, "channels of the denoiser", "")
        saved.append(folder / "speed-growth.png")
        figure.savefig(saved[-1], dpi=80)
    return saved


def _finish(axes: Axes, across: str, up: str) -> None:
    axes.set_xscale("log", base=2 if across != "frames in the replay" else 10)
    axes.set_yscale("log")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _names(record: dict[str, Any]) -> dict[str, str]:
    config = record["config"]
    public = "DIAMOND's code"
    return {
        OURS: config["model"],
        BASELINE: config["baseline"],
        PUBLIC: f"{public}, {record['dtype']}",
        PUBLIC_FLOAT32: f"{public}, float32",
    }


def _rates(rows: Sequence[dict[str, Any]], key: str, title: str, names: dict[str, str]) -> str:
    cells = []
    for row in rows:
        if row["skipped"] is not None:
            cells.append([str(row[key]), names[row["who"]], f"not measured: {row['skipped']}", "", "", ""])
            continue
        cells.append(
            [
                str(row[key]),
                names[row["who"]],
                f"{_number(row['rate'])} ({_number(row['low'])} to {_number(row['high'])})",
                _number(row["gflop_per_update" if "gflop_per_update" in row else "gflop"]),
                f"{row['share']:.0%}",
                f"{row['working_mb']:,.0f} MiB",
            ]
        )
    return _table([title, "model", "a second", "GFLOP", "share", "memory"], cells)


def _layers(record: dict[str, Any]) -> str:
    small, ppo, first = record["config"]["small"], record["ppo"], record["first_step"]
    cells = [
        [f"{row['lanes']}", f"{1e3 * row['dream_seconds']:.1f} ms", f"{row['face']:.2%}", f"{row['bridge']:.2%}"]
        for row in record["layers"]
    ]
    where = ", ".join(f"{name} {ppo[name]:.1%}" for name in ("dream", "face", "bridge", "policy", "learning", "rest"))
    return (
        f"\n## Around a dream (`{small}`)\n\n"
        + _table(["lanes", "dream step", "Gymnasium face adds", "SB3 bridge adds"], cells)
        + f"\nPPO of Stable-Baselines3, {ppo['lanes']} lanes: {_number(ppo['steps_per_second'])} steps a second end "
        f"to end. Its time: {where}.\n\nA fresh process makes its first step {first['seconds']:.1f} s after its "
        f"first import ({first['process']:.1f} s with the start of Python), medians.\n"
    )


def _growth(record: dict[str, Any]) -> str:
    draws = [
        [
            f"{row['frames']:,}",
            f"{1e3 * row['seconds']:.2f} ms",
            f"{row['noted']['open']:.2f} s",
            f"{row['noted']['index_mb']:,.1f} MiB",
        ]
        for row in record["replay"]
        if row["skipped"] is None
    ]
    widths = [
        [
            str(row["width"]),
            f"{1e3 * row['seconds']:.0f} ms",
            _number(row["gflop"]),
            f"{row['share']:.0%}",
            f"{row['working_mb']:,.0f} MiB",
        ]
        for row in record["width"]
        if row["skipped"] is None
    ]
    batches = [
        [str(row["batch"]), _number(row["imagined_per_second"]), f"{row['working_mb']:,.0f} MiB"]
        for row in record["imagination"]
        if row["skipped"] is None
    ]
    return (
        "\n## As work grows\n\nThe replay: a draw of 32 segments of 5 transitions; opening reads the whole log once, "
        "for its checksum. The frames are a hole in a file: a real log of more frames than fit into memory also waits "
        "for the disk.\n\n"
        + _table(["frames", "draw", "opening", "its index in memory"], draws)
        + "\nThe width of the denoiser:\n\n"
        + _table(["channels", "dream step", "GFLOP", "share", "memory"], widths)
        + "\nThe batch of imagination, with the agent's learning:\n\n"
        + _table(["dreams", "imagined steps a second", "memory"], batches)
    )


def _commit(record: dict[str, Any]) -> str:
    """Return twelve digits of the commit, and the mark of a tree that was changed since."""
    commit = record["commit"] or "unknown"
    return f"{commit[:12]}{'+' * commit.endswith('+')}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _number(value: float) -> str:
    """Return three digits of it."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
