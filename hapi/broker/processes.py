"""The workers' lives: when to start one again after it died. Pure; `nursery.py` and `app.py` do the starting."""

from __future__ import annotations

from collections import deque

from hapi.wire import WorkerStatus

FIRST_DELAY_S = 0.1
LONGEST_DELAY_S = 30.0
_LOOP_WINDOW_S = 60.0
_LOOP_RESTARTS = 5


class WorkerLife:
    """One worker: running, or waiting to be started again with growing delays (0.1 s doubling to 30 s)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.pid = 0
        self.restarts = 0
        self.start_at: float | None = 0.0
        self._deaths: deque[float] = deque(maxlen=16)

    def ordered(self) -> None:
        """It is being started; not again until `started` or `died`."""
        self.start_at = None

    def started(self, pid: int) -> None:
        self.pid = pid
        self.start_at = None

    def order_lost(self, now: float) -> None:
        """Whoever was to start it is gone: it is due again, unless it runs."""
        if self.pid == 0 and self.start_at is None:
            self.start_at = now

    def died(self, now: float) -> float:
        """It ended unasked; returns the delay in seconds after which it is due again."""
        self.pid = 0
        self.restarts += 1
        self._deaths.append(now)
        delay = min(FIRST_DELAY_S * 2.0 ** (self._recent(now) - 1), LONGEST_DELAY_S)
        self.start_at = now + delay
        return delay

    def due(self, now: float) -> bool:
        return self.start_at is not None and now >= self.start_at

    def status(self, now: float) -> WorkerStatus:
        """For `hapi runner status`; says so when it keeps dying."""
        recent = self._recent(now)
        failed = f"died {recent} times in the last minute" if recent >= _LOOP_RESTARTS else None
        return WorkerStatus(self.pid, self.restarts, failed)

    def _recent(self, now: float) -> int:
        return sum(1 for death in self._deaths if now - death < _LOOP_WINDOW_S)
