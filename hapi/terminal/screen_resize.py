"""A screen in another size."""

from __future__ import annotations

from hapi.terminal.screen_cells import PLAIN
from hapi.terminal.screen_emulator import Emulator
from hapi.terminal.screen_grid import Grid, cut


def resize(screen: Emulator, cols: int, rows: int) -> None:
    """Give both screens this size; margins are reset, the cursor stays on its text."""
    if screen.y >= rows:
        gone = screen.y - rows + 1
        if screen.grid is screen.main:
            screen.history.add([screen._kept(row) for row in range(gone)])
        for grid in {id(g): g for g in (screen.grid,)}.values():
            grid.scroll(0, grid.rows, gone, PLAIN)
        screen.y -= gone
    for grid in {id(grid): grid for grid in (screen.main, screen.grid)}.values():
        _crop(grid, cols, rows)
    screen.cols, screen.rows = cols, rows
    screen.x = min(screen.x, cols - 1)
    screen.top, screen.bottom, screen.left, screen.right = 0, rows, 0, cols


def _crop(grid: Grid, cols: int, rows: int) -> None:
    grid.cells = [cut(row, cols)[:cols].ljust(cols) for row in grid.cells[:rows]]
    grid.inks = [row[:cols].ljust(cols, PLAIN) for row in grid.inks[:rows]]
    grid.wraps = grid.wraps[:rows]
    missing = rows - len(grid.cells)
    grid.cells += [" " * cols] * missing
    grid.inks += [PLAIN * cols] * missing
    grid.wraps += [False] * missing
    grid.cols, grid.rows, grid.blank = cols, rows, " " * cols
