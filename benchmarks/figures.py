"""What a benchmark says, and how it is shown: rows of figures, targets beside them, tables. Pure.

Seconds are seconds, memory is bytes, rates are per second, and a share of a core is 1.0 for all of it; the tables choose ms and MiB.
"""

from __future__ import annotations

import math
import statistics
from typing import Literal

import msgspec

Unit = Literal["s", "B", "/s", "B/s", "core", ""]
Statistic = Literal["median", "p99", "max"]
MIB = 1 << 20
_QUARTILES_FROM, _P99_FROM = 8, 50  # so many values make quartiles, a 99th percentile worth telling


class Row(msgspec.Struct, frozen=True):
    """One line of a table: a figure for each round, or for each operation. `values` is never empty."""

    name: str
    values: list[float]
    unit: Unit = "s"

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        """The value that 99 of 100 do not exceed (nearest rank)."""
        return sorted(self.values)[math.ceil(0.99 * len(self.values)) - 1]

    @property
    def max(self) -> float:
        return max(self.values)

    def of(self, statistic: Statistic) -> float:
        """That statistic of the values."""
        return float(getattr(self, statistic))

    @property
    def spread(self) -> str:
        """From least to most of few values, the quartiles of many; nothing of one."""
        if len(self.values) == 1:
            return ""
        if len(self.values) < _QUARTILES_FROM:
            low, high = min(self.values), max(self.values)
        else:
            low, _, high = statistics.quantiles(self.values, n=4)
        return f"{shown(low, self.unit)} to {shown(high, self.unit)}"


class Target(msgspec.Struct, frozen=True):
    """What is aimed at. `row`: whose figure; `beside`: the row that it is a multiple of ("": the limit is absolute, in the row's unit)."""

    what: str
    row: str
    limit: float
    beside: str = ""
    statistic: Statistic = "median"
    at_least: bool = False


class Curve(msgspec.Struct, frozen=True):
    """How a figure grows: (x, figure) by ascending x. All curves of a result have the same values of x."""

    name: str
    points: list[tuple[float, float]]
    unit: Unit


class Verdict(msgspec.Struct, frozen=True):
    """A target held against what was measured."""

    what: str
    figure: str
    target: str
    met: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured in one run: rows, or curves over `over`, or both.

    `alike`: the rows are of the same thing, so that their ratios to the first one mean something.
    `wrong`: what was not as it must be, at any speed. `plot`: the name of the picture that the curves make; they have one unit then.
    """

    title: str
    rows: list[Row] = []
    alike: bool = True
    curves: list[Curve] = []
    over: str = ""
    plot: str = ""
    targets: list[Target] = []
    notes: list[str] = []
    wrong: list[str] = []

    def row(self, name: str) -> Row:
        """The row of that name. Raises KeyError."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"{self.title}: no row {name!r}")

    def verdicts(self) -> list[Verdict]:
        """Each target with its verdict; a target whose row was not measured on this machine is left out."""
        names = {row.name for row in self.rows}
        return [self._judge(t) for t in self.targets if t.row in names and (not t.beside or t.beside in names)]

    def _judge(self, target: Target) -> Verdict:
        row = self.row(target.row)
        figure, unit = row.of(target.statistic), row.unit
        sign, which = "≥" if target.at_least else "≤", "" if target.statistic == "median" else f"{target.statistic} "
        if target.beside:
            ratio = figure / self.row(target.beside).of(target.statistic)
            said, aimed = f"{ratio:.2f} times", f"{sign} {target.limit:g} times {target.beside}"
        else:
            ratio, said, aimed = figure, shown(figure, unit), f"{sign} {shown(target.limit, unit)}"
        met = ratio >= target.limit if target.at_least else ratio <= target.limit
        return Verdict(target.what, which + said, aimed, met)


def shown(value: float, unit: Unit) -> str:
    """A value as people read it: three digits, ms below a second, MiB, percent of a core."""
    match unit:
        case "s":
            return f"{_digits(value)} s" if value >= 1 else f"{_digits(value * 1e3)} ms"
        case "B":
            return f"{_digits(value / MIB)} MiB"
        case "B/s":
            return f"{_digits(value / MIB)} MiB/s"
        case "core":
            return f"{_digits(value * 100)} % of a core"
        case "/s":
            return f"{_digits(value)}/s"
        case _:
            return _digits(value)


def _digits(value: float) -> str:
    if abs(value) >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def table(result: Result) -> str:
    """A result as Markdown: its rows, its verdicts, its notes."""
    lines = [f"### {result.title}"]
    if result.rows:
        lines += ["", *_row_lines(result)]
    if result.curves:
        lines += ["", *_curve_lines(result)]
    verdicts = result.verdicts()
    if verdicts:
        judged = [[v.what, v.figure, v.target, "met" if v.met else "**missed**"] for v in verdicts]
        lines += ["", *_lines(["target", "measured", "aim", "verdict"], judged)]
    for text in [*result.notes, *(f"**Wrong:** {text}" for text in result.wrong)]:
        lines += ["", text]
    return "\n".join(lines)


def _row_lines(result: Result) -> list[str]:
    slow = any(len(row.values) >= _P99_FROM for row in result.rows)
    heads = [
        "",
        "median",
        "spread",
        *(["p99"] if slow else []),
        "n",
        *(["times the first"] if _compared(result) else []),
    ]
    return _lines(heads, [_cells(result, row, slow=slow) for row in result.rows])


def _compared(result: Result) -> bool:
    return result.alike and len(result.rows) > 1


def _curve_lines(result: Result) -> list[str]:
    heads = [result.over, *(curve.name for curve in result.curves)]
    columns = [[shown(y, curve.unit) for _, y in curve.points] for curve in result.curves]
    places = [_digits(x) for x, _ in result.curves[0].points]
    return _lines(heads, [list(cells) for cells in zip(places, *columns, strict=True)])


def _cells(result: Result, row: Row, *, slow: bool) -> list[str]:
    first = result.rows[0]
    cells = [row.name, shown(row.median, row.unit), row.spread]
    if slow:
        cells.append(shown(row.p99, row.unit) if len(row.values) >= _P99_FROM else "")
    cells.append(str(len(row.values)))
    if _compared(result):
        comparable = row.unit == first.unit and first.median
        cells.append(f"{row.median / first.median:.2f}" if comparable else "")
    return cells


def _lines(heads: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
