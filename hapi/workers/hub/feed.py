"""A terminal's output on its way to the hub: never far ahead of what the hub has read, and at a bounded pace.

The hub passes on what it gets without asking whether the browser keeps up. So what a program writes faster than that
stays at the session, whose rule for viewers that do not keep up gives them the screen instead of the history.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable

from hapi.clock import monotonic
from hapi.workers.hub.door import Door
from hapi.workers.hub.schema import Notice, Ping
from hapi.workers.hub.timing import pause

_Decoder = codecs.getincrementaldecoder("utf-8")
PIECE_CHARS = 64 * 1024
WINDOW_CHARS = 128 * 1024  # as much may be on its way before the hub says that it has read it
RECEIPT_TIMEOUT_S = 30.0
PACE_CHARS_PER_S = 1024 * 1024
BURST_CHARS = 1024 * 1024  # what may go at once after a quiet while


class Feed:
    """Output of one terminal. `notice` makes the event of a piece of text."""

    def __init__(self, door: Door, notice: Callable[[str], Notice]) -> None:
        self._door = door
        self._notice = notice
        self._decoder = _Decoder("replace")
        self._unread = 0
        self._allowance = float(BURST_CHARS)
        self._since = monotonic()

    async def show(self, data: bytes) -> None:
        """Send a piece of output, half a character at its end with the next; returns when that may be read.

        Raises HubProblem.
        """
        await self._send(self._decoder.decode(data))

    async def redraw(self, screen: bytes) -> None:
        """Send a screen that replaces all before it. Raises HubProblem.

        It resets the new-line mode too, which the app's emulator begins with: to a full-screen program a line feed is one
        row down, in the same column.
        """
        self._decoder.reset()
        await self.show(screen)

    async def _send(self, text: str) -> None:
        for start in range(0, len(text), PIECE_CHARS):
            piece = text[start : start + PIECE_CHARS]
            await self._door.emit(self._notice(piece))
            self._unread += len(piece)
            if self._unread >= WINDOW_CHARS:
                await self._receipt()

    async def _receipt(self) -> None:
        await self._door.call(Ping(), RECEIPT_TIMEOUT_S)
        now = monotonic()
        earned = (now - self._since) * PACE_CHARS_PER_S
        self._allowance = min(BURST_CHARS, self._allowance + earned) - self._unread
        self._unread, self._since = 0, now
        if self._allowance < 0:
            await pause(-self._allowance / PACE_CHARS_PER_S)
