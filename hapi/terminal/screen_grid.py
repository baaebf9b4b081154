"""The rows of a screen, and the lines that have left it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import groupby

from hapi.terminal.screen_cells import DEFAULT_PEN, PLAIN, TAIL, Inks

_LINE_COST = 48  # bytes that a kept line takes beyond its own


def cut(cells: str, at: int) -> str:
    """The row with no wide character across this column: one that would be halved becomes two spaces."""
    if 0 < at < len(cells) and cells[at] == TAIL:
        return f"{cells[: at - 1]}  {cells[at + 1 :]}"
    return cells


def row_ends(cells: str, cols: int) -> Iterator[int]:
    """Where a line is cut into rows: no wide character is halved, unless there is only one column."""
    end = 0
    while end < len(cells):
        end += cols
        if cells[end : end + 1] == TAIL and cols > 1:
            end -= 1
        yield end


def rows_of(cells: str, cols: int) -> int:
    """How many rows a line takes."""
    return max(1, sum(1 for _ in row_ends(cells, cols)))


class Grid:
    """Rows and columns of cells. All positions count from 0, ends are exclusive, and are the caller's to keep in bounds."""

    __slots__ = ("blank", "cells", "cols", "inks", "rows", "wraps")

    def __init__(self, cols: int, rows: int) -> None:
        self.cols, self.rows = cols, rows
        self.blank = " " * cols
        self.cells = [self.blank] * rows
        self.inks = [PLAIN * cols] * rows
        self.wraps = [False] * rows  # whether the row goes on in the next, because it was full

    def put(self, row: int, start: int, cells: str, ink: str) -> None:
        """Write cells, all with one ink."""
        end = start + len(cells)
        old = self.cells[row]
        if TAIL in old:
            old = cut(cut(old, start), end)
        self.cells[row] = old[:start] + cells + old[end:]
        inks = self.inks[row]
        self.inks[row] = inks[:start] + ink * len(cells) + inks[end:]

    def erase(self, row: int, start: int, end: int, ink: str) -> None:
        """Spaces with this ink."""
        if start < end:
            self.put(row, start, " " * (end - start), ink)
            if end == self.cols:
                self.wraps[row] = False

    def clear(self, top: int, bottom: int, ink: str) -> None:
        """Erase whole rows."""
        for row in range(top, bottom):
            self.cells[row] = self.blank
            self.inks[row] = ink * self.cols
            self.wraps[row] = False

    def scroll(self, top: int, bottom: int, lines: int, ink: str) -> None:
        """Move whole rows up (or down, if negative) between top and bottom; new ones are blank, with this ink."""
        count = min(abs(lines), bottom - top)
        gone, fresh = (top, bottom - count) if lines > 0 else (bottom - count, top)
        blanks: tuple[tuple[list[str], str], ...] = ((self.cells, self.blank), (self.inks, ink * self.cols))
        for rows, blank in blanks:
            del rows[gone : gone + count]
            rows[fresh:fresh] = [blank] * count
        del self.wraps[gone : gone + count]
        self.wraps[fresh:fresh] = [False] * count

    def scroll_box(self, box: tuple[int, int, int, int], lines: int, ink: str) -> None:
        """As `scroll`, only between two columns: box is top, bottom, left, right."""
        top, bottom, left, right = box
        count = min(abs(lines), bottom - top)
        moved = [(self._span(row, left, right), self.inks[row][left:right]) for row in range(top, bottom)]
        blanks = [(" " * (right - left), ink * (right - left))] * count
        moved = moved[count:] + blanks if lines > 0 else blanks + moved[: len(moved) - count]
        for row, (cells, inks) in enumerate(moved, top):
            self._set_span(row, left, cells, inks)

    def insert(self, row: int, start: int, end: int, count: int, ink: str) -> None:
        """Push the cells from start to the right, out over end."""
        count = min(count, end - start)
        cells = cut(self._span(row, start, end), end - start - count)[: end - start - count]
        inks = self.inks[row][start : end - count]
        self._set_span(row, start, " " * count + cells, ink * count + inks)

    def delete(self, row: int, start: int, end: int, count: int, ink: str) -> None:
        """Take cells out at start; those behind come nearer, blank ones come in before end."""
        count = min(count, end - start)
        cells = cut(self._span(row, start, end), count)[count:]
        inks = self.inks[row][start + count : end]
        self._set_span(row, start, cells + " " * count, inks + ink * count)

    def _span(self, row: int, start: int, end: int) -> str:
        return cut(cut(self.cells[row], start), end)[start:end]

    def _set_span(self, row: int, start: int, cells: str, inks: str) -> None:
        end = start + len(cells)
        old = cut(cut(self.cells[row], start), end)
        self.cells[row] = old[:start] + cells + old[end:]
        self.inks[row] = self.inks[row][:start] + inks + self.inks[row][end:]

    def length(self, row: int) -> int:
        """How many cells of the row have anything in them."""
        return max(len(self.cells[row].rstrip(" ")), len(self.inks[row].rstrip(PLAIN)))

    def wrapped(self, row: int) -> bool:
        """Whether the row is full and goes on in the next: the last column may be empty, before a wide character."""
        return self.wraps[row] and self.length(row) >= self.cols - 1

    def reach(self, row: int) -> int:
        """How many cells of the row are part of its line: all, if it wraps, but for one too small for a wide character."""
        length = self.length(row)
        if not self.wraps[row] or length < self.cols - 1:
            return length
        gap = length < self.cols and row + 1 < self.rows and self.cells[row + 1][1:2] == TAIL
        return length if gap else self.cols

    def drawn(self, row: int, inks: Inks) -> str:
        """The row as what draws it into an empty one, beginning and ending with the default pen."""
        end = self.reach(row)
        cells = self.cells[row][:end]
        looks = self.inks[row][:end]
        if looks == PLAIN * end:
            return inks.text(cells)
        out = []
        start, pen = 0, DEFAULT_PEN
        for ink, run in groupby(looks):
            stop = start + sum(1 for _ in run)
            new = inks.pen(ink)
            out.append((new.sgr() if new[:-1] != pen[:-1] else "") + (new.hyperlink() if new.link != pen.link else ""))
            out.append(inks.text(cells[start:stop]))
            start, pen = stop, new
        out.append(("\x1b[m" if pen[:-1] != DEFAULT_PEN[:-1] else "") + (DEFAULT_PEN.hyperlink() if pen.link else ""))
        return "".join(out)


class History:
    """The lines that scrolled out at the top, as what draws them; the oldest go when there are more than `limit` bytes.

    A line ends with CR LF, unless it went on in the next one.
    """

    def __init__(self, limit: int) -> None:
        self.lines: deque[bytes] = deque()
        self.dropped = 0  # bytes of lines that went
        self._limit = limit
        self._size = 0

    def add(self, lines: Iterable[bytes]) -> None:
        """Keep these lines, the oldest first."""
        for line in lines:
            self.lines.append(line)
            self._size += len(line) + _LINE_COST
        while self._size > self._limit and self.lines:
            gone = len(self.lines.popleft())
            self.dropped += gone
            self._size -= gone + _LINE_COST

    def clear(self) -> None:
        """As if nothing had ever scrolled out."""
        self.lines.clear()
        self._size = self.dropped = 0
