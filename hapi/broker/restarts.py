"""Sessions that went down with the machine and are started again: a few at a time, each once. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection

import msgspec

from hapi.broker.spawns import MAX_PENDING
from hapi.lifecycle import Phase
from hapi.wire import SessionInfo, Spawn

AT_ONCE = 4


class Restarts:
    """The queue, and those under way."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, SessionInfo] = OrderedDict()
        self._under_way: set[str] = set()

    def add(self, info: SessionInfo) -> SessionInfo:
        """Queue an interrupted session; returns it as it is to be shown meanwhile."""
        self._waiting[info.session_id] = info
        return msgspec.structs.replace(info, phase=Phase.STARTING, supervisor=None, agent_process=None)

    def take(self, pending: Collection[str]) -> Spawn | None:
        """The next one to spawn; None when `due` says no."""
        if not self.due(pending):
            return None
        session_id, info = self._waiting.popitem(last=False)
        self._under_way.add(session_id)
        return Spawn(
            session_id=session_id,
            directory=info.directory,
            agent=info.agent,
            started_by=info.started_by,
            existing=True,
            driver=info.driver,
        )

    def due(self, pending: Collection[str]) -> bool:
        """Whether one waits and there is room: fewer than AT_ONCE are among the `pending` spawns, which are not too many."""
        self._under_way = {key for key in self._under_way if key in pending}
        return bool(self._waiting) and len(self._under_way) < AT_ONCE and len(pending) < MAX_PENDING

    def waits(self, session_id: str) -> bool:
        """Whether it is still in the queue."""
        return session_id in self._waiting

    def drop(self, session_id: str) -> None:
        """It is not wanted any more."""
        self._waiting.pop(session_id, None)
