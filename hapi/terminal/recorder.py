"""A screen that lags behind: output is taken at once, and drawn when there is time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from hapi.terminal.screen import Screen

MAX_BACKLOG = 512 * 1024
STEP_BYTES = 16 * 1024
SETTLE_S = 0.5  # of processor time; programs of every day need half of it for MAX_BACKLOG
_SETTLE_BYTES = 4 * 1024
_SURE = 1 / 8  # of that time must be spent before its pace is believed


class Recorder:
    """Keeps the screen of a program whose output comes faster than it can be drawn.

    `write` costs next to nothing. `step` draws some of it, when the loop is idle. Of a backlog over 512 KiB the oldest
    is skipped: its text is lost, and counted in `lost`, its modes are not.
    """

    def __init__(self, cols: int, rows: int, spent: Callable[[], float] = float) -> None:
        """`spent` tells the seconds of processor time that went by; without it `settle` has no bound but the backlog's."""
        self._spent = spent
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
            self._skip_oldest()

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

    def settle(self, within_s: float = SETTLE_S) -> None:
        """Bring the screen up to all of it: somebody waits. What is too laborious for that time is skipped, the oldest
        first; few bytes can ask for much ("scroll up by 99 rows").
        """
        began, drawn = self._spent(), 0
        while self._backlog:
            before = self._size
            self.step(_SETTLE_BYTES)
            drawn += before - self._size
            spent = self._spent() - began
            if spent > within_s * _SURE:
                while self._size > max(0, drawn * (within_s - spent) / spent):
                    self._skip_oldest()

    def _skip_oldest(self) -> None:
        oldest = self._backlog.popleft()
        self._size -= len(oldest)
        self.lost += len(oldest)
        self._screen.skip(oldest)

    def resize(self, cols: int, rows: int) -> None:
        """Another size from here on; what came before is drawn in the old one first."""
        self.settle()
        self._screen.resize(cols, rows)
