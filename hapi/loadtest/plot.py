"""Plots as SVG: lines, bars, cumulative shares. Pure; a plot is one self-contained `<svg>`, for a file or for a page.

It follows the reader's light or dark colours. Axes carry their units; values are plotted as given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

import msgspec

Point = tuple[float, float]
Format = Callable[[float], str]
WIDTH, HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 68, 16, 52, 44
_TICKS = 6
_LOG_TICKS = 8
_HUGE = 1e30
_LIGHT = ("#1f6feb", "#d1495b", "#2a9d5c", "#b7791f", "#7c4dbd", "#0e8a94", "#6b7280")
_DARK = ("#6ea8fe", "#ff8fa0", "#6fdc9d", "#f2c265", "#c3a0f5", "#5fd3dd", "#a8b0bd")


class Series(msgspec.Struct, frozen=True):
    """One line: points by ascending x. `dots` marks each, for a few measured points; `dashed` is for a bound."""

    name: str
    points: Sequence[Point]
    dots: bool = False
    dashed: bool = False


class Axis(msgspec.Struct, frozen=True):
    """One axis: what it says and in which unit. A logarithmic one takes values above 0 only; others are left out."""

    label: str
    log: bool = False
    zero: bool = True
    top: float | None = None


class _Scale:
    """Values of one axis as places on it, and its ticks."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float) -> None:
        self._log = axis.log
        good = [value for value in values if self.takes(value)]
        low, high = (min(good), max(good)) if good else (0.1 if axis.log else 0.0, 1.0)
        if axis.top is not None:
            high = max(high, axis.top)
        if axis.log:
            self.ticks = _log_ticks(low, high)
        else:
            low = min(low, 0.0) if axis.zero else low
            self.ticks = _ticks(low, high)
        low, high = min(low, self.ticks[0]), max(high, self.ticks[-1])
        self._start = start
        self._low = self._raw(low)
        self._per = (end - start) / ((self._raw(high) - self._low) or 1.0)

    def takes(self, value: float) -> bool:
        """Whether the value has a place; one that is no figure, or of no size that anything has, has none."""
        return abs(value) < _HUGE and (value > 1 / _HUGE or not self._log)

    def place(self, value: float) -> float:
        return self._start + (self._raw(value) - self._low) * self._per

    def _raw(self, value: float) -> float:
        return math.log10(value) if self._log else value


def lines(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> str:
    """Lines in one frame, with a legend when there are several."""
    points = [point for one in series for point in one.points]
    across = _Scale(x, [point[0] for point in points], _LEFT, WIDTH - _RIGHT)
    up = _Scale(y, [point[1] for point in points], HEIGHT - _BOTTOM, _TOP)
    body = [_line(index, one, across, up) for index, one in enumerate(series)]
    return _svg(title, [*_grid(x, y, across, up), *body, *_legend([one.name for one in series])])


def cumulative(title: str, x: Axis, series: Sequence[Series]) -> str:
    """Shares of 0 … 1 over a value, as percent: what part took no longer than that."""
    percent = [Series(one.name, [(value, share * 100) for value, share in one.points]) for one in series]
    return lines(title, x, Axis("% no more than that", top=100.0), percent)


def bars(title: str, labels: Sequence[str], y: Axis, stacks: Sequence[Sequence[float]], names: Sequence[str]) -> str:
    """One bar per label, stacked of as many parts as there are `names`: `stacks[i]` are the parts of label i."""
    up = _Scale(y, [0.0, *(sum(stack) for stack in stacks)], HEIGHT - _BOTTOM, _TOP)
    room = (WIDTH - _RIGHT - _LEFT) / max(1, len(labels))
    body = _horizontal(y, up)
    every = math.ceil(len(labels) / 14)
    for index, (label, stack) in enumerate(zip(labels, stacks, strict=True)):
        left = _LEFT + room * index + room * 0.12
        base = 0.0
        for part, value in enumerate(stack):
            top, bottom = up.place(base + value), up.place(base)
            tip = escape(f"{label}: {f'{names[part]} ' if len(names) > 1 else ''}{number(value)}")
            body.append(
                f'<rect class="f{part % len(_LIGHT)}" x="{left:.1f}" y="{top:.1f}" width="{room * 0.76:.1f}" '
                f'height="{max(0.0, bottom - top):.1f}"><title>{tip}</title></rect>'
            )
            base += value
        if index % every == 0:
            middle = _LEFT + room * (index + 0.5)
            body.append(_text(middle, HEIGHT - _BOTTOM + 16, label, "middle"))
    return _svg(title, [*body, *_legend(names)])


def number(value: float) -> str:
    """A value at a tick: `0.05`, `2.5`, `40`, `12k`, `3M`."""
    for scale, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= scale:
            divisor = 1e3 if unit == "k" else scale
            return f"{value / divisor:.4g}{unit}"
    return f"{value:.4g}"


def _ticks(low: float, high: float) -> list[float]:
    """Round values that enclose low … high."""
    span = max(high - low, abs(high) * 1e-9)
    span = span if span > 1 / _HUGE else 1.0
    step = 10.0 ** math.floor(math.log10(span / _TICKS))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if span / (step * factor) <= _TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil((low + span) / step - 1e-9)
    return [round(step * index, 12) for index in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten that enclose low … high; 1, 2, 5 times them where those are few."""
    decades = range(math.floor(math.log10(low) + 1e-9), math.ceil(math.log10(high) - 1e-9) + 1)
    if len(decades) * 3 > _LOG_TICKS + 1:
        return [10.0**power for power in decades]
    fine = [10.0**power * step for power in decades for step in (1, 2, 5)]
    first = max((index for index, tick in enumerate(fine) if tick <= low * (1 + 1e-9)), default=0)
    last = min((index for index, tick in enumerate(fine) if tick >= high * (1 - 1e-9)), default=len(fine) - 1)
    return fine[first : max(last, first + 1) + 1]


def _grid(x: Axis, y: Axis, across: _Scale, up: _Scale) -> list[str]:
    """Axes, ticks and labels."""
    foot = HEIGHT - _BOTTOM
    body = _horizontal(y, up)
    for tick in across.ticks:
        place = across.place(tick)
        body.append(f'<path class="grid" d="M{place:.1f} {_TOP}V{foot}"/>')
        body.append(_text(place, foot + 16, number(tick), "middle"))
    body.append(_text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 8, x.label, "middle"))
    return body


def _horizontal(y: Axis, up: _Scale) -> list[str]:
    body = []
    for tick in up.ticks:
        place = up.place(tick)
        body.append(f'<path class="grid" d="M{_LEFT} {place:.1f}H{WIDTH - _RIGHT}"/>')
        body.append(_text(_LEFT - 6, place + 4, number(tick), "end"))
    return [*body, _text(_LEFT - 6, _TOP - 10, y.label, "start", shift=-48)]


def _line(index: int, one: Series, across: _Scale, up: _Scale) -> str:
    places = [(across.place(x), up.place(y), x, y) for x, y in one.points if across.takes(x) and up.takes(y)]
    if not places:
        return ""
    path = "M" + "L".join(f"{left:.1f} {top:.1f}" for left, top, _, _ in places)
    colour = index % len(_LIGHT)
    drawn = f'<path class="line s{colour}{" dash" if one.dashed else ""}" d="{path}"/>'
    if not one.dots:
        return drawn
    marks = (
        f'<circle class="f{colour}" cx="{left:.1f}" cy="{top:.1f}" r="3">'
        f"<title>{escape(f'{one.name}: {number(x)}, {number(y)}')}</title></circle>"
        for left, top, x, y in places
    )
    return drawn + "".join(marks)


def _legend(names: Sequence[str]) -> list[str]:
    """Names with their colours, from the right; none for a single one."""
    if len(names) < 2:
        return []
    body, right = [], float(WIDTH - _RIGHT)
    for index, name in reversed([*enumerate(names)]):
        right -= 7.0 * len(name)
        body.append(_text(right, 40, name, "start"))
        right -= 16
        body.append(f'<rect class="f{index % len(_LIGHT)}" x="{right:.1f}" y="31" width="10" height="10" rx="2"/>')
        right -= 10
    return body


def _text(x: float, y: float, words: str, anchor: str, shift: float = 0.0) -> str:
    return f'<text x="{x + shift:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _style() -> str:
    def colours(values: Sequence[str], text: str, grid: str) -> str:
        rules = [f".s{i}{{stroke:{value}}}.f{i}{{fill:{value}}}" for i, value in enumerate(values)]
        return "".join([f"text{{fill:{text}}}.grid{{stroke:{grid}}}", *rules])

    fixed = "text{font:12px system-ui,sans-serif}.head{font-size:15px;font-weight:600}.grid{fill:none}"
    strokes = ".line{fill:none;stroke-width:1.8;stroke-linejoin:round}.dash{stroke-dasharray:5 4}"
    dark = f"@media(prefers-color-scheme:dark){{{colours(_DARK, '#d7dbe0', '#3a4048')}}}"
    return f"<style>{fixed}{strokes}{colours(_LIGHT, '#30363d', '#e2e6ea')}{dark}</style>"


def _svg(title: str, body: Sequence[str]) -> str:
    name = escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{name}">{_style()}<text class="head" x="{_LEFT - 54}" y="20">{name}</text>'
        f"{''.join(body)}</svg>"
    )
