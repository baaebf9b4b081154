"""The picture of `hapi top`: rows of a table fitted into a window. Pure: no terminal, no clock."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from wcwidth import wcswidth, wcwidth

from hapi.cli import output
from hapi.lifecycle import Phase
from hapi.wire import SessionInfo

HEADINGS = ("ID", "AGENT", "PHASE", "CPU", "MEMORY", "AGE", "DIRECTORY", "LAST WORDS")
_WIDEST = {"AGENT": 14, "DIRECTORY": 32}
_RIGHT = frozenset({"CPU", "MEMORY", "AGE"})
_GAP = "  "


class Row(msgspec.Struct, frozen=True):
    """A session, and what its processes take: `cpu` in hundredths of one processor, None when not known yet."""

    info: SessionInfo
    cpu: float | None = None
    memory: int = 0


class Picture(msgspec.Struct, frozen=True):
    """The lines of a table; `phases` are those of its rows, for their colours; `chosen` is the row of the cursor."""

    headings: str
    lines: list[str]
    phases: list[str]
    chosen: int
    first: int


def summary(namespace: str, rows: Sequence[Row]) -> str:
    """The first line: how many there are, what they do, what they take."""
    counts = [f"{count} {phase.value}" for phase in Phase if (count := sum(row.info.phase is phase for row in rows))]
    cpu = sum(row.cpu or 0 for row in rows)
    memory = output.size(sum(row.memory for row in rows))
    parts = [output.plural(len(rows), "session"), *counts, f"cpu {cpu:.0f}%", f"memory {memory}"]
    return f"hapi top [{output.clean(namespace)}]  " + " · ".join(parts)


def draw(rows: Sequence[Row], chosen: int, first: int, size: tuple[int, int], now_ms: int) -> Picture:
    """The table in `size` (columns, lines for rows), scrolled so that the chosen row is seen; `first` was its first."""
    width, height = size
    height = max(1, height)
    chosen = min(max(0, chosen), max(0, len(rows) - 1))
    first = min(max(0, min(first, chosen)), max(0, len(rows) - height))
    first = max(first, chosen - height + 1)
    shown = rows[first : first + height]
    cells = [HEADINGS, *(_cells(row, now_ms) for row in shown)]
    widths = [_column_width(name, [row[at] for row in cells]) for at, name in enumerate(HEADINGS)]
    lines = [clip(_GAP.join(map(_padded, HEADINGS, row, widths)).rstrip(), width) for row in cells]
    return Picture(lines[0], lines[1:], [row.info.phase.value for row in shown], chosen - first, first)


def clip(text: str, width: int) -> str:
    """As much of a text as fits into that many columns; what was cut is an ellipsis."""
    if _cells_of(text) <= width:
        return text
    taken, left = "", width - 1
    for character in text:
        left -= max(0, wcwidth(character))
        if left < 0:
            break
        taken += character
    return f"{taken}…" if width > 0 else ""


def _cells(row: Row, now_ms: int) -> tuple[str, ...]:
    info = row.info
    queued = f" +{info.queued}" if info.queued else ""
    return (
        info.session_id[:8],
        output.clean(info.agent),
        f"{info.phase.value}{queued}",
        "-" if row.cpu is None else f"{row.cpu:.0f}%",
        output.size(row.memory),
        output.duration(now_ms - info.started_at),
        output.home_short(info.directory),
        output.clean(info.last_words or info.title or ""),
    )


def _column_width(name: str, cells: Sequence[str]) -> int:
    if name == HEADINGS[-1]:
        return 0
    return min(_WIDEST.get(name, 20), max(map(_cells_of, cells)))


def _padded(name: str, cell: str, width: int) -> str:
    if not width:
        return cell
    cell = _tail(cell, width) if name == "DIRECTORY" else clip(cell, width)
    blanks = " " * (width - _cells_of(cell))
    return f"{blanks}{cell}" if name in _RIGHT else f"{cell}{blanks}"


def _tail(text: str, width: int) -> str:
    """The end of a path that is too long says more than its beginning."""
    while _cells_of(text) > width:
        text = f"…{text[2:]}" if text.startswith("…") else f"…{text[1:]}"
    return text


def _cells_of(text: str) -> int:
    width = wcswidth(text)
    return len(text) if width < 0 else width
