"""Requests that wait until it is clear what became of their session. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from hapi import wire
from hapi.broker.effects import ReplyTo
from hapi.errors import ErrorCode, HapiError

MAX_KEPT = 512


class Deferred(msgspec.Struct, frozen=True):
    """A request that came too early, and when."""

    to: ReplyTo
    body: Any
    at: float


class Deferrals:
    """What is kept back, by session: for a verdict, or for the end of its former supervisor."""

    def __init__(self) -> None:
        self._kept: dict[str, list[Deferred]] = {}

    def keep(self, session_id: str, request: Deferred) -> None:
        """Keep a request back. Raises HapiError(at_capacity) when MAX_KEPT wait already."""
        if sum(map(len, self._kept.values())) >= MAX_KEPT:
            raise HapiError(ErrorCode.AT_CAPACITY, f"{MAX_KEPT} requests wait for their sessions.", "Try again.")
        self._kept.setdefault(session_id, []).append(request)

    def take_up(self, session_id: str) -> list[Deferred]:
        """The requests that were kept back for that session."""
        return self._kept.pop(session_id, [])

    def take_back(self, session_id: str) -> list[Deferred]:
        """The spawns among them: the session was stopped, and whoever waits for its return waits in vain."""
        kept = self._kept.pop(session_id, [])
        rest = [request for request in kept if not isinstance(request.body, wire.Spawn)]
        if rest:
            self._kept[session_id] = rest
        return [request for request in kept if isinstance(request.body, wire.Spawn)]

    def give_up(self) -> list[Deferred]:
        """All requests that are kept back; the runner goes."""
        kept = [request for requests in self._kept.values() for request in requests]
        self._kept.clear()
        return kept
