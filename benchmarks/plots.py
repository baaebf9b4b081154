"""Pictures of the curves on record, into docs/img: `python -m benchmarks.plots`; also whenever curves are recorded."""

from __future__ import annotations

from pathlib import Path

from benchmarks import records
from benchmarks.figures import MIB, Curve, Result, Unit
from hapi.loadtest import plot

PICTURES = Path(__file__).parents[1] / "docs" / "img"
_SCALES: dict[Unit, tuple[float, str]] = {
    "s": (1e3, "ms"),
    "B": (1 / MIB, "MiB"),
    "/s": (1, "per second"),
    "B/s": (1 / MIB, "MiB/s"),
    "core": (100, "% of a core"),
    "": (1, ""),
}
_DECADES = 30  # an axis that spans more is logarithmic


def draw(results: list[Result]) -> list[Path]:
    """Draw each result that asks for it; the files."""
    return [_write(result) for result in results if result.plot]


def _write(result: Result) -> Path:
    PICTURES.mkdir(parents=True, exist_ok=True)
    path = PICTURES / f"{result.plot}.svg"
    path.write_text(svg(result) + "\n")
    return path


def svg(result: Result) -> str:
    """The picture of a result's curves."""
    factor, unit = _SCALES[result.curves[0].unit]
    places = [x for curve in result.curves for x, _ in curve.points]
    values = [y for curve in result.curves for _, y in curve.points if y > 0]
    across = _wide(places)
    up = across and _wide(values)  # what grows in proportion stays a straight line
    x, y = plot.Axis(result.over, log=across), plot.Axis(unit, log=up, zero=not up)
    return plot.lines(result.title, x, y, [_series(curve, factor) for curve in result.curves])


def _wide(values: list[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) / min(values) > _DECADES


def _series(curve: Curve, factor: float) -> plot.Series:
    return plot.Series(curve.name, [(x, y * factor) for x, y in curve.points], dots=True)


if __name__ == "__main__":
    for record in records.read().values():
        for path in draw(record.results):
            print(path)
