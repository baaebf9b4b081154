"""Spawns and stops that somebody waits for, with their deadlines. Pure.

A spawn is idempotent by its session id: whoever asks again joins those who wait. A stop that arrives while the session
is still starting wins over the start.
"""

from __future__ import annotations

import msgspec

from hapi import wire
from hapi.broker.effects import Answer, ReplyTo
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import EndReason

MAX_PENDING = 512
STOP_DEADLINE_S = 15.0
_FORK_MARGIN_S = 5.0


class PendingSpawn(msgspec.Struct):
    """A session that is not ready yet. `stopped`: a stop arrived first, with this reason. `joined`: it was starting
    before we were asked.
    """

    order: wire.Spawn
    waiters: list[ReplyTo]
    deadline: float
    stopped: EndReason | None = None
    joined: bool = False


class PendingStop(msgspec.Struct):
    """A stop that its supervisor is working on."""

    waiters: list[ReplyTo]
    deadline: float


class Spawns:
    """Spawns under way, by session id."""

    def __init__(self, ready_timeout_s: float) -> None:
        self.pending: dict[str, PendingSpawn] = {}
        self._timeout_s = ready_timeout_s + _FORK_MARGIN_S

    def begin(self, order: wire.Spawn, waiter: ReplyTo | None, now: float, *, joined: bool = False) -> bool:
        """Wait for that session; True when it has to be forked, False when it is under way already, or `joined`.

        `waiter` is None when nobody waits: the runner restarts it. Raises HapiError(at_capacity) when too many spawns
        are under way.
        """
        waiters = [] if waiter is None else [waiter]
        found = self.pending.get(order.session_id)
        if found is not None:
            found.waiters += waiters
            return False
        if len(self.pending) >= MAX_PENDING:
            raise HapiError(ErrorCode.AT_CAPACITY, f"{MAX_PENDING} sessions are starting at the moment.", "Try again.")
        self.pending[order.session_id] = PendingSpawn(order, waiters, now + self._timeout_s, joined=joined)
        return not joined

    def settle(self, session_id: str, body: wire.Spawned | wire.Failure) -> list[Answer]:
        """The session is ready, or never will be: the answers to all who wait for it. Only the first one started it."""
        found = self.pending.pop(session_id, None)
        if found is None:
            return []
        again = msgspec.structs.replace(body, existing=True) if isinstance(body, wire.Spawned) else body
        bodies = [again if found.joined else body, *[again] * len(found.waiters)]
        return [Answer(waiter, said) for waiter, said in zip(found.waiters, bodies, strict=False)]

    def overdue(self, now: float) -> list[str]:
        return [session_id for session_id, spawn in self.pending.items() if now >= spawn.deadline]


class Stops:
    """Stops under way, by session id."""

    def __init__(self) -> None:
        self.pending: dict[str, PendingStop] = {}

    def begin(self, session_id: str, waiter: ReplyTo, now: float) -> bool:
        """Wait for that session's end; True when its supervisor has to be told."""
        found = self.pending.get(session_id)
        if found is not None:
            found.waiters.append(waiter)
            return False
        self.pending[session_id] = PendingStop([waiter], now + STOP_DEADLINE_S)
        return True

    def settle(self, result: wire.SessionStopped) -> list[Answer]:
        """The stop is decided: the answers to all who wait for it."""
        found = self.pending.pop(result.session_id, None)
        return [] if found is None else [Answer(waiter, result) for waiter in found.waiters]

    def end_all(self, failure: wire.Failure) -> list[Answer]:
        """The runner goes: nobody is left to tell how these stops end."""
        pending, self.pending = self.pending, {}
        return [Answer(waiter, failure) for stop in pending.values() for waiter in stop.waiters]

    def overdue(self, now: float) -> list[str]:
        return [session_id for session_id, stop in self.pending.items() if now >= stop.deadline]
