"""A screen that lags behind: output is taken at once, and drawn when there is time."""

from __future__ import annotations

from collections import deque

from hapi.terminal.screen import Screen

MAX_BACKLOG = 1024 * 1024
STEP_BYTES = 16 * 1024


class Recorder:
    """Keeps the screen of a program whose output comes faster than it can be drawn.

    `write` costs next to nothing. `step` draws some of it, when the loop is idle. Of a backlog over 1 MiB the oldest is
    skipped: its text is lost, and counted in `lost`, its modes are not.
    """

    def __init__(self, cols: int, rows: int) -> None:
        self._screen = Screen(cols, rows)
        self._backlog: deque[bytes] = deque()
        self._size = 0
        self.lost = 0

    @property
    def pending(self) -> bool:
        """Whether there is something to draw."""
        return bool(self._backlog)

    @property
    def screen(self) -> Screen:
        """As far as it is drawn; `settle` first for all of it."""
        return self._screen

    def write(self, data: bytes) -> None:
        """Take output of the program."""
        self._backlog.append(data)
        self._size += len(data)
        while self._size > MAX_BACKLOG:
            oldest = self._backlog.popleft()
            self._size -= len(oldest)
            self.lost += len(oldest)
            self._screen.skip(oldest)

    def step(self, budget_bytes: int = STEP_BYTES) -> bool:
        """Draw about so much. Answers whether there is more to do."""
        while self._backlog and budget_bytes > 0:
            data = self._backlog.popleft()
            if len(data) > budget_bytes:
                self._backlog.appendleft(data[budget_bytes:])
                data = data[:budget_bytes]
            self._size -= len(data)
            budget_bytes -= len(data)
            self._screen.feed(data)
        return self.pending

    def settle(self) -> None:
        """Draw all of it: at most 1 MiB."""
        while self.step(MAX_BACKLOG):
            pass

    def resize(self, cols: int, rows: int) -> None:
        """Another size from here on; what came before is drawn in the old one first."""
        self.settle()
        self._screen.resize(cols, rows)
