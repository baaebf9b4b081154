"""A screen in another size."""

from __future__ import annotations

from typing import NamedTuple

from hapi.terminal.screen_cells import PLAIN
from hapi.terminal.screen_emulator import Emulator
from hapi.terminal.screen_grid import Grid, cut, row_ends


class _Row(NamedTuple):
    cells: str
    inks: str
    wraps: bool = False


def resize(screen: Emulator, cols: int, rows: int) -> None:
    """Give both screens this size; margins are reset, each cursor stays on its text.

    Lines of the main screen that were wrapped are wrapped anew; rows that have no place leave at the top, into history.
    The alternate screen is cropped: its program draws it again.
    """
    shown = screen.grid
    cursor = screen.main_saved if screen.alternate_mode else screen
    x, y = (cursor.x, cursor.y) if cursor is not None else (0, 0)
    folded, x, y = _folded(screen.main, x, min(y, screen.rows - 1), cols)
    used = max((at + 1 for at, row in enumerate(folded) if row.cells.strip(" ") or row.inks.strip(PLAIN)), default=0)
    gone = min(max(max(used, y + 1) - rows, 0), y)
    screen.main = _grid(folded, cols, len(folded))
    screen.keep(gone)
    screen.main = _grid(folded[gone:], cols, rows)
    if cursor is not None:
        cursor.x, cursor.y = x, y - gone
    if screen.alternate_mode:
        gone = max(screen.y - rows + 1, 0)
        screen.grid = _grid(_rows(shown)[gone:], cols, rows)
        screen.x, screen.y = min(screen.x, cols - 1), screen.y - gone
    else:
        screen.grid = screen.main
    if screen.saved is not None:
        screen.saved.x, screen.saved.y = min(screen.saved.x, cols - 1), min(screen.saved.y, rows - 1)
    screen.cols, screen.rows = cols, rows
    screen.tabs = screen.tabs and frozenset(stop for stop in screen.tabs if stop < cols)
    screen.top, screen.bottom, screen.left, screen.right = 0, rows, 0, cols


def _rows(grid: Grid) -> list[_Row]:
    return [_Row(*row) for row in zip(grid.cells, grid.inks, grid.wraps, strict=True)]


def _grid(rows: list[_Row], cols: int, count: int) -> Grid:
    """A grid of these rows, cropped or filled up to its size."""
    grid = Grid(cols, count)
    for at, row in enumerate(rows[:count]):
        grid.cells[at] = cut(row.cells, cols)[:cols].ljust(cols)
        grid.inks[at] = row.inks[:cols].ljust(cols, PLAIN)
        grid.wraps[at] = row.wraps
    return grid


def _folded(grid: Grid, x: int, y: int, cols: int) -> tuple[list[_Row], int, int]:
    """All lines of the grid at another width, and where position x, y of it is then."""
    folded: list[_Row] = []
    line, offset = _Row("", ""), None
    new_x, new_y = 0, 0
    for at, row in enumerate(_rows(grid)):
        if at == y:
            offset = len(line.cells) + x
        wraps, length = grid.wrapped(at), grid.reach(at)
        line = _Row(line.cells + row.cells[:length], line.inks + row.inks[:length])
        if wraps and at + 1 < grid.rows:
            continue
        pieces = _pieces(line, max(offset or 0, 1), cols)
        if offset is not None:
            found = max(number for number, (start, _) in enumerate(pieces) if start <= offset)
            new_x, new_y = min(offset - pieces[found][0], cols), len(folded) + found
        folded += [piece for _, piece in pieces]
        line, offset = _Row("", ""), None
    return folded, new_x, new_y


def _pieces(line: _Row, size: int, cols: int) -> list[tuple[int, _Row]]:
    """The line cut into rows, each with where it begins; as many as it takes for `size` cells at least."""
    cells, inks = line.cells.ljust(size), line.inks.ljust(size, PLAIN)
    pieces = []
    start = 0
    for end in row_ends(cells, cols):
        pieces.append((start, _Row(cells[start:end], inks[start:end], end < len(cells))))
        start = end
    return pieces
