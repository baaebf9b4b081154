"""What goes to the hub connector: the newest snapshot, and the journalled events in order, a window at a time."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from hapi import wire
from hapi.clock import now_ms
from hapi.crashpoints import crash_point
from hapi.journal import Journal
from hapi.workers.link import Link
from hapi.workers.supervisor.transcriber import Transcriber

WINDOW = 64
GATHER_S = 0.025  # nobody sees it in the web, and most of what belongs together has come
RESEND_S = 20.0
WINDOW_BYTES = 1024 * 1024
JOURNAL_LIMIT_BYTES = 32 * 1024 * 1024
_FATES = wire.Consumed | wire.Indeterminate | wire.TurnEnded  # small, and what becomes of messages hangs on them

logger = logging.getLogger(__name__)


class Publisher:
    """Level for the state, edge for the chat. Both survive the death of broker, connector and hub: they are sent again.

    What is on record may wait GATHER_S for company, for each batch costs the hub and everybody on the way a good deal;
    the end of a turn waits for nothing, nor does what a person is asked. So a short turn is one batch and one snapshot.
    """

    def __init__(
        self, link: Link, journal: Journal, snapshot: Callable[[], wire.Snapshot], transcriber: Transcriber
    ) -> None:
        self._link = link
        self._journal = journal
        self._snapshot = snapshot
        self._transcriber = transcriber
        self._loop = asyncio.get_running_loop()
        self._hub = False
        self._sent = 0
        self._snapshot_due = False
        self._gathering: asyncio.TimerHandle | None = None
        self._resend: asyncio.TimerHandle | None = None
        self._all_delivered = asyncio.Event()

    def hub_is(self, *, up: bool) -> None:
        """The connector came or went; a new one is told everything."""
        self._hub = up
        self._sent = self._journal.state.delivered
        if up:
            self.changed()
            self._pump()

    def changed(self, *, soon: bool = False) -> None:
        """The state changed; the hub gets the newest one, once per turn of the loop, and what was said before it.

        `soon`: it may wait for company.
        """
        fresh, self._snapshot_due = not self._snapshot_due, True
        if soon:
            self._gather()
        elif fresh or self._gathering is not None:
            self._loop.call_soon(self._gathered)

    def emit(self, event: wire.Event) -> None:
        """Put an event on record and on its way. Raises OSError when the journal cannot be written, or for an event
        that no message could hold.
        """
        self._transcriber.note(event, self._journal.state.in_flight)
        try:
            size = len(wire.encode_unlimited(event))
        except (OverflowError, TypeError, ValueError, RecursionError) as error:
            raise OSError(errno.EINVAL, f"the event cannot be encoded: {error}") from None
        if size > wire.MAX_ORDER_BYTES:
            raise OSError(errno.EMSGSIZE, "the event is too large for the bus")
        if self._journal.size > JOURNAL_LIMIT_BYTES and not isinstance(event, _FATES):
            raise OSError(errno.EFBIG, "the hub has been away for too long: the journal is full")
        self._journal.emit(event, now_ms())
        crash_point("supervisor.out.journalled")
        self._all_delivered.clear()
        if isinstance(event, wire.TurnEnded):
            self._loop.call_soon(self._pump)
        else:
            self._gather()

    def push(self) -> None:
        """The journal has events that may be new to the hub: send them."""
        if self._journal.state.unconfirmed:
            self._all_delivered.clear()
            self._loop.call_soon(self._pump)

    def live(self, block: str, text: str) -> None:
        """Thinking as it grows; lost without harm."""
        if self._hub:
            self._link.send(wire.HUB, wire.LiveReasoning(block, text))

    def delivered(self, seq: int) -> None:
        """The hub confirmed events."""
        self._journal.delivered(seq)
        crash_point("supervisor.out.delivered")
        if not self._journal.state.unconfirmed:
            self._all_delivered.set()
        self._pump()

    async def flush(self, timeout_s: float) -> bool:
        """Wait until the hub has everything; False when it is away or takes longer than `timeout_s`."""
        self._stop_gathering()
        self._send_snapshot()
        if not self._journal.state.unconfirmed:
            return True
        if not self._hub:
            return False
        self._send_rest()
        try:
            await asyncio.wait_for(self._all_delivered.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def _gather(self) -> None:
        """Send what there is when company has had its time."""
        if self._gathering is None:
            self._gathering = self._loop.call_later(GATHER_S, self._gathered)

    def _gathered(self) -> None:
        self._stop_gathering()
        self._send_snapshot()
        self._pump()

    def _stop_gathering(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None

    def _send_snapshot(self) -> None:
        due, self._snapshot_due = self._snapshot_due, False
        if not due or not self._hub:
            return
        snapshot = self._snapshot()
        requests = [msgspec.structs.replace(request, arguments={}) for request in snapshot.requests]
        smaller: tuple[dict[str, list[Any]], ...] = ({"outcomes": []}, {"commands": []}, {"requests": requests})
        for less in smaller:
            if len(wire.encode_unlimited(snapshot)) <= wire.MAX_ORDER_BYTES:
                break
            logger.warning("the snapshot is too large; cut: %s", *less)
            snapshot = msgspec.structs.replace(snapshot, **less)
        self._link.send(wire.HUB, snapshot)

    def _send_rest(self) -> None:
        """At the end: hand the connector all that is left, so that it can tell the hub when we are gone."""
        for batch in self._batches(self._sent):
            if self._link.send(wire.HUB, wire.Events(batch)):
                self._sent = batch[-1].seq

    def _pump(self) -> None:
        unconfirmed = self._journal.state.unconfirmed
        if not self._hub or not unconfirmed or self._sent > self._journal.state.delivered:
            return
        self._send_snapshot()  # the connector must know the session before its events
        self._stop_gathering()
        batch = next(self._batches(self._sent))
        if self._link.send(wire.HUB, wire.Events(batch)):
            self._sent = batch[-1].seq
            crash_point("supervisor.out.sent")
        self._arm_resend()

    def _batches(self, after: int) -> Iterator[list[wire.NumberedEvent]]:
        """The unconfirmed events behind number `after`, in windows."""
        batch: list[wire.NumberedEvent] = []
        size = 0
        for event in self._journal.state.unconfirmed.values():
            if event.seq <= after:
                continue
            length = len(wire.encode_unlimited(event))
            if batch and (len(batch) >= WINDOW or size + length > WINDOW_BYTES):
                yield batch
                batch, size = [], 0
            batch.append(event)
            size += length
        if batch:
            yield batch

    def _arm_resend(self) -> None:
        if self._resend is not None:
            self._resend.cancel()
        self._resend = self._loop.call_later(RESEND_S, self._send_again)

    def _send_again(self) -> None:
        self._sent = self._journal.state.delivered
        self._pump()
