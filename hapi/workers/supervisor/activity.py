"""Whether the program in a terminal is at work, told from when it writes. Pure; times are monotonic seconds."""

from __future__ import annotations

START_S = 1.0  # output that has gone on for so long is work
GAP_S = 0.75  # a longer silence begins a new stretch of output: a clock that ticks is no work
QUIET_S = 2.0  # so much silence ends it
ECHO_S = 0.3  # what comes so soon after typing is its echo


class Activity:
    """Idle at first. Output that goes on is work, and so is what follows a message; silence ends it.

    The echo of typing does not begin any work, and does not end what is under way.
    """

    def __init__(self) -> None:
        self.working = False
        self._began: float | None = None
        self._last = float("-inf")
        self._typed = float("-inf")

    def typed(self, at: float) -> None:
        """A person typed."""
        self._typed = at

    def prompted(self, at: float) -> None:
        """A message was given to it: it works until it is silent."""
        self.working, self._last = True, at

    def output(self, at: float) -> None:
        """It wrote something."""
        silent = at - self._last
        echo = at - self._typed <= ECHO_S
        if not self.working:
            if echo:
                self._began = None
            elif self._began is None or silent > GAP_S:
                self._began = at
            elif at - self._began >= START_S:
                self.working = True
        self._last = at

    def look(self, at: float) -> float | None:
        """What `working` is now; the time when to look again, None for not before there is output."""
        if not self.working:
            return None
        due = self._last + QUIET_S
        if at < due:
            return due
        self.working, self._began = False, None
        return None
