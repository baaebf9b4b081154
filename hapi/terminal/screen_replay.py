"""What draws a screen in another terminal."""

from __future__ import annotations

import re

from hapi.terminal.screen_cells import DEFAULT_PEN, TAIL
from hapi.terminal.screen_emulator import Emulator, Saved
from hapi.terminal.screen_grid import Grid, rows_of
from hapi.terminal.screen_modes import PRELUDE

SEQUENCES = re.compile(r"\x1b(?:\[[^@-~]*[@-~]|\][^\x1b]*\x1b\\)")
"""Those that a drawn line may have."""


def replay(screen: Emulator, *, history: bool, lost: int) -> str:
    """Clear, then history, main screen, alternate screen if shown, and all state."""
    out = [PRELUDE]
    if history:
        out.append(_history(screen, lost))
    out.append(_rows(screen, screen.main))
    modes = screen.modes
    if screen.alternate_mode:
        if screen.main_saved is not None:
            out += [_margins(screen), _cursor(screen, screen.main, screen.main_saved), "\x1b7\x1b[?69l\x1b[r\x1b8"]
        out += [modes.drawn_keyboards(modes.other_keyboards), f"\x1b[?{screen.alternate_mode}h"]
        out += [f"\x1b[?6l\x1b(B\x0f\x1b[m{DEFAULT_PEN.hyperlink()}\x1b[H\x1b[2J", _rows(screen, screen.grid)]
    out += [modes.drawn_keyboards(modes.keyboards), _tabs(screen), _margins(screen)]
    if screen.saved is not None:
        out += [_cursor(screen, screen.grid, screen.saved), "\x1b7"]
    now = Saved(screen.x, screen.y, screen.pen, modes.origin, tuple(screen.charsets), screen.shift)
    out += [_cursor(screen, screen.grid, now), "" if modes.wrap else "\x1b[?7l", modes.drawn()]
    if screen.title is not None:
        out.append(f"\x1b]2;{screen.title}\x1b\\")
    out.append("\x1b[?2026l")
    return "".join(out)


def _history(screen: Emulator, lost: int) -> str:
    lines = [line.decode() for line in screen.history.lines]
    lost += screen.history.dropped
    if lost:
        lines.insert(0, f"\x1b[7m {_amount(lost)} of earlier output are not kept \x1b[m\r\n")
    if not lines:
        return ""
    end = "" if lines[-1].endswith("\n") else "\r\n"
    return "".join(lines) + end + f"\x1b[{screen.rows}H" + "\n" * _seen(screen, lines)  # out of sight, upwards


def _seen(screen: Emulator, lines: list[str]) -> int:
    """How many rows of the screen these lines take when they are just drawn: they may be from when it was wider."""
    seen, cells = 0, ""
    for at in range(len(lines) - 1, -1, -1):
        cells = screen.looks.cells(SEQUENCES.sub("", lines[at]).removesuffix("\r\n"))[1] + cells
        if at == 0 or lines[at - 1].endswith("\n"):
            seen, cells = seen + rows_of(cells, screen.cols), ""
        if seen >= screen.rows - 1:
            break
    return min(seen, screen.rows - 1)


def _amount(size: int) -> str:
    for unit, of in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= of:
            return f"{size / of:.1f} {unit}"
    return f"{size} bytes"


def _rows(screen: Emulator, grid: Grid) -> str:
    out = []
    joined = False  # the cursor is where this row goes on, waiting to wrap into it
    for row in range(grid.rows):
        line = grid.drawn(row, screen.looks)
        if joined:
            out.append(line or " ")
        elif line:
            out.append(f"\x1b[{row + 1}H{line}")
        joined = grid.wrapped(row) and bool(line)
    return "".join(out)


def _tabs(screen: Emulator) -> str:
    if screen.tabs is None:
        return ""
    return "\x1b[3g" + "".join(f"\x1b[{stop + 1}G\x1bH" for stop in sorted(screen.tabs))


def _margins(screen: Emulator) -> str:
    out = f"\x1b[{screen.top + 1};{screen.bottom}r" if (screen.top, screen.bottom) != (0, screen.rows) else ""
    if screen.modes.columns:
        out += f"\x1b[?69h\x1b[{screen.left + 1};{screen.right}s"
    return out


def _cursor(screen: Emulator, grid: Grid, at: Saved) -> str:
    """Position, pen and character sets; on a full row waiting to wrap, by writing its last character again."""
    top, left = (screen.top, screen.left) if at.origin else (0, 0)
    y = at.y - top + 1
    origin = "\x1b[?6h" if at.origin else "\x1b[?6l"
    pen = at.pen.sgr() + at.pen.hyperlink()
    sets = "".join(f"\x1b{which}{name}" for which, name in zip("()*+", at.charsets, strict=True))
    sets += "\x0e" if at.shift else "\x0f"
    if at.x < grid.cols or (at.origin and not screen.top <= at.y < screen.bottom):
        return f"{origin}\x1b[{y};{min(at.x, grid.cols - 1) - left + 1}H{pen}{sets}"
    last = grid.cols - (2 if grid.cells[at.y][-1] == TAIL else 1)
    cell = screen.looks.text(grid.cells[at.y][last:])
    look = screen.looks.pen(grid.inks[at.y][last])
    return f"{origin}\x1b(B\x0f\x1b[{y};{last - left + 1}H{look.sgr()}{look.hyperlink()}{cell}{pen}{sets}"
