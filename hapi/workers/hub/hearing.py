"""What the hub says on a session's connection, sorted: RPCs, messages, cancels, retries, terminals, complaints."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from hapi.workers.hub import incoming
from hapi.workers.hub.inbox import Inbox
from hapi.workers.hub.rpc import RpcTable
from hapi.workers.hub.terminals import Terminals

_log = logging.getLogger("hapi.hub")


class Hearing:
    """A door's receiver. `on_complaint` is called when the hub refuses the session: deleted, or not ours."""

    def __init__(
        self, session_id: str, rpc: RpcTable, inbox: Inbox, counters: Counter[str], on_complaint: Callable[[], None]
    ) -> None:
        self._session_id = session_id
        self._rpc = rpc
        self._inbox = inbox
        self._counters = counters
        self._on_complaint = on_complaint
        self.terminals: Terminals | None = None  # they need the door that this is the receiver of

    def receive(self, event: str, data: Any) -> Coroutine[Any, Any, Any] | None:
        """Take an event; the coroutine, if there is one, makes its acknowledgement."""
        if event == "rpc-request":
            return self._rpc.answer(data)
        try:
            if event == "update":
                return self._update(data)
            if self.terminals is not None and event.startswith(("terminal:", "agent-terminal:")):
                self.terminals.receive(event, data)
            if event == "error":
                self._error(incoming.read(data, incoming.ErrorNote))
        except msgspec.ValidationError:
            self._counters["malformed"] += 1
        return None

    def _update(self, data: Any) -> Coroutine[Any, Any, Any] | None:
        update = incoming.read_update(data)
        if update is None or update.sid != self._session_id:
            return None
        if isinstance(update, incoming.CancelQueued):
            return self._inbox.cancel(update)
        if isinstance(update, incoming.RetryQueued):
            return self._inbox.retry(update)
        self._inbox.offer(update.message)
        return None

    def _error(self, note: incoming.ErrorNote) -> None:
        _log.warning("session %s: the hub says %s %s", self._session_id, note.code, note.message)
        if note.scope == "session" and note.id == self._session_id:
            self._on_complaint()
