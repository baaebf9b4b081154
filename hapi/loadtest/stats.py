"""Percentiles, histograms and how figures are written. Pure; durations are seconds."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

_BLOCKS = " ▏▎▍▌▋▊▉█"
_STEPS = (1.0, 2.0, 5.0)  # bounds of a histogram's bins: 1, 2, 5, 10, 20, …
_WIDEST = 12
_NARROWEST = 4  # columns of the longest bar


class Summary(msgspec.Struct, kw_only=True, frozen=True):
    """The distribution of some durations, in seconds."""

    count: int
    mean: float
    min: float
    p50: float
    p90: float
    p99: float
    max: float


class Bin(msgspec.Struct, frozen=True):
    """How many values v there were with low < v ≤ high."""

    low: float
    high: float
    count: int


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` (0 … 1) of the ascending values do not exceed. Raises ValueError for none."""
    if not ordered:
        raise ValueError("no values")
    return ordered[max(0, min(len(ordered), math.ceil(share * len(ordered))) - 1)]


def summarize(values: Sequence[float]) -> Summary | None:
    """The distribution of `values`; None for none."""
    if not values:
        return None
    ordered = sorted(values)
    return Summary(
        count=len(ordered),
        mean=math.fsum(ordered) / len(ordered),
        min=ordered[0],
        p50=percentile(ordered, 0.5),
        p90=percentile(ordered, 0.9),
        p99=percentile(ordered, 0.99),
        max=ordered[-1],
    )


def histogram(values: Sequence[float]) -> list[Bin]:
    """Bins from the smallest to the largest value, none left out in between; [] for no values.

    Bounds are 1, 2, 5, 10 … times a power of ten; where that makes few, twice as many bins. Values ≤ 0 are in the first.
    """
    if not values:
        return []
    bounds = _bounds(min(values), max(values))
    counts = [0] * len(bounds)
    for value in values:
        counts[_place(bounds, value)] += 1
    lows = [0.0, *bounds[:-1]]
    bins = [Bin(low, high, count) for low, high, count in zip(lows, bounds, counts, strict=True)]
    full = [index for index, one in enumerate(bins) if one.count]
    return bins[full[0] : full[-1] + 1]


def _place(bounds: Sequence[float], value: float) -> int:
    import bisect

    return min(bisect.bisect_left(bounds, value), len(bounds) - 1)


def _bounds(low: float, high: float) -> list[float]:
    low = max(low, 1e-6)
    decade = 10.0 ** math.floor(math.log10(low))
    bounds: list[float] = []
    while not bounds or bounds[-1] < high:
        bounds += [decade * step for step in _STEPS]
        decade *= 10
    kept = [bound for index, bound in enumerate(bounds) if bound >= low and (not index or bounds[index - 1] < high)]
    if len(kept) < _WIDEST / 2:
        kept = [part for bound in kept for part in (bound * 0.75, bound)]
    return kept


def drawn(bins: Sequence[Bin], columns: int = 64) -> list[str]:
    """A histogram as lines of text: `≤ 20 ms  ██████▌ 131`, in so many columns if they have room for a bar at all."""
    most = max((one.count for one in bins), default=0)
    labels = [f"≤ {duration(one.high)}" for one in bins]
    column = max(map(len, labels), default=0)
    width = max(_NARROWEST, columns - column - len(f"   {most}"))
    return [
        f"{label.rjust(column)}  {bar(one.count / most, width)} {one.count}"
        for label, one in zip(labels, bins, strict=True)
    ]


def bar(share: float, width: int) -> str:
    """A bar of `share` (0 … 1) of `width` characters, in eighths; something is never nothing."""
    eighths = max(round(share * width * 8), 1 if share > 0 else 0)
    return _BLOCKS[8] * (eighths // 8) + (_BLOCKS[eighths % 8] if eighths % 8 else "")


def cdf(values: Sequence[float], points: int = 200) -> list[tuple[float, float]]:
    """(value, share of the values that do not exceed it), at most `points` of them and the last one; [] for no values."""
    ordered = sorted(values)
    step = max(1, math.ceil(len(ordered) / points))
    marks = [*range(step - 1, len(ordered), step)]
    if ordered and (not marks or marks[-1] != len(ordered) - 1):
        marks.append(len(ordered) - 1)
    return [(ordered[mark], (mark + 1) / len(ordered)) for mark in marks]


def duration(seconds: float) -> str:
    """Three figures and a unit: `840 µs`, `12.5 ms`, `1.30 s`, `12 min`."""
    for scale, unit, most in ((1e-6, "µs", 999.5), (1e-3, "ms", 999.5), (1.0, "s", 600)):
        if seconds < scale * most:
            return f"{_figures(seconds / scale)} {unit}"
    return f"{_figures(seconds / 60)} min"


def size(count: float) -> str:
    """Bytes with three figures: `6.12 MB` (of 1024² bytes)."""
    for scale, unit in ((2**20, "MB"), (2**30, "GB")):
        if count < scale * 999.5:
            return f"{_figures(count / scale)} {unit}"
    return f"{_figures(count / 2**40)} TB"


def _figures(value: float) -> str:
    if value >= 99.95 or value == 0:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
