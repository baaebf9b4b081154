"""Choosing one of a few things with the arrow keys, in as many lines as they need."""

from __future__ import annotations

import os
import re
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hapi.cli import output
from hapi.terminal.tty import window_size

HELP = "↑ ↓ choose · Enter takes it · Esc leaves"
_KEYS = re.compile(rb"\x1b[\[O][0-?]*[ -/]*[@-~]|.", re.DOTALL)
_UP, _DOWN = {b"\x1b[A", b"\x1bOA", b"k", b"\x10"}, {b"\x1b[B", b"\x1bOB", b"j", b"\x0e", b"\t"}
_TAKE, _LEAVE = {b"\r", b"\n"}, {b"\x1b", b"q", b"\x03", b"\x04"}
_COLOURS = re.compile(r"\033\[\d+m")


class Menu:
    """The state of a choice. Pure: keys in, lines out."""

    def __init__(self, rows: Sequence[str]) -> None:
        self._rows = rows
        self._first = 0
        self.at = 0
        self.over = False
        self.taken: int | None = None

    def press(self, key: bytes) -> None:
        """One key; `over` says whether it decided."""
        count = len(self._rows)
        if key in _UP:
            self.at = (self.at - 1) % count
        elif key in _DOWN:
            self.at = (self.at + 1) % count
        elif key in _TAKE:
            self.over, self.taken = True, self.at
        elif key in _LEAVE:
            self.over = True
        elif key.isdigit() and 1 <= int(key) <= count:
            self.over, self.taken = True, int(key) - 1

    def lines(self, cols: int, most: int) -> list[str]:
        """What to show in so many columns and at most so many lines: those around the choice."""
        most = max(1, min(most, len(self._rows)))
        self._first = min(max(self._first, self.at - most + 1), self.at)
        self._first = max(0, min(self._first, len(self._rows) - most))
        shown = range(self._first, self._first + most)
        return [self._line(number)[: cols - 1] for number in shown]

    def _line(self, number: int) -> str:
        digit = f"{number + 1}" if number < 9 else " "
        return f"{'>' if number == self.at else ' '} {digit}  {_COLOURS.sub('', self._rows[number])}"


def pick(title: str, rows: Sequence[str]) -> int | None:
    """Let the person at this terminal choose; None when they leave. Nothing of it stays on the screen."""
    menu = Menu(rows)
    stream = sys.stderr
    shown = 0
    sys.stdout.flush()
    with _keys() as keys:
        while not menu.over:
            cols, height = window_size(0)
            lines = [title[: cols - 1], *menu.lines(cols, height - 3), output.paint(HELP[: cols - 1], "dim", stream)]
            stream.write(_back(shown) + "".join(f"{_marked(line)}\r\n" for line in lines))
            stream.flush()
            shown = len(lines)
            for key in next(keys):
                if not menu.over:
                    menu.press(key)
        stream.write(_back(shown))
        stream.flush()
    return menu.taken


def _marked(line: str) -> str:
    return output.paint(line, "bold", sys.stderr) if line.startswith(">") else line


def _back(lines: int) -> str:
    """To the first of the lines that were written, and clear from there on."""
    return f"\033[{lines}A\r\033[J" if lines else ""


@contextmanager
def _keys() -> Iterator[Iterator[list[bytes]]]:
    """What is typed, a list of keys at a time; the terminal is put back afterwards."""
    before = termios.tcgetattr(0)
    tty.setraw(0, termios.TCSADRAIN)
    try:
        yield _typed()
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def _typed() -> Iterator[list[bytes]]:
    while data := os.read(0, 1024):
        yield _KEYS.findall(data)
    yield [b"\x1b"]  # the terminal is gone
