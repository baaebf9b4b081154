"""The broker's memory, and what every decision needs of it. Pure, as `core`."""

from __future__ import annotations

from collections import Counter
from typing import Any

import msgspec

from hapi import wire
from hapi.broker.adoption import Adoption
from hapi.broker.deferrals import Deferrals
from hapi.broker.effects import CloseRecord, Effect, Ending, ReplyTo, Send
from hapi.broker.losses import Losses, watched
from hapi.broker.peers import Peers
from hapi.broker.relays import Relays
from hapi.broker.restarts import Restarts
from hapi.broker.sessions import Sessions
from hapi.broker.spawns import Spawns, Stops
from hapi.broker.upgrade import Upgrade
from hapi.broker.waits import Waits
from hapi.errors import ErrorCode
from hapi.handoff import Build
from hapi.lifecycle import EndReason, Phase


class CoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the core must know of the configuration. `instance` names this broker process for its peers;
    `starts_at_once` bounds the sessions that are between their fork and being ready.
    """

    instance: str
    version: str
    ready_timeout_s: float
    workspace_roots: list[str]
    pid: int = 0
    started_at: int = 0
    umask: int = 0o022
    fingerprint: str = ""
    handoff_disabled: bool = False
    handoff_window_s: float = 300.0
    starts_at_once: int = 16


class Books:
    """Who is there, what runs, who waits for what. `requests` and `core` decide upon it."""

    def __init__(self, settings: CoreSettings) -> None:
        self.settings = settings
        self.peers = Peers()
        self.sessions = Sessions()
        self.spawns = Spawns(settings.ready_timeout_s, settings.starts_at_once)
        self.stops = Stops()
        self.counters: Counter[str] = Counter()
        self.adoption = Adoption()
        self.deferrals = Deferrals()
        self.hub = wire.HubStatus()
        self.last_heartbeat: int | None = None
        self.heard_heartbeat: float | None = None
        running = Build(settings.version, settings.fingerprint)
        self.upgrade = Upgrade(running, disabled=settings.handoff_disabled, retry_s=settings.handoff_window_s)
        self.now_ms = settings.started_at  # the wall clock, for what is put on record; `app` sets it
        self.losses = Losses()
        self.restarts = Restarts()
        self._stop_waiters: list[ReplyTo] = []
        self._stop_deadline: float | None = None
        self._shutdown = False
        self._ending = Ending.STOP
        self._has_quit = False
        self.relays = Relays()
        self.waits = Waits()

    @property
    def stopping(self) -> bool:
        """The runner is on its way out and takes no new spawns."""
        return self._stop_deadline is not None

    def _end(
        self, info: wire.SessionInfo, reason: EndReason, now_ms: int, detail: str | None = None
    ) -> wire.SessionInfo:
        """End a session whose supervisor cannot: in our books only. A stop that it did not live to see the end of counts."""
        self.peers.depart(wire.session_peer(info.session_id))
        info = msgspec.structs.replace(
            info, phase=Phase.ENDED, reason=info.reason or reason, ended_at=now_ms, detail=detail or info.detail
        )
        self.sessions.put(info)
        return info

    def _settle_ended(self, session_id: str, reason: EndReason) -> list[Effect]:
        """Answer those who waited for a session that has ended."""
        failed = wire.Failure(ErrorCode.AGENT_FAILED.value, f"The session ended: {reason}.")
        gone = wire.SessionStopped("already_gone", session_id)
        return [
            *self.spawns.settle(session_id, failed),
            *self.stops.settle(gone),
            *self.relays.lost(wire.session_peer(session_id), failed),
            *self._settle_waits(session_id),
        ]

    def _settle_waits(self, session_id: str) -> list[Effect]:
        """Answer those who waited for a session to be as it is now; nobody while it is not clear how it is."""
        info = self.sessions.live.get(session_id) or self.sessions.ended.get(session_id)
        return [] if info is None or self.adoption.is_open(session_id) else [*self.waits.settle(info)]

    def _tell_end(self, info: wire.SessionInfo) -> list[Effect]:
        """Let the hub know of an end that no supervisor can tell it any more; now, and whenever it comes back."""
        if not self.losses.tell(info):
            return []
        return self._tell(wire.HUB, wire.SessionLost(info))

    def _tell(self, name: str, body: Any) -> list[Effect]:
        peer = self.peers.named(name)
        return [] if peer is None else [Send(peer.identity, name, body)]

    def _watched(self) -> list[wire.Watched]:
        live = self.sessions.live.values()
        known = [watched(i) for i in live if i.supervisor and not self.losses.awaits_reaping(i)]
        others = [w for w in self.losses.to_reap() if w.session_id not in {k.session_id for k in known}]
        return [*known, *others]

    def never_started(self, session_id: str, failed: wire.Failure) -> list[Effect]:
        """A spawn came to nothing; a stop that waited for it has nothing left to stop.

        A session that was to be started again after a reboot ends; any other has no record yet, or its supervisor's.
        """
        spawn = self.spawns.pending.get(session_id)
        effects: list[Effect] = []
        info = self.sessions.live.get(session_id)
        if info is not None and info.supervisor is None:
            reason = (spawn.stopped if spawn is not None else None) or EndReason.MACHINE_REBOOTED
            ended = self._end(info, reason, self.now_ms, failed.message)
            effects = [CloseRecord(ended), *self._tell_end(ended), *self._settle_waits(session_id)]
        gone = wire.SessionStopped("stopped", session_id, "before_start")
        stopped = self.stops.settle(gone) if spawn is not None and spawn.stopped is not None else []
        return [*effects, *self.spawns.settle(session_id, failed), *stopped]

    def _stopped_while_starting(self, session_id: str) -> list[Effect]:
        spawn = self.spawns.pending.get(session_id)
        if spawn is None or spawn.stopped is None:
            return []
        failed = wire.Failure(ErrorCode.STOPPED_DURING_START.value, "The session was stopped while it was starting.")
        return self.never_started(session_id, failed)
