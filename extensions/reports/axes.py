"""Scales and ticks of charts: linear, and logarithmic away from zero for long tails."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

# A range more than this many times its middle half is drawn on a logarithmic scale: of a normal
# distribution it is 5 times, of an exponential one 8.
LONG_TAIL = 20


@dataclass(frozen=True)
class Scale:
    """From values to places on a drawing.

    ``threshold``: where a symmetric logarithmic scale turns from linear (about 0) to logarithmic;
    None for a linear scale. ``note``: what to say of it beside the axis.
    """

    low: float
    high: float
    start: float
    end: float
    threshold: float | None = None
    ticks: tuple[float, ...] = field(default=())

    def __call__(self, value: float) -> float:
        """The place of a value."""
        low, high, place = (self._transformed(x) for x in (self.low, self.high, value))
        part = (place - low) / (high - low) if high > low else 0.5
        return self.start + part * (self.end - self.start)

    @property
    def note(self) -> str:
        """Said beside the axis' label."""
        return "" if self.threshold is None else " (logarithmic scale)"

    def _transformed(self, value: float) -> float:
        if self.threshold is None:
            return value
        return math.copysign(math.log10(1 + abs(value) / self.threshold), value)


def linear_scale(low: float, high: float, start: float, end: float) -> Scale:
    """A linear scale, ticks inside the range."""
    ticks = tuple(tick for tick in nice_ticks(low, high) if low <= tick <= high)
    return Scale(low, high, start, end, None, ticks)


def scale_for(values: Sequence[float], start: float, end: float) -> Scale:
    """A scale over all ``values`` (n > 0): logarithmic away from 0 where they have long tails."""
    array = np.asarray(values, float)
    low, high = float(array.min()), float(array.max())
    inner = np.quantile(array, [0.25, 0.75])
    if high - low <= LONG_TAIL * (inner[1] - inner[0]):
        return linear_scale(low, high, start, end)
    sizes = np.abs(array[array != 0])
    threshold = 10.0 ** math.floor(math.log10(float(np.median(sizes))))
    return Scale(low, high, start, end, threshold, _powers(low, high, threshold))


def nice_ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Multiples of 1, 2, 2.5 or 5 times a power of ten that cover the range, in ``most`` steps."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(place * step, 12) for place in range(first, last + 1)]


def spaced_labels(
    places: Sequence[float], labels: Sequence[str], character: float, width: float
) -> list[int]:
    """Which labels fit beside one another: as many as do, at regular distances.

    Args:
        places: where the labels' middles are, ascending.
        labels: their texts.
        character: the width of one character.
        width: of the drawing; a label at its border is moved inside.
    """
    for every in range(1, len(labels) + 1):
        chosen = list(range((len(labels) - 1) % every, len(labels), every))
        end = -math.inf
        for place in chosen:
            half = len(labels[place]) * character / 2
            middle = min(places[place], width - half)
            if middle - half < end:
                break
            end = middle + half + character
        else:
            return chosen
    return []


def _powers(low: float, high: float, threshold: float) -> tuple[float, ...]:
    largest = max(abs(low), abs(high))
    exponent = round(math.log10(threshold))
    sizes = [10.0**power for power in range(exponent, math.floor(math.log10(largest)) + 1)]
    every = -(-len(sizes) // 4)
    sizes = sizes[::-1][::every][::-1]
    ticks = [-size for size in reversed(sizes)] + [0.0] + sizes
    return tuple(tick for tick in ticks if low <= tick <= high)
