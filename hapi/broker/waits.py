"""Requests that wait until a session has nothing left to do, or has ended. Pure.

Whoever is gone meanwhile costs no more than a place until the deadline, which is at most `wire.MAX_WAIT_MS` away. A
broker that ends answers them all with a failure; whoever still wants to know asks the next one.
"""

from __future__ import annotations

import msgspec

from hapi import wire
from hapi.broker.effects import Answer, ReplyTo
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import Phase

MAX_WAITING = 512


class _Wait(msgspec.Struct, frozen=True):
    to: ReplyTo
    ended: bool
    deadline: float


def reached(info: wire.SessionInfo, *, ended: bool) -> bool:
    """Whether the session has ended; for a wait for `idle` also whether it is idle and no message waits for it."""
    if info.phase is Phase.ENDED:
        return True
    return not ended and info.phase is Phase.IDLE and not info.queued


class Waits:
    """Every wait ends in exactly one answer: when what it waits for is so, or at its deadline."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[_Wait]] = {}

    def begin(self, session_id: str, to: ReplyTo, body: wire.WaitSession, now: float) -> None:
        """Wait for that session. Raises HapiError(at_capacity) when MAX_WAITING wait already."""
        if sum(map(len, self._waiting.values())) >= MAX_WAITING:
            raise HapiError(ErrorCode.AT_CAPACITY, f"{MAX_WAITING} wait for sessions at the moment.", "Try again.")
        deadline = now + min(max(body.timeout_ms, 0), wire.MAX_WAIT_MS) / 1000
        self._waiting.setdefault(session_id, []).append(_Wait(to, body.until == "ended", deadline))

    def settle(self, info: wire.SessionInfo) -> list[Answer]:
        """News of a session: the answers to those who have waited for just this."""
        waiting = self._waiting.pop(info.session_id, [])
        rest = [wait for wait in waiting if not reached(info, ended=wait.ended)]
        if rest:
            self._waiting[info.session_id] = rest
        return [Answer(wait.to, wire.Waited(info, reached=True)) for wait in waiting if wait not in rest]

    def overdue(self, now: float) -> list[tuple[str, ReplyTo]]:
        """Whose time is up, and for which session; they are forgotten here."""
        late: list[tuple[str, ReplyTo]] = []
        for session_id, waiting in list(self._waiting.items()):
            late += [(session_id, wait.to) for wait in waiting if now >= wait.deadline]
            self._waiting[session_id] = [wait for wait in waiting if now < wait.deadline]
            if not self._waiting[session_id]:
                del self._waiting[session_id]
        return late

    def end_all(self, failure: wire.Failure) -> list[Answer]:
        """The runner goes: the sessions live on, and the next runner can be asked."""
        gone = [wait for waiting in self._waiting.values() for wait in waiting]
        self._waiting.clear()
        return [Answer(wait.to, failure) for wait in gone]

    def deadline(self) -> float | None:
        """When the next time is up."""
        return min((wait.deadline for waiting in self._waiting.values() for wait in waiting), default=None)
