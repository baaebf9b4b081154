"""Sessions whose supervisors are gone: what is left to do for each, by whom. Pure.

A session lost while the runner is up may be the first victim of a shutdown: its record stays open for OPEN_S, so that
one which went down with the machine is found interrupted by the next boot, and started again.
"""

from __future__ import annotations

from collections import OrderedDict

from hapi import wire
from hapi.ids import NOBODY, ProcessId
from hapi.lifecycle import EndReason
from hapi.wire import SessionInfo

OPEN_S = 30.0
UNTOLD_KEPT = 1_000
UNTOLD_MS = 7 * 24 * 3_600_000


class Losses:
    """Each session is here under three heads at most: to be reaped, to be told to the hub, to be closed on disk."""

    def __init__(self) -> None:
        self._to_reap: dict[str, tuple[SessionInfo, EndReason]] = {}
        self._untold: OrderedDict[str, SessionInfo] = OrderedDict()
        self._open: dict[str, tuple[float, SessionInfo]] = {}

    def find(self, info: SessionInfo, reason: EndReason) -> None:
        """Its supervisor is dead, or about to end: it ends for that reason, once the reaper has ended what is left."""
        self._to_reap[info.session_id] = (info, reason)

    def awaits_reaping(self, info: SessionInfo) -> bool:
        """Whether it was found without its supervisor, and what is left of it may still live."""
        found, _ = self._to_reap.get(info.session_id, (None, None))
        return found is not None and supervisor_of(found) == supervisor_of(info)

    def to_reap(self) -> list[wire.Watched]:
        return [watched(info) for info, _ in self._to_reap.values()]

    def reaped(self, gone: wire.SupervisorGone) -> EndReason | None:
        """The reaper is done with a session that was to be reaped: why it ends. None when it is not one of them."""
        info, reason = self._to_reap.get(gone.session_id, (None, None))
        if info is None or supervisor_of(info) != gone.process:
            return None
        del self._to_reap[gone.session_id]
        return reason

    def untold(self) -> list[SessionInfo]:
        """Ended sessions of which the hub may not know all; every new connector hears of them."""
        return list(self._untold.values())

    def tell(self, info: SessionInfo) -> bool:
        """The hub is to hear of this end; False when it was noted already."""
        if self._untold.get(info.session_id) == info:
            return False
        self._untold[info.session_id] = info
        self._untold.move_to_end(info.session_id)
        if len(self._untold) > UNTOLD_KEPT:
            self._untold.popitem(last=False)
        return True

    def keep_open(self, info: SessionInfo, now: float) -> None:
        """Its record shall be closed in a while."""
        self._open[info.session_id] = (now + OPEN_S, info)

    def due(self, now: float) -> list[SessionInfo]:
        """The records to close now."""
        return [self._open.pop(key)[1] for key, (at, _) in list(self._open.items()) if now >= at]

    def settle(self, session_id: str) -> list[SessionInfo]:
        """The record to close before the session is continued, if it is still open."""
        self._untold.pop(session_id, None)
        found = self._open.pop(session_id, None)
        return [] if found is None else [found[1]]

    def settle_all(self) -> list[SessionInfo]:
        """All that are still open: no shutdown came."""
        found = [info for _, info in self._open.values()]
        self._open.clear()
        return found

    def deadline(self) -> float | None:
        return min((at for at, _ in self._open.values()), default=None)


def supervisor_of(info: SessionInfo) -> ProcessId:
    """Whose death is meant when this session is said to be lost."""
    return info.supervisor or NOBODY


def watched(info: SessionInfo) -> wire.Watched:
    """The session's processes, for the reaper."""
    return wire.Watched(session_id=info.session_id, supervisor=supervisor_of(info), agent=info.agent_process)
