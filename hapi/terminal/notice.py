"""A line of ours at the bottom of somebody else's screen, for a moment. Pure: says what to write when."""

from __future__ import annotations

NOTICE_S = 3.0
QUIET_S = 0.3  # the program must have been silent for so long: then its output is at no odd place
_TO_ROW = "\x1b7\x1b[?6l\x1b[%d;1H\x1b[0;7m"
_BACK = "\x1b[m\x1b8"


class Notice:
    """One line, on the last row while the program is silent, so that it never scrolls away with the output.

    What it covers is lost: who shows it has the screen drawn again when it is `over`.
    """

    def __init__(self) -> None:
        self._words = ""
        self._until = 0.0
        self._quiet_at = 0.0
        self._row = 0  # where it stands; 0: it does not

    @property
    def due(self) -> float | None:
        """When to `look` again; None for never."""
        if not self._words:
            return None
        return self._until if self._row else min(self._until, self._quiet_at)

    def over(self, now: float) -> bool:
        """Whether its time is up."""
        return bool(self._words) and now >= self._until

    def say(self, words: str, now: float) -> None:
        """Show this from now on, for NOTICE_S."""
        self._words, self._until, self._quiet_at = words, now + NOTICE_S, now

    def redrawn(self) -> None:
        """The screen was drawn anew, and there is nothing of ours on it."""
        self._row = 0

    def look(self, now: float, size: tuple[int, int]) -> bytes:
        """What to write now, in a window of that size: the line, if it is wanted and the program is silent."""
        if not self._words or self._row or now < self._quiet_at:
            return b""
        cols, self._row = size
        return f"{_TO_ROW % self._row} {self._words} "[: len(_TO_ROW % self._row) + cols - 1].encode() + _BACK.encode()

    def before_output(self, now: float) -> bytes:
        """What to write before output of the program."""
        self._quiet_at = now + QUIET_S
        return self._erased()

    def end(self) -> bytes:
        """What to write when it is not wanted any more."""
        self._words = ""
        return self._erased()

    def _erased(self) -> bytes:
        row, self._row = self._row, 0
        return f"\x1b7\x1b[?6l\x1b[{row};1H\x1b[m\x1b[2K\x1b8".encode() if row else b""
