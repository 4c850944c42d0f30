"""Charts as SVG text that takes its colours from the page's style sheet, so that one file is right in light and dark.

Series i has the class ``s<i>``; text is text, and what is pointed at tells its numbers by ``<title>``. It knows nothing
of runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from markupsafe import Markup, escape

from jedi_env.metrics import Interval

WIDTH, HEIGHT = 340, 210
LEFT, RIGHT, TOP, BOTTOM = 44, 16, 16, 34
ROW = 24  # height of a row of a forest
LABEL, LETTERS = 140, 19  # width of its labels, and how many letters fit in bold
VALUE = 52  # width of its numbers
COLOURS = 8


class Style(StrEnum):
    """How a line is drawn; the value is its class in the style sheet."""

    MEAN = "mean"  # thick
    DASHED = "dashed"
    SEED = "seed"  # thin
    UNFINISHED = "open"  # thin, with a ring at its end

    @property
    def main(self) -> bool:
        """Whether it is drawn over the thin ones."""
        return self in (Style.MEAN, Style.DASHED)


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        series: which colour.
        points: (x, y).
        title: told when pointed at.
        style: how it is drawn.
    """

    series: int
    points: Sequence[tuple[float, float]]
    title: str
    style: Style = Style.MEAN


@dataclass(frozen=True)
class Band:
    """An interval along x: (x, low, high)."""

    series: int
    points: Sequence[tuple[float, float, float]]


@dataclass(frozen=True)
class Reference:
    """A horizontal line to compare with; not drawn, but told at the edge, where it is far above everything."""

    name: str
    y: float


@dataclass(frozen=True)
class ForestRow:
    """A value with its interval; series None: one of the published."""

    label: str
    series: int | None
    interval: Interval
    known_interval: bool = True


def shown(value: float, whole: bool = False) -> str:
    """Return a number as people write it: three digits or more, no noise; ``whole``: a count."""
    if not math.isfinite(value):
        return "\N{EN DASH}" if math.isnan(value) else "\N{INFINITY}"
    size = abs(value)
    if value == 0 or whole or size >= 1000:
        return f"{value:,.0f}"
    digits = 0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3
    return f"{value:.{digits}f}"


def tick(value: float) -> str:
    """Return the short name of a tick: 20000 is 20k."""
    for size, suffix in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def ticks(low: float, high: float, most: int) -> list[float]:
    """Return at most ``most`` + 1 round numbers from ``low`` to ``high``."""
    span = high - low
    if not span > 0:
        return [low]
    rough = span / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def chart(
    lines: Sequence[Line],
    bands: Sequence[Band] = (),
    references: Sequence[Reference] = (),
    *,
    x_label: str,
    label: str,
    from_zero: bool = False,
) -> Markup:
    """Return a line chart; empty if there is no point.

    Args:
        lines: what is drawn.
        bands: intervals, behind the lines.
        references: horizontal lines.
        x_label: under the x axis.
        label: what the chart shows, for who cannot see it.
        from_zero: y begins at 0 or below.
    """
    xs = [x for line in lines for x, _ in line.points]
    if not xs:
        return Markup("")
    ys = [y for line in lines for _, y in line.points]
    ys += [y for band in bands for _, low, high in band.points for y in (low, high)]
    room = max(max(ys) - min(ys), 1e-9, 0.02 * max(map(abs, ys)))
    drawn = [r for r in references if min(ys) - 2 * room <= r.y <= max(ys) + 1.2 * room]
    above = [r for r in references if r.y > max(ys) + 1.2 * room]
    x0, x1 = _x_range(xs)
    y0, y1 = _y_range([*ys, *(r.y for r in drawn)], from_zero)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def px(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (right - LEFT)

    def py(y: float) -> float:
        return TOP + (y1 - y) / (y1 - y0) * (bottom - TOP)

    parts = []
    for y in ticks(y0, y1, 4):
        parts.append(_tag("line", {"class": "grid", "x1": LEFT, "x2": right, "y1": py(y), "y2": py(y)}))
        parts.append(_text("tick", LEFT - 6, py(y) + 3.5, tick(y), "end"))
    parts += [_text("tick", px(x), bottom + 14, tick(x), "middle") for x in ticks(x0, x1, 5)]
    parts.append(_text("axis", (LEFT + right) / 2, HEIGHT - 4, x_label, "middle"))
    for band in bands:
        outline = [(x, high) for x, _, high in band.points] + [(x, low) for x, low, _ in reversed(band.points)]
        path = _path([(px(x), py(y)) for x, y in outline])
        parts.append(_tag("polygon", {"class": f"band {_colour(band.series)}", "points": path}))
    for reference in drawn:
        at = py(reference.y)
        parts.append(_tag("line", {"class": "reference", "x1": LEFT, "x2": right, "y1": at, "y2": at}))
    for line in sorted(lines, key=lambda it: it.style.main):
        kind, title = f"{line.style} {_colour(line.series)}", _tag("title", {}, escape(line.title))
        at_screen = [(px(x), py(y)) for x, y in line.points]
        if len(at_screen) > 1:
            parts.append(_tag("polyline", {"class": kind, "points": _path(at_screen)}, title))
        if len(at_screen) == 1 or line.style is Style.UNFINISHED:
            parts.append(_tag("circle", {"class": kind, "cx": at_screen[-1][0], "cy": at_screen[-1][1], "r": 3}, title))
    for reference in drawn:  # last, so that no line runs through the words
        words = f"{reference.name} {shown(reference.y)}"
        parts.append(_text("note", right, py(reference.y) - 3, words, "end"))
    if above:
        words = ", ".join(f"{r.name} {shown(r.y)}" for r in above) + " \N{UPWARDS ARROW}"
        parts.append(_text("note", right, TOP - 5, words, "end"))
    return _svg(HEIGHT, label, parts)


def forest(
    rows: Sequence[ForestRow],
    *,
    label: str,
    bars: bool,
    best: Callable[[Sequence[float]], float] | None = None,
    whole: bool = False,
) -> Markup:
    """Return a value and its interval a row, on one scale from 0 (or below).

    Args:
        rows: from the top.
        label: what the chart shows.
        bars: draw bars from 0 rather than points.
        best: ``max`` or ``min``: the values set in bold are those equal to it; None: none are.
        whole: the values are counts.
    """
    values = [row.interval.value for row in rows if math.isfinite(row.interval.value)]
    ends = [v for row in rows for v in (row.interval.value, row.interval.low, row.interval.high) if math.isfinite(v)]
    x0, x1 = min([0.0, *ends]), max([0.0, *ends])
    x1 = x1 if x1 > x0 else x0 + 1.0
    top = best(values) if best is not None and len(values) > 1 else math.nan
    height = ROW * len(rows) + 22

    def px(x: float) -> float:
        return LABEL + (min(max(x, x0), x1) - x0) / (x1 - x0) * (WIDTH - LABEL - VALUE)

    parts = []
    for x in ticks(x0, x1, 4):
        if not whole or x == round(x):
            parts.append(_tag("line", {"class": "grid", "x1": px(x), "x2": px(x), "y1": 2, "y2": height - 18}))
            parts.append(_text("tick", px(x), height - 5, tick(x), "middle"))
    for i, row in enumerate(rows):
        middle, interval = ROW * i + ROW / 2 + 2, row.interval
        name = row.label if len(row.label) <= LETTERS else row.label[: LETTERS - 1] + "\N{HORIZONTAL ELLIPSIS}"
        inside = [
            _tag("title", {}, escape(f"{row.label}: {_in_words(row, whole)}")),
            _text("name", LABEL - 8, middle + 4, name, "end"),
        ]
        if math.isfinite(interval.value):
            at, low, high = px(interval.value), px(interval.low), px(interval.high)
            if bars:
                begin, end = sorted((px(0.0), at))
                box = {"x": begin, "y": middle - 7, "width": max(end - begin, 0.5), "height": 14, "rx": 2}
                inside.append(_tag("rect", {"class": "bar", **box}))
            if row.known_interval:
                inside.append(_tag("line", {"class": "whisker", "x1": low, "x2": high, "y1": middle, "y2": middle}))
            if not bars:
                inside.append(_tag("circle", {"class": "dot", "cx": at, "cy": middle, "r": 4.5}))
        weight = "value best" if interval.value == top else "value"
        inside.append(_text(weight, WIDTH - 4, middle + 4, shown(interval.value, whole), "end"))
        kind = "published" if row.series is None else f"ours {_colour(row.series)}"
        parts.append(_tag("g", {"class": kind}, Markup("").join(inside)))
    return _svg(height, label, parts)


def _x_range(xs: Sequence[float]) -> tuple[float, float]:
    low, high = min(xs), max(xs)
    if 0 < low < 0.5 * high:
        low = 0.0
    if high <= low:
        half = max(abs(low), 1.0) / 2
        return low - half, high + half
    return low, high


def _y_range(ys: Sequence[float], from_zero: bool) -> tuple[float, float]:
    low, high = min([*ys, *([0.0] if from_zero else [])]), max(ys)
    room = 0.06 * ((high - low) or max(abs(high), 1.0))
    return (low if from_zero and low == 0 else low - room), high + room


def _in_words(row: ForestRow, whole: bool) -> str:
    interval = row.interval
    if not math.isfinite(interval.value):
        return "not defined or not known"
    if not row.known_interval:
        return f"{shown(interval.value, whole)}, no interval"
    return f"{shown(interval.value, whole)} ({shown(interval.low, whole)} to {shown(interval.high, whole)})"


def _colour(series: int) -> str:
    return f"s{series % COLOURS}"


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _text(kind: str, x: float, y: float, words: str, anchor: str) -> Markup:
    return _tag("text", {"class": kind, "x": x, "y": y, "text-anchor": anchor}, escape(words))


def _tag(name: str, attributes: Mapping[str, str | float], inside: Markup | None = None) -> Markup:
    told = "".join(
        f' {key}="{escape(value if isinstance(value, str) else f"{value:.1f}".removesuffix(".0"))}"'
        for key, value in attributes.items()
    )
    return Markup(f"<{name}{told}/>" if inside is None else f"<{name}{told}>{inside}</{name}>")


def _svg(height: float, label: str, parts: Sequence[Markup]) -> Markup:
    attributes = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {WIDTH} {height:g}", "role": "img"}
    return _tag("svg", {**attributes, "aria-label": label}, Markup("").join(parts))
