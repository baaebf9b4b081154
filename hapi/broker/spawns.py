"""Spawns and stops that somebody waits for, with their deadlines. Pure.

A spawn is idempotent by its session id: whoever asks again joins those who wait. A stop that arrives while the session
is still starting wins over the start. No more start at the same time than the machine has time for: hundreds at once
would all be too late, the same hundreds one after another are not. The others wait in line.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hapi import wire
from hapi.broker.effects import Answer, ReplyTo
from hapi.broker.line import Line
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import EndReason

MAX_PENDING = 512
STOP_DEADLINE_S = 15.0
SLOW_S = 5.0  # one that takes longer waits for something else than the processor, and holds nobody up
LINE_S = wire.MAX_LINE_MS / 1000  # at most in line before its start begins
_FORK_MARGIN_S = 5.0


class PendingSpawn(msgspec.Struct):
    """A session that is not ready yet. `stopped`: a stop arrived first, with this reason. `joined`: it was starting
    before we were asked. `pid`: its supervisor's, once the nursery has told.
    """

    order: wire.Spawn
    waiters: list[ReplyTo]
    deadline: float
    stopped: EndReason | None = None
    joined: bool = False
    pid: int | None = None


class PendingStop(msgspec.Struct):
    """A stop that its supervisor is working on."""

    waiters: list[ReplyTo]
    deadline: float


class Spawns:
    """Spawns under way, by session id; `at_once` of them are started, the others wait in line."""

    def __init__(self, ready_timeout_s: float, at_once: int) -> None:
        self.pending: dict[str, PendingSpawn] = {}
        self._timeout_s = ready_timeout_s + _FORK_MARGIN_S
        self._at_once = at_once
        self._line = Line()  # some of those that are pending
        self._starting: dict[str, float] = {}  # others of them, and since when

    def begin(self, order: wire.Spawn, waiter: ReplyTo | None, now: float, *, joined: bool = False) -> bool:
        """Wait for that session; True when it gets in line to be started, False when it is under way already, or `joined`.

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
        patience = self._timeout_s if joined else LINE_S
        self.pending[order.session_id] = PendingSpawn(order, waiters, now + patience, joined=joined)
        if not joined:
            self._line.join(order.session_id, "runner" if waiter is None else waiter.channel)
        return not joined

    def admit(self, now: float) -> Iterator[str]:
        """Those whose turn it is to be forked; their time to get ready begins."""
        self._starting = {key: at for key, at in self._starting.items() if now < at + SLOW_S}
        while self._line and len(self._starting) < self._at_once:
            session_id = self._line.take()
            self.pending[session_id].deadline = now + self._timeout_s
            self._starting[session_id] = now
            yield session_id

    def in_line(self, session_id: str) -> bool:
        """Whether its start has yet to begin."""
        return session_id in self._line

    def too_late(self, session_id: str) -> wire.Failure:
        """What whoever waits for an overdue session is told."""
        if self.in_line(session_id):
            words = f"{len(self._line)} sessions wait to be started; this one has for {LINE_S:g} s."
            return wire.Failure(ErrorCode.AT_CAPACITY.value, words, "Try again when there is less to do.")
        return wire.Failure(ErrorCode.AGENT_TIMEOUT.value, "The session did not become ready in time.")

    def turn(self) -> float | None:
        """When `admit` has somebody; None while nobody is in line."""
        if not self._line:
            return None
        return 0.0 if len(self._starting) < self._at_once else min(self._starting.values()) + SLOW_S

    def settle(self, session_id: str, body: wire.Spawned | wire.Failure) -> list[Answer]:
        """The session is ready, or never will be: the answers to all who wait for it. Only the first one started it."""
        found = self.pending.pop(session_id, None)
        if found is None:
            return []
        self._line.leave(session_id)
        self._starting.pop(session_id, None)
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
