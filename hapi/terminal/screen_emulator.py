"""The machine behind a screen: a cursor that writes, erases and moves text (ECMA-48, VT220, xterm's alternate screen).

Where terminals differ it does what xterm.js and tmux agree on. A cursor right of the last column (`x == right`) waits
to wrap: the next character goes to the next row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from hapi.terminal.screen_cells import DEFAULT_PEN, NARROW, PLAIN, TAIL, Inks, Pen
from hapi.terminal.screen_grid import Grid, History
from hapi.terminal.screen_modes import Modes
from hapi.terminal.screen_sgr import styled

LINES = re.compile(f"(?:[\t{NARROW}]*\r\n)+")
_GRAPHICS = str.maketrans("`abcdefghijklmnopqrstuvwxyz{|}~_", "◆▒␉␌␍␊°±␤␋┘┐┌└┼⎺⎻─⎼⎽├┤┴┬│≤≥π≠£· ")
_CACHED_STYLES = 1024
_CACHED_PARAMETERS = 64  # characters: more are no program's habit, and 1024 times 64 KiB would be much
_TAB = 8
_END = "\r\n"


@dataclass(slots=True)
class Saved:
    """What DECSC keeps."""

    x: int = 0
    y: int = 0
    pen: Pen = DEFAULT_PEN
    origin: bool = False
    charsets: tuple[str, ...] = ("B", "B", "B", "B")
    shift: int = 0


class Emulator:
    """State and the operations on it; the parser calls them, the replay reads the state."""

    def __init__(self, cols: int, rows: int, history_bytes: int) -> None:
        self.cols, self.rows = cols, rows
        self.looks = Inks()
        self.history = History(history_bytes)
        self.title: str | None = None
        self.bells = 0
        self.replies = bytearray()
        self.reset()

    def reset(self) -> None:
        """RIS: all but history, title and bells."""
        self.main = self.grid = Grid(self.cols, self.rows)
        self.alternate_mode = 0  # 47, 1047 or 1049 while that screen is shown
        self.modes = Modes()
        self.saved: Saved | None = None  # of the screen shown
        self.main_saved: Saved | None = None  # of the main screen, while the other one is shown
        self.x = self.y = 0
        self.top, self.bottom = 0, self.rows
        self.left, self.right = 0, self.cols
        self.set_pen(DEFAULT_PEN)
        self.charsets = ["B", "B", "B", "B"]
        self.shift = 0
        self.tabs: frozenset[int] | None = None  # None: every eighth column
        self.titles: list[str | None] = []
        self.last = ""
        self._styles: dict[tuple[str, str], tuple[Pen, str]] = {}

    # The pen

    def set_pen(self, pen: Pen) -> None:
        """Write like this from now on."""
        self.pen = pen
        self.ink = self.looks.number(pen)

    def style(self, parameters: str) -> None:
        """CSI parameters m."""
        key = (self.ink, parameters)
        found = self._styles.get(key)
        if found is None:
            self.set_pen(styled(self.pen, parameters))
            if self.looks.full():
                self._sweep()
                return
            if len(self._styles) >= _CACHED_STYLES:
                self._styles.clear()
            if len(parameters) <= _CACHED_PARAMETERS:
                self._styles[key] = self.pen, self.ink
            return
        self.pen, self.ink = found

    @property
    def blank(self) -> str:
        """The ink of what is erased: the pen's background, nothing else of it."""
        background = self.pen.background
        return self.looks.number(Pen(background=background)) if background else PLAIN

    def _sweep(self) -> None:
        grids = [self.main] if self.grid is self.main else [self.main, self.grid]
        rows: Iterable[str] = chain.from_iterable(grid.inks for grid in grids)
        renumbered = self.looks.sweep(rows, chain.from_iterable(grid.cells for grid in grids))
        for grid in grids:
            grid.inks = [row.translate(renumbered) for row in grid.inks]
        self._styles.clear()
        self.set_pen(self.pen)

    # Writing

    def write(self, text: str) -> None:
        """Printable characters."""
        if self.charsets[self.shift] != "B":
            text = self._translated(text)
        cells = text
        if not text.isascii():
            before, cells = self.looks.cells(text)
            if before:
                self._combine(before)
            if self.looks.full():
                self._sweep()
        self.last = cells
        end = self.x + len(cells)
        if end > (self.right if self.x <= self.right else self.cols) or self.modes.insert or not self.modes.wrap:
            self._write_long(cells)
            return
        grid, y = self.grid, self.y
        row = grid.cells[y]
        if TAIL in row:
            grid.put(y, self.x, cells, self.ink)
        else:
            grid.cells[y] = row[: self.x] + cells + row[end:]
            inks = grid.inks[y]
            grid.inks[y] = inks[: self.x] + self.ink * len(cells) + inks[end:]
        self.x = end

    def _translated(self, text: str) -> str:
        charset = self.charsets[self.shift]
        if charset == "0":
            return text.translate(_GRAPHICS)
        return text.replace("#", "£") if charset == "A" else text

    def _write_long(self, cells: str) -> None:
        start = 0
        right = self.right if self.x <= self.right else self.cols
        while start < len(cells):
            width = 2 if cells[start + 1 : start + 2] == TAIL else 1
            if self.x + width > right:
                if not self.modes.wrap:
                    self._overwrite_last(cells[start:], right)
                    return
                self._wrap()
                right = self.right
                if self.x + width > right:
                    start += 2  # a wide character on a screen of one column
                    continue
            stop = min(start + right - self.x, len(cells))
            if cells[stop : stop + 1] == TAIL:
                stop -= 1
            if self.modes.insert:
                self.grid.insert(self.y, self.x, right, stop - start, self.blank)
            self.grid.put(self.y, self.x, cells[start:stop], self.ink)
            self.x += stop - start
            start = stop
        if not self.modes.wrap and self.x == right:
            self.x -= 1

    def _wrap(self) -> None:
        if self.left == 0 and self.right == self.cols:
            self.grid.wraps[self.y] = True
        self.x = self.left
        self.index()

    def _overwrite_last(self, cells: str, right: int) -> None:
        """Without wrapping each character is written over the last column; wide ones do not fit there."""
        narrow = [a for a, b in zip(cells, cells[1:] + " ", strict=True) if TAIL not in {a, b}]
        self.x = right - 1
        if narrow:
            self.grid.put(self.y, self.x, narrow[-1], self.ink)

    def _combine(self, accents: str) -> None:
        row = self.grid.cells[self.y]
        at = min(self.x, self.cols) - 1
        if at > 0 and row[at] == TAIL:
            at -= 1
        if at >= 0:
            cell = self.looks.cluster(self.looks.text(row[at]) + accents)
            self.grid.cells[self.y] = row[:at] + cell + row[at + 1 :]

    def repeat(self, count: int) -> None:
        """REP: the last character again."""
        if self.last:
            cell = self.last[-2:] if self.last[-1] == TAIL else self.last[-1]
            self._write_long(cell * min(count, self.cols * self.rows))

    def appending(self) -> bool:
        """Whether the cursor is in an empty row at the very bottom, nothing unusual on: `append` may be used."""
        grid = self.grid
        return (
            self.y == self.rows - 1
            and not self.x
            and not self.top
            and self.bottom == self.rows
            and self.right - self.left == self.cols
            and grid.cells[self.y] == grid.blank
            and self.modes.wrap
            and not self.modes.insert
            and self.tabs is None
            and self.charsets[self.shift] == "B"
            and not self.pen.background
            and not self.pen.link
        )

    def append(self, block: str) -> bool:
        """Lines of narrow characters and tabs, each with CR LF: as writing one after the other, but fast.

        False: nothing is done, they have to be written one after the other.
        """
        lines = block.split("\r\n")
        lines.pop()
        tabs = "\t" in block
        if tabs:
            lines = [line.expandtabs(_TAB) if "\t" in line else line for line in lines]
        ends = [True] * len(lines)
        long = len(max(lines, key=len)) > self.cols
        if tabs and (long or self.ink != PLAIN):
            return False
        if long:
            lines, ends = self._folded(lines)
        if self.ink == PLAIN and (tabs or " \r\n" in block):
            lines = [line.rstrip(" ") if end else line for line, end in zip(lines, ends, strict=True)]
        kept = self.rows - 1
        self._scroll_out(min(kept, len(lines)))
        through = max(0, len(lines) - kept)
        if self.grid is self.main and through:
            start, end = (self.pen.sgr(), "\x1b[m") if self.ink != PLAIN else ("", "")
            rows = zip(lines[:through], ends, strict=False)
            self.history.add([f"{start}{line}{end}{_END if last else ''}".encode() for line, last in rows])
        self.grid.scroll(0, self.rows, len(lines), PLAIN)
        for row in range(through, len(lines)):
            at = kept - len(lines) + row
            self.grid.put(at, 0, lines[row], self.ink)
            self.grid.wraps[at] = not ends[row]
        self.last = " "
        return True

    def _folded(self, lines: list[str]) -> tuple[list[str], list[bool]]:
        cut = [line[at : at + self.cols] for line in lines for at in range(0, max(len(line), 1), self.cols)]
        ends = [at + self.cols >= len(line) for line in lines for at in range(0, max(len(line), 1), self.cols)]
        return cut, ends

    # Moving

    def move(self, x: int, y: int) -> None:
        """To this column and row, or the nearest there is."""
        self.x = min(max(x, 0), self.cols - 1)
        self.y = min(max(y, 0), self.rows - 1)

    def address(self, x: int | None, y: int | None) -> None:
        """CUP, CHA, VPA: relative to the margins in origin mode. None: stay."""
        x = min(self.x, self.cols - 1) if x is None else x
        if self.modes.origin:
            y = self.y if y is None else min(max(y, 0) + self.top, self.bottom - 1)
            x = min(max(x, 0) + self.left, self.right - 1)
        self.move(x, self.y if y is None else y)

    def up(self, count: int) -> None:
        """CUU: not over the top margin from below it."""
        self.move(self.x, max(self.y - count, self.top if self.y >= self.top else 0))

    def down(self, count: int) -> None:
        """CUD: not over the bottom margin from above it."""
        self.move(self.x, min(self.y + count, (self.bottom if self.y < self.bottom else self.rows) - 1))

    def back(self, count: int) -> None:
        """CUB, BS."""
        x = min(self.x, self.cols - 1)
        self.x = max(x - count, self.left if x >= self.left else 0)

    def forward(self, count: int) -> None:
        """CUF."""
        x = min(self.x, self.cols - 1)
        self.x = min(x + count, (self.right if x < self.right else self.cols) - 1)

    def carriage_return(self) -> None:
        """CR."""
        self.x = self.left if self.x >= self.left else 0

    def tab(self, count: int) -> None:
        """HT and CHT, or CBT if negative."""
        if self.x >= self.cols:
            return
        stops = range(_TAB, self.cols, _TAB) if self.tabs is None else sorted(self.tabs)
        ahead = [stop for stop in stops if stop > self.x] if count > 0 else [s for s in stops if s < self.x][::-1]
        last = self.cols - 1 if count > 0 else 0
        self.x = ahead[abs(count) - 1] if len(ahead) >= abs(count) else last

    def index(self) -> None:
        """One row down, scrolling at the bottom margin."""
        if self.y == self.bottom - 1:
            self.scroll(1)
        elif self.y < self.rows - 1:
            self.y += 1

    def line_feed(self) -> None:
        """LF, VT, FF."""
        if self.modes.newline:
            self.carriage_return()
        self.x = min(self.x, self.cols - 1)
        self.index()

    def reverse_index(self) -> None:
        """RI."""
        self.x = min(self.x, self.cols - 1)
        if self.y == self.top:
            self.scroll(-1)
        elif self.y > 0:
            self.y -= 1

    # Erasing and shifting

    def scroll(self, lines: int, top: int | None = None) -> None:
        """What is between the margins goes up, or down if negative. What leaves at the very top is history."""
        top = self.top if top is None else top
        if self.right - self.left != self.cols:
            self.grid.scroll_box((top, self.bottom, self.left, self.right), lines, self.blank)
            return
        if lines > 0 and top == 0:
            self._scroll_out(min(lines, self.bottom))
        self.grid.scroll(top, self.bottom, lines, self.blank)

    def _scroll_out(self, count: int) -> None:
        if self.grid is self.main:
            self.keep(count)

    def keep(self, count: int) -> None:
        """So many rows at the top of the main screen are history now."""
        self.history.add([self._kept(row) for row in range(count)])

    def _kept(self, row: int) -> bytes:
        """A row of the main screen as history keeps it."""
        line = self.main.drawn(row, self.looks).encode()
        return line if self.main.wrapped(row) else line + b"\r\n"

    def shift_lines(self, lines: int) -> None:
        """DL, or IL if negative: from the cursor's row to the bottom margin."""
        if self.top <= self.y < self.bottom and self.left <= min(self.x, self.cols - 1) < self.right:
            if self.right - self.left != self.cols:
                self.scroll(lines, self.y)
            else:
                self.grid.scroll(self.y, self.bottom, lines, self.blank)
            self.x = self.left

    def shift_cells(self, count: int) -> None:
        """ICH, or DCH if negative."""
        x = min(self.x, self.cols - 1)
        if self.left <= x < self.right:
            work = self.grid.insert if count > 0 else self.grid.delete
            work(self.y, x, self.right, abs(count), self.blank)

    def erase_cells(self, count: int) -> None:
        """ECH."""
        x = min(self.x, self.cols - 1)
        self.grid.erase(self.y, x, min(x + count, self.cols), self.blank)

    def erase_in_line(self, what: int) -> None:
        """EL."""
        start = 0 if what else self.x
        end = min(self.x + 1, self.cols) if what == 1 else self.cols
        self.grid.erase(self.y, start, end, self.blank)

    def erase_in_screen(self, what: int) -> None:
        """ED; 3 is xterm's: the history."""
        if what == 3:
            self.history.clear()
        elif what == 0:
            self.erase_in_line(0)
            self.grid.clear(self.y + 1, self.rows, self.blank)
        elif what == 1:
            self.grid.clear(0, self.y, self.blank)
            self.erase_in_line(1)
        else:
            self.grid.clear(0, self.rows, self.blank)

    def align(self) -> None:
        """DECALN: a screen full of E."""
        self.grid.clear(0, self.rows, PLAIN)
        self.grid.cells = ["E" * self.cols] * self.rows
        self.top, self.bottom = 0, self.rows
        self.move(0, 0)
