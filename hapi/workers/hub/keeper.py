"""Keeps one connection to the hub up: get ready, connect, greet, wait for its end, back off, again."""

from __future__ import annotations

import asyncio
from typing import Protocol

from hapi.clock import monotonic
from hapi.workers.hub.backoff import Backoff
from hapi.workers.hub.door import Door
from hapi.workers.hub.problems import Denied, HubProblem, Refused
from hapi.workers.hub.timing import within

FIRST_DELAY_S, LONGEST_DELAY_S = 0.5, 10.0
FIRST_SLOW_DELAY_S, LONGEST_SLOW_DELAY_S = 30.0, 300.0
STEADY_S = 5.0


class Owner(Protocol):
    """Whose connection it is. Any of the coroutines may raise HubProblem: the try failed, the next one follows."""

    async def ready(self) -> None:
        """Return when a try makes sense."""

    async def prepare(self) -> None:
        """Before connecting: see that the row exists."""

    async def greet(self) -> None:
        """Just connected: say all that the hub forgets between connections."""

    def gone(self) -> None:
        """The connection was lost."""

    def failed(self, problem: HubProblem, delay_s: float) -> None:
        """A try failed; the next one starts in `delay_s`."""


class Keeper:
    """Runs one door for its owner. `slots` bounds how many owners connect at the same time."""

    def __init__(self, door: Door, owner: Owner, slots: asyncio.Semaphore) -> None:
        self._door = door
        self._owner = owner
        self._slots = slots
        self._quick = Backoff(FIRST_DELAY_S, LONGEST_DELAY_S)
        self._slow = Backoff(FIRST_SLOW_DELAY_S, LONGEST_SLOW_DELAY_S)
        self._nudge = asyncio.Event()

    async def run(self) -> None:
        """Until cancelled; then the door is closed."""
        try:
            while True:
                problem = await self._one_connection()
                delay = self._delay(problem)
                if problem is not None:
                    self._owner.failed(problem, delay)
                self._nudge.clear()
                await within(self._nudge, delay)
        finally:
            await self._door.close()

    def nudge(self) -> None:
        """Try again now instead of at the end of the pause."""
        self._nudge.set()

    async def _one_connection(self) -> HubProblem | None:
        try:
            await self._owner.ready()
            async with self._slots:
                await self._owner.prepare()
                await self._door.open()
                await self._owner.greet()
        except HubProblem as problem:
            await self._door.close()
            return problem
        since = monotonic()
        await self._door.wait_lost()
        self._owner.gone()
        await self._door.close()
        if monotonic() - since >= STEADY_S:
            self._quick.reset()
        self._slow.reset()
        return None

    def _delay(self, problem: HubProblem | None) -> float:
        return (self._slow if isinstance(problem, Refused | Denied) else self._quick).next_s()
