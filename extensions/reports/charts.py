"""SVG charts with labelled axes: histogram, categories, cumulative shares, time line, strip.

Colours come from the page's theme by class. A screen reader reads a chart's title and
description; the figures themselves belong into a table beside it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

import numpy as np

from extensions.reports.axes import Scale, linear_scale, nice_ticks, scale_for, spaced_labels
from extensions.reports.html import Markup, element
from extensions.reports.numbers import number, share

WIDTH = 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 44
_HEIGHT = 220
_PLOT = _HEIGHT - _TOP - _BOTTOM
# Of one character at the charts' font size, in their own units.
_CHARACTER = 7.2
_ROW = 34


@dataclass(frozen=True)
class Series:
    """A name and a colour (``first``, ``second`` or ``change``) of what is drawn."""

    name: str
    colour: str


@dataclass(frozen=True)
class Points:
    """A line: places on the x axis and shares of rows, both ascending."""

    series: Series
    x: Sequence[float]
    shares: Sequence[float]


@dataclass(frozen=True)
class FloorLine:
    """A floor in a time line: its value and its verdict."""

    value: float
    verdict: str


def histogram(
    title: str,
    edges: Sequence[float],
    counts: Sequence[tuple[Series, Sequence[float]]],
    x_label: str,
) -> Markup:
    """Shares of rows by bin, drawn equally wide, so that bins near quantiles show the tails.

    Args:
        title: what a screen reader says first.
        edges: ascending inner edges, one fewer than bins; they label the x axis.
        counts: rows by bin of each series; each is drawn as its own share.
        x_label: what the bins are of, with its unit.
    """
    shares = [(series, _shares(rows)) for series, rows in counts]
    top = max((value for _, values in shares for value in values), default=0.0) or 1.0
    ticks = nice_ticks(0, 100 * top)
    scale = linear_scale(0, ticks[-1] / 100, _TOP + _PLOT, _TOP)
    step = (WIDTH - _LEFT - _RIGHT) / (len(edges) + 1)
    parts = [_share_axis(ticks, scale)]
    width = 0.86 * step / len(shares)
    for place, name in enumerate(bin_names(edges)):
        x = _LEFT + place * step + 0.07 * step
        for at, (series, values) in enumerate(shares):
            tip = f"{series.name}, {name}: {share(values[place])}"
            corner = (x + at * width, scale(values[place]))
            parts.append(_bar(corner, (width, _TOP + _PLOT - corner[1]), series.colour, tip))
    places = [_LEFT + (place + 1) * step for place in range(len(edges))]
    parts.append(_x_axis(places, [number(edge, 3) for edge in edges], x_label))
    summary = "; ".join(
        f"{series.name}: most rows in {bin_names(edges)[int(np.argmax(values))]}"
        for series, values in shares
    )
    return _svg(title, f"Share of rows by bin of {x_label}. {summary}.", parts, _HEIGHT)


def categories(
    title: str, names: Sequence[str], counts: Sequence[tuple[Series, Sequence[float]]]
) -> Markup:
    """Shares of rows by category as horizontal bars; every bar has its name and its share."""
    shares = [(series, _shares(rows)) for series, rows in counts]
    top = max((value for _, values in shares for value in values), default=0.0) or 1.0
    scale = linear_scale(0, top, 0, WIDTH - 2 - 60)
    bar, parts = 11, []
    row = 18 + (bar + 2) * len(shares) + 6
    for place, name in enumerate(names):
        y = place * row
        parts.append(_text(0, y + 13, _shortened(name, 48), tip=name))
        for at, (series, values) in enumerate(shares):
            top_y, width = y + 18 + at * (bar + 2), scale(values[place])
            tip = f"{series.name}, {name}: {share(values[place])}"
            parts.append(_bar((0, top_y), (max(width, 1.0), bar), series.colour, tip))
            parts.append(_text(width + 6, top_y + bar - 1, share(values[place])))
    leading = names[0] if names else "none"
    description = f"Shares of {len(names)} categories, the most frequent one first: {leading}."
    return _svg(title, description, parts, row * max(1, len(names)))


def by_position(
    title: str, values: Sequence[tuple[Series, Sequence[float]]], x_label: str
) -> Markup:
    """Values that are not negative as bars by their position, from 0: a vector's dimensions."""
    top = max((value for _, side in values for value in side), default=0.0) or 1.0
    ticks = nice_ticks(0, top)
    scale = linear_scale(0, ticks[-1], _TOP + _PLOT, _TOP)
    number_of = max((len(side) for _, side in values), default=0)
    step = (WIDTH - _LEFT - _RIGHT) / max(1, number_of)
    parts = [_y_axis([(scale(tick), number(tick, 3)) for tick in ticks])]
    width = 0.86 * step / len(values)
    for at, (series, side) in enumerate(values):
        for place, value in enumerate(side):
            corner = (_LEFT + (place + 0.07) * step + at * width, scale(value))
            tip = f"{series.name}, {x_label} {place}: {number(value)}"
            parts.append(_bar(corner, (width, _TOP + _PLOT - corner[1]), series.colour, tip))
    places = [_LEFT + (place + 0.5) * step for place in range(number_of)]
    parts.append(_x_axis(places, [str(place) for place in range(number_of)], x_label))
    return _svg(title, f"{number_of} positions, 0 to {number(top)}.", parts, _HEIGHT)


def cumulative(title: str, lines: Sequence[Points], x_label: str) -> Markup:
    """The share of rows at or below each value (empirical distribution function).

    Args:
        title: what a screen reader says first.
        lines: one or two, each with points.
        x_label: what the values are, with their unit.
    """
    x_scale = scale_for([x for line in lines for x in line.x], _LEFT, WIDTH - _RIGHT)
    y_scale = linear_scale(0, 1, _TOP + _PLOT, _TOP)
    parts = [_share_axis([0, 25, 50, 75, 100], y_scale)]
    for line in lines:
        path = f"M{x_scale(line.x[0]):.1f},{y_scale(0):.1f}" + "".join(
            f"H{x_scale(x):.1f}V{y_scale(y):.1f}" for x, y in zip(line.x, line.shares, strict=True)
        )
        parts.append(element("path", d=path, class_=line.series.colour))
    ticks = x_scale.ticks
    labels = [number(tick, 3) for tick in ticks]
    parts.append(_x_axis([x_scale(tick) for tick in ticks], labels, x_label + x_scale.note))
    ranges = "; ".join(
        f"{line.series.name}: {number(line.x[0])} to {number(line.x[-1])}" for line in lines
    )
    return _svg(title, f"Share of rows at or below each {x_label}. {ranges}.", parts, _HEIGHT)


def time_line(
    title: str,
    times: Sequence[datetime],
    values: Sequence[float | None],
    floors: Sequence[FloorLine],
    label: Callable[[float], str],
) -> Markup:
    """A statistic by window, with its floors as labelled lines.

    Args:
        title: what a screen reader says first.
        times: where each window begins, ascending.
        values: the statistic of each window; None: not measured.
        floors: lines to draw across.
        label: how a value reads, with its unit.
    """
    present = [value for value in values if value is not None]
    top = max([*present, *(1.15 * floor.value for floor in floors), 0.0]) or 1.0
    ticks = nice_ticks(0, top, 4)
    y_scale = linear_scale(0, ticks[-1], _TOP + _PLOT, _TOP)
    # Each window has its place, and stands in its middle.
    step = (WIDTH - _LEFT - _RIGHT) / max(1, len(values))
    places = [_LEFT + (place + 0.5) * step for place in range(len(values))]
    parts = [_y_axis([(y_scale(tick), label(tick)) for tick in ticks])]
    for floor in floors:
        y = f"{y_scale(floor.value):.1f}"
        parts.append(element("line", x1=f"{_LEFT}", x2=f"{WIDTH - _RIGHT}", y1=y, y2=y,
                             class_=floor.verdict))  # fmt: skip
        # Each at a side of its own: floors that lie near one another stay readable.
        side = (_LEFT + 4, None) if floor is floors[0] else (WIDTH - _RIGHT - 4, "end")
        parts.append(
            _text(side[0], y_scale(floor.value) - 4, floor.verdict, floor.verdict, anchor=side[1])
        )
    path, drawing = "", False
    for x, value in zip(places, values, strict=True):
        if value is not None:
            path += f"{'L' if drawing else 'M'}{x:.1f},{y_scale(value):.1f}"
            tip = label(value)
            parts.append(_bar((x - 2.5, y_scale(value) - 2.5), (5, 5), "second", tip))
        drawing = value is not None
    # Under a window that was not measured there is no line.
    parts.append(element("path", d=path or f"M{_LEFT},{_TOP}", class_="second"))
    same_day = len({time.date() for time in times}) == 1
    labels = [f"{time:%H:%M}" if same_day else f"{time:%m-%d %H:%M}" for time in times]
    day = f"{times[0]:%Y-%m-%d}, UTC" if same_day and times else "UTC"
    parts.append(_x_axis(places, labels, f"window's begin ({day})"))
    last = "not measured" if values[-1] is None else label(values[-1])
    limits = ", ".join(f"{floor.verdict} floor {label(floor.value)}" for floor in floors)
    return _svg(title, f"{len(values)} windows; the last one: {last}. {limits}.", parts, _HEIGHT)


def strip(title: str, verdicts: Sequence[tuple[str, str]]) -> Markup:
    """One box per window, coloured by verdict and as high as it is grave: ``(verdict, when)``."""
    heights = {"ok": 6, "insufficient": 4, "warning": 11, "critical": 16, "error": 16}
    boxes = [
        _bar((place * 7, 17 - heights.get(verdict, 4)), (6, heights.get(verdict, 4)), verdict,
             f"{when}: {verdict}")
        for place, (verdict, when) in enumerate(verdicts)
    ]  # fmt: skip
    counted = {verdict: sum(1 for v, _ in verdicts if v == verdict) for verdict, _ in verdicts}
    description = ", ".join(f"{count} {verdict}" for verdict, count in counted.items())
    return _svg(title, f"Oldest first: {description or 'none'}.", boxes, 18, 7 * len(verdicts) or 7)


def bin_names(edges: Sequence[float]) -> list[str]:
    """``below 1``, ``1 to 5``, ``5 and above``."""
    if not len(edges):
        return ["all values"]
    labels = [number(edge) for edge in edges]
    between = [f"{low} to {high}" for low, high in pairwise(labels)]
    return [f"below {labels[0]}", *between, f"{labels[-1]} and above"]


def _shares(rows: Sequence[float]) -> list[float]:
    total = sum(rows) or 1
    return [row / total for row in rows]


def _share_axis(percents: Sequence[float], scale: Scale) -> Markup:
    return _y_axis([(scale(value / 100), f"{number(value, 3)} %") for value in percents])


def _y_axis(ticks: Sequence[tuple[float, str]]) -> Markup:
    parts = []
    for y, label in ticks:
        parts.append(element("line", x1=f"{_LEFT}", x2=f"{WIDTH - _RIGHT}", y1=f"{y:.1f}",
                             y2=f"{y:.1f}", class_="grid"))  # fmt: skip
        parts.append(_text(_LEFT - 6, y + 4, label, anchor="end"))
    return Markup("").join(parts)


def _x_axis(places: Sequence[float], labels: Sequence[str], label: str) -> Markup:
    base = _TOP + _PLOT
    parts = [element("line", x1=f"{_LEFT}", x2=f"{WIDTH - _RIGHT}", y1=f"{base}", y2=f"{base}",
                     class_="axis")]  # fmt: skip
    parts += [
        element("line", x1=f"{x:.1f}", x2=f"{x:.1f}", y1=f"{base}", y2=f"{base + 4}", class_="axis")
        for x in places
    ]
    for place in spaced_labels(places, labels, _CHARACTER, WIDTH):
        x = places[place]
        half = len(labels[place]) * _CHARACTER / 2
        parts.append(_text(min(x, WIDTH - half), base + 18, labels[place], anchor="middle"))
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    parts.append(_text(middle, base + 38, _shortened(label, 56), anchor="middle", tip=label))
    return Markup("").join(parts)


def _bar(corner: tuple[float, float], size: tuple[float, float], class_: str, tip: str) -> Markup:
    (x, y), (width, height) = corner, size
    return element("rect", element("title", tip), class_=class_, x=f"{x:.1f}", y=f"{y:.1f}",
                   width=f"{width:.1f}", height=f"{max(height, 0):.1f}")  # fmt: skip


def _text(
    x: float,
    y: float,
    content: str,
    class_: str | None = None,
    *,
    anchor: str | None = None,
    tip: str | None = None,
) -> Markup:
    title = element("title", tip) if tip is not None and tip != content else ""
    return element("text", content, title, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor,
                   class_=class_)  # fmt: skip


def _svg(
    title: str, description: str, parts: Sequence[Markup], height: float, width: float = WIDTH
) -> Markup:
    return element(
        "svg", element("title", title), element("desc", description), *parts,
        viewBox=f"0 0 {width:g} {height:g}", width=f"{width:g}", height=f"{height:g}", role="img",
    )  # fmt: skip


def _shortened(label: str, longest: int) -> str:
    return label if len(label) <= longest else label[: longest - 1] + "…"
