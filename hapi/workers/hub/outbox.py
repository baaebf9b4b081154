"""A session's chat events on their way to the hub: in order, once, confirmed by a barrier."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque

from hapi import wire
from hapi.crashpoints import crash_point
from hapi.workers.hub import translate
from hapi.workers.hub.context import Context
from hapi.workers.hub.door import Door
from hapi.workers.hub.problems import Offline
from hapi.workers.hub.schema import Ping
from hapi.workers.hub.timing import pause

CAPACITY = 4000
BATCH = 100
BARRIER_TIMEOUT_S = 30.0
LIVE_INTERVAL_S = 0.25


class Outbox:
    """Events that the hub does not have yet. They come in the order of their numbers, so one tells what was delivered.

    What does not fit is dropped and counted, and the session is told where we stand (Delivered), so that it can send
    the rest again; after a drop the first that was dropped must come first. (The next number is not it: there are gaps.)
    """

    def __init__(self, context: Context, session_id: str) -> None:
        self._context = context
        self._session_id = session_id
        self._queue: deque[wire.NumberedEvent] = deque()
        self._last: int | None = None
        self._delivered = 0
        self._wanted: int | None = None

    @property
    def delivered(self) -> int:
        """The number of the newest event that the hub has confirmed to us."""
        return self._delivered

    @property
    def empty(self) -> bool:
        """Whether the hub has all that the session gave us."""
        return not self._queue

    def offer(self, events: list[wire.NumberedEvent]) -> None:
        """Take events from the session; repeats are confirmed again."""
        tell = False
        for event in events:
            if self._last is not None and event.seq <= self._last:
                tell = tell or event.seq <= self._delivered
            elif not self._take(event):
                self._context.counters["events_dropped"] += 1
                tell = True
        if tell:
            self._tell()

    def discard(self, events: list[wire.NumberedEvent]) -> None:
        """Confirm events that nobody wants (the user deleted the session)."""
        if events:
            self._delivered = self._last = max(self._delivered, events[-1].seq)
            self._wanted = None
            self._tell()

    async def send_batch(self, door: Door) -> bool:
        """Send up to BATCH events and tell the session once the hub has them; whether a person's message was consumed
        among them. Raises HubProblem; then nothing was confirmed and the same events go out again, which the hub notices.
        """
        batch = list(itertools.islice(self._queue, BATCH))
        if not batch:
            return False
        for notice in translate.notices(self._session_id, batch):
            await door.emit(notice)
        crash_point("connector.out.emitted")
        await door.call(Ping(), BARRIER_TIMEOUT_S)
        crash_point("connector.out.confirmed")
        for _ in batch:
            self._queue.popleft()
        self._delivered = batch[-1].seq
        self._context.counters["events_delivered"] += len(batch)
        self._tell()
        return any(isinstance(numbered.event, wire.Consumed) and numbered.event.local_ids for numbered in batch)

    def _take(self, event: wire.NumberedEvent) -> bool:
        if len(self._queue) >= CAPACITY or self._wanted not in {None, event.seq}:
            self._wanted = self._wanted or event.seq
            return False
        self._wanted = None
        self._last = event.seq
        self._queue.append(event)
        return True

    def _tell(self) -> None:
        self._context.bus.send(wire.session_peer(self._session_id), wire.Delivered(self._delivered))


class LiveFeed:
    """Thinking as it grows, at most one row per LIVE_INTERVAL_S; only the newest text counts."""

    def __init__(self, context: Context, session_id: str, door: Door) -> None:
        self._context = context
        self._session_id = session_id
        self._door = door
        self._newest: wire.LiveReasoning | None = None
        self._finished: str | None = None
        self._task: asyncio.Task[None] | None = None

    def offer(self, live: wire.LiveReasoning) -> None:
        """Show this soon, unless a newer one comes or its block is finished."""
        if live.block == self._finished:
            return
        self._newest = live
        if self._task is None or self._task.done():
            self._task = self._context.start(self._run(), "live reasoning")

    def finish(self, events: list[wire.NumberedEvent]) -> None:
        """The final text of a block is among `events`: no live one may follow it."""
        for numbered in events:
            if isinstance(numbered.event, wire.Reasoning):
                self._finished = numbered.event.block
                if self._newest is not None and self._newest.block == self._finished:
                    self._newest = None

    async def _run(self) -> None:
        while (live := self._newest) is not None:
            self._newest = None
            with contextlib.suppress(Offline):  # not journalled: the final text will come
                await self._door.emit(translate.live_reasoning(self._session_id, live))
            await pause(LIVE_INTERVAL_S)
