"""One task for every keepalive of this process, so that a thousand sessions cost one timer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

from hapi.clock import monotonic, now_ms

WAKE_JUMP_MS = 15_000

Beat = Callable[[], Awaitable[None]]


class Ticker:
    """Calls every registered beat once per `SLOTS` seconds, a part of them each second."""

    SLOTS = 10

    def __init__(self, on_wake: Callable[[], None]) -> None:
        self._slots: list[dict[str, Beat]] = [{} for _ in range(self.SLOTS)]
        self._next = 0
        self._on_wake = on_wake
        self._gap_ms = now_ms() - monotonic() * 1000

    def add(self, key: str, beat: Beat) -> None:
        """Call `beat` from now on; it must return quickly and raise nothing. The emptiest second takes it."""
        min(self._slots, key=len)[key] = beat

    def remove(self, key: str) -> None:
        """Stop calling the beat of that key; unknown keys are fine."""
        for slot in self._slots:
            slot.pop(key, None)

    async def run(self) -> None:
        """Beat until cancelled. After the machine slept (the wall clock jumped ahead) `on_wake` is called first."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due = max(due + 1.0, loop.time())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(due):
                    await stop.wait()
            await self._tick()

    async def _tick(self) -> None:
        gap_ms = now_ms() - monotonic() * 1000
        if gap_ms - self._gap_ms > WAKE_JUMP_MS:
            self._on_wake()
        self._gap_ms = gap_ms
        self._next = (self._next + 1) % self.SLOTS
        for beat in list(self._slots[self._next].values()):
            await beat()
