"""Requests that the broker passes on to a peer in its own name, and their answers on the way back. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from hapi import wire
from hapi.broker.effects import Answer, ReplyTo, Send
from hapi.broker.peers import Peer
from hapi.errors import ErrorCode

DEADLINE_S = 8.0
_FIRST = 2  # 1 is the number of the goodbye to the hub


class _Relay(msgspec.Struct):
    asker: ReplyTo
    peer: str
    deadline: float


class Relays:
    """Every relay ends in exactly one answer: the peer's, or a Failure at its deadline."""

    def __init__(self) -> None:
        self._open: dict[int, _Relay] = {}
        self._next = _FIRST

    def begin(self, asker: ReplyTo, peer: Peer, body: Any, now: float) -> Send:
        """Ask `peer` on behalf of `asker`."""
        number, self._next = self._next, self._next + 1
        self._open[number] = _Relay(asker, peer.name, now + DEADLINE_S)
        return Send(peer.identity, peer.name, body, request=number)

    def answered(self, peer: str, number: int, body: Any) -> list[Answer] | None:
        """A peer's reply for whoever asked; None when nothing was asked of that peer under that number."""
        relay = self._open.get(number)
        if relay is None or relay.peer != peer:
            return None
        del self._open[number]
        return [Answer(relay.asker, body)]

    def overdue(self, now: float) -> list[Answer]:
        late = wire.Failure(ErrorCode.TIMEOUT.value, "The session does not answer.", "hapi doctor")
        return self._give_up([number for number, relay in self._open.items() if now >= relay.deadline], late)

    def lost(self, peer: str, failure: wire.Failure) -> list[Answer]:
        """That peer has ended and answers no more."""
        return self._give_up([number for number, relay in self._open.items() if relay.peer == peer], failure)

    def end_all(self, failure: wire.Failure) -> list[Answer]:
        return self._give_up(list(self._open), failure)

    def deadlines(self) -> list[float]:
        return [relay.deadline for relay in self._open.values()]

    def _give_up(self, numbers: list[int], failure: wire.Failure) -> list[Answer]:
        return [Answer(self._open.pop(number).asker, failure) for number in numbers]
