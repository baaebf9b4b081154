"""Users' messages on their way from the hub to a session: in order, each once, until the session has it on disk."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any

import msgspec

from hapi import wire
from hapi.crashpoints import crash_point
from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub import incoming, params, translate
from hapi.workers.hub.backoff import Backoff
from hapi.workers.hub.context import Context
from hapi.workers.hub.door import Door
from hapi.workers.hub.problems import HubProblem
from hapi.workers.hub.timing import pause

PENDING_LIMIT = 1000
REMEMBERED = 1024
HANDOVER_TIMEOUT_S = 10.0
CANCEL_TIMEOUT_S = 0.45  # the hub waits 500 ms

_HOPELESS = frozenset({ErrorCode.BAD_REQUEST, ErrorCode.TOO_LARGE})
_FATES: dict[str, dict[str, bool]] = {
    "removed": {"removed": True},
    "in_flight": {"inFlight": True},
    "consumed": {"consumed": True},
    "unknown": {"removed": False},
}
_log = logging.getLogger("hapi.hub")


class Inbox:
    """Pending messages of one session. The hub repeats what is unconsumed, so known ids are skipped; the session
    itself remembers them for good.
    """

    def __init__(self, context: Context, session_id: str) -> None:
        self._context = context
        self._session_id = session_id
        self.door: Door | None = None  # where the hub is told of a message that no session could take
        self._peer = wire.session_peer(session_id)
        self._pending: dict[str, wire.UserMessage] = {}
        self._known: OrderedDict[str, None] = OrderedDict()
        self._arrived = asyncio.Event()
        self.highest_seq = 0

    def offer(self, row: incoming.ChatRow) -> None:
        """Take a chat row if it is a user's message that is new to us. Does not wait."""
        try:
            message = params.user_message(row)
        except msgspec.ValidationError:
            self._context.counters["malformed"] += 1
            return
        self.highest_seq = max(self.highest_seq, row.seq)
        if message is None or row.id in self._pending or row.id in self._known:
            return
        if len(self._pending) >= PENDING_LIMIT:
            self._context.counters["messages_dropped"] += 1
            return
        self._pending[row.id] = message
        crash_point("connector.in.received")
        self._arrived.set()

    async def backfill(self, started_at: int) -> None:
        """Take what came while there was no connection. Rows from before the session's start were another's.

        Raises HubProblem.
        """
        since = 0 if self.highest_seq else started_at
        for row in await self._context.rest.messages_after(self._session_id, self.highest_seq):
            handled = row.local_id is not None and row.invoked_at is not None
            if not handled and row.created_at >= since:
                self.offer(row)
            self.highest_seq = max(self.highest_seq, row.seq)

    async def run(self) -> None:
        """Hand messages over, oldest first, until cancelled."""
        backoff = Backoff(0.25, 5.0)
        while True:
            await self._arrived.wait()
            if not self._pending:
                self._arrived.clear()
                continue
            message = min(self._pending.values(), key=lambda waiting: waiting.seq or 0)
            if await self._hand_over(message):
                backoff.reset()
            else:
                await pause(backoff.next_s())

    async def cancel(self, order: incoming.CancelQueued) -> dict[str, Any]:
        """The answer to a cancel. No certainty is `{removed: false}`: the hub then asks the user."""
        self._pending.pop(order.message_id, None)
        self._remember(order.message_id)
        request = wire.CancelMessage(order.message_id, order.local_id)
        try:
            reply = await self._context.bus.request(self._peer, request, CANCEL_TIMEOUT_S)
        except HapiError:
            self._context.counters["cancels_unanswered"] += 1
            return _FATES["unknown"]
        return _FATES[reply.fate] if isinstance(reply, wire.MessageFate) else _FATES["unknown"]

    async def retry(self, order: incoming.RetryQueued) -> dict[str, Any]:
        """The answer to a retry of a message whose fate was unknown."""
        try:
            message = params.user_message(order.message)
            if message is None:
                return {"accepted": False, "removed": False}
            reply = await self._context.bus.request(self._peer, wire.RetryMessage(message), CANCEL_TIMEOUT_S)
        except (HapiError, msgspec.ValidationError):
            return {"accepted": False, "removed": False}
        return {"accepted": isinstance(reply, wire.Accepted), "removed": False}

    async def _hand_over(self, message: wire.UserMessage) -> bool:
        try:
            await self._context.bus.request(self._peer, message, HANDOVER_TIMEOUT_S)
            crash_point("connector.in.handed")
        except HapiError as error:
            if error.code not in _HOPELESS:
                return False
            _log.error("message %s cannot be handed to its session: %s", message.id, error.message)
            if not await self._refuse(message, error.message):
                return False
            self._context.counters["messages_dropped"] += 1
        self._pending.pop(message.id, None)
        self._remember(message.id)
        self._context.counters["messages_in"] += 1
        return True

    async def _refuse(self, message: wire.UserMessage, why: str) -> bool:
        """Say in the chat that the agent will not get this message; whether that is on its way."""
        if self.door is None:
            return True
        try:
            for notice in translate.refusal(self._session_id, message, why):
                await self.door.emit(notice)
        except HubProblem:
            return False
        return True

    def _remember(self, message_id: str) -> None:
        self._known[message_id] = None
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
