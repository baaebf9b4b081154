"""Who is connected: ZeroMQ identity ⇄ logical name, and what each kind of peer may say. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from hapi import wire
from hapi.ids import ProcessId

PASSES_KEPT = 8_192
DEPARTED_KEPT = 1_024
_MAY_SEND_TO = {"session": frozenset({"hub"}), "hub": frozenset({"session"}), "reaper": frozenset()}
_COMMON = (wire.Hello, wire.Beat, wire.Accepted, wire.Failure)
_BROKER_TAKES: dict[str, tuple[type, ...]] = {
    "session": (*_COMMON, wire.SessionChanged, wire.SpawnFailed, wire.SessionStopped),
    "hub": (*_COMMON, wire.HubStatus, wire.Spawn, wire.StopSession, wire.StopRunner),
    "reaper": (*_COMMON, wire.SupervisorGone, wire.Heartbeat),
}


def role(name: str) -> str:
    """The kind of peer behind a logical name: `session` for `session:ID`."""
    return name.partition(":")[0]


def may_route(sender: str, to: str) -> bool:
    """Whether messages from `sender` to `to` pass through the broker."""
    return role(to) in _MAY_SEND_TO.get(role(sender), frozenset())


def may_tell_broker(sender: str, body: Any) -> bool:
    """Whether a peer of that name may send this message to the broker itself."""
    return isinstance(body, _BROKER_TAKES.get(role(sender), ()))


def about_itself(sender: str, body: Any) -> bool:
    """Whether a supervisor's news are about its own session; other peers' messages always are."""
    if role(sender) != "session":
        return True
    match body:
        case wire.SessionChanged():
            return wire.session_peer(body.info.session_id) == sender
        case wire.SpawnFailed() | wire.SessionStopped():
            return wire.session_peer(body.session_id) == sender
    return True


class Peer(msgspec.Struct):
    """A connected worker. `last_seen` is monotonic seconds, `protocol` the level that both ends speak."""

    identity: bytes
    name: str
    process: ProcessId
    generation: int
    last_seen: float
    protocol: int = 1


class Peers:
    """The routing table. One name has at most one peer; the newest introduction wins.

    `passes` is what follows from it and was asked for before: who sends what header to whom, at most PASSES_KEPT.
    A process can be known to have ended before its last words are read: who was behind a connection is known for longer.
    """

    def __init__(self) -> None:
        self.by_identity: dict[bytes, Peer] = {}
        self.routes: dict[str, bytes] = {}
        self.passes: dict[tuple[bytes, bytes], bytes] = {}
        self._departed: dict[bytes, str] = {}

    def remember(self, identity: bytes, header: bytes, target: bytes) -> None:
        """What has this header and comes from there may go to `target`, until somebody comes or goes."""
        if len(self.passes) >= PASSES_KEPT:
            self.passes.clear()
        self.passes[identity, header] = target

    def add(self, peer: Peer) -> None:
        """Register `peer`; an older connection under its name, another name of its connection, and what was remembered
        are forgotten.
        """
        self.remove(peer.name)
        renamed = self.by_identity.get(peer.identity)
        if renamed is not None:
            self.remove(renamed.name)
        self.by_identity[peer.identity] = peer
        self.routes[peer.name] = peer.identity

    def remove(self, name: str) -> Peer | None:
        """Forget the peer of that name and return it, and whatever was remembered."""
        self.passes.clear()
        identity = self.routes.pop(name, None)
        return None if identity is None else self.by_identity.pop(identity, None)

    def depart(self, name: str) -> None:
        """Forget the peer of that name, whose process has ended; what it said last still passes."""
        peer = self.remove(name)
        if peer is None:
            return
        if len(self._departed) >= DEPARTED_KEPT:
            del self._departed[next(iter(self._departed))]
        self._departed[peer.identity] = name

    def speaker(self, identity: bytes) -> str | None:
        """Whose words come from there: a peer's, or those of one that departed not long ago; None for a stranger's."""
        peer = self.by_identity.get(identity)
        return self._departed.get(identity) if peer is None else peer.name

    def named(self, name: str) -> Peer | None:
        identity = self.routes.get(name)
        return None if identity is None else self.by_identity.get(identity)

    def of_role(self, wanted: str) -> list[Peer]:
        return [peer for peer in self.by_identity.values() if role(peer.name) == wanted]
