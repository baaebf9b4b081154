"""Not more than so many a second."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from hapi.clock import monotonic

_BURST_S = 0.1  # what was missed in this time is made up for, no more
_Item = TypeVar("_Item")


class Pace:
    """Turns at a rate per second, 0 for no limit. Who comes first is served first."""

    def __init__(self, rate: float) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = 0.0

    async def turn(self, end: float | None = None) -> bool:
        """Wait for the caller's turn. False, at once and without taking one, when none is left before `end`."""
        now = monotonic()
        slot = max(self._next, now - _BURST_S) if self._gap else now
        if end is not None and max(slot, now) >= end:
            return False
        self._next = slot + self._gap
        if slot > now:
            await asyncio.sleep(slot - now)
        return True


async def each(items: Iterable[_Item], work: Callable[[_Item], Awaitable[None]], at_once: int, pace: Pace) -> None:
    """`work` on every item, so many at a time, each at its turn."""
    queue = iter(items)

    async def worker() -> None:
        for item in queue:
            await pace.turn()
            await work(item)

    await asyncio.gather(*(worker() for _ in range(at_once)))
