"""The broker's decisions. Pure: messages and times in, effects out; no socket, no clock, no file.

Forwarding between peers does not come here; `app` does it from the routing table alone.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from hapi import wire
from hapi.broker.effects import Answer, CloseRecord, Effect, ForkSession, ReplyTo, Send, WriteReport
from hapi.broker.losses import UNTOLD_MS, supervisor_of, watched
from hapi.broker.peers import Peer, about_itself, may_tell_broker, role
from hapi.broker.reattach import Record, Verdict
from hapi.broker.requests import Requests
from hapi.broker.sessions import pids
from hapi.errors import ErrorCode, HapiError
from hapi.handoff import Build
from hapi.lifecycle import READY, EndReason, Phase

logger = logging.getLogger(__name__)


class Core(Requests):
    """The broker's rules. Every method that decides returns the effects to carry out, in order."""

    def adopt(self, records: list[Record], now: float, now_ms: int) -> list[Effect]:
        """Take over the records found on disk. Live ones wait for their supervisors' hello."""
        self.adoption.begin(now)
        effects: list[Effect] = []
        for record in sorted(records, key=_ended_at):
            effects += self._adopt_one(record, now_ms)
        return effects

    def _adopt_one(self, record: Record, now_ms: int) -> list[Effect]:
        """Give a record its verdict. One whose supervisor is dead is ended when the reaper has proven its tree gone:
        until then the session is listed as stopping, and its record open for the next broker, should this one die.
        """
        info = record.info
        if info is not None and info.phase is Phase.ENDED:
            self.adoption.closed()
            self.sessions.put(info)
            if record.untold and now_ms - (info.ended_at or 0) < UNTOLD_MS:
                self.losses.tell(info)
            return []
        decided = self.adoption.add(record.session_id, record.facts)
        if info is None:
            return []
        if decided is Verdict.RESTARTED:
            self.sessions.put(self.restarts.add(info))
            return []
        shown = info if decided is None else msgspec.structs.replace(info, phase=Phase.STOPPING)
        self.sessions.put(shown)
        if decided is Verdict.ENDED:
            self.losses.find(info, EndReason.SUPERVISOR_LOST if record.facts.same_boot else EndReason.MACHINE_REBOOTED)
        return []

    def _start_some(self, now: float) -> list[Effect]:
        """Start whose turn it is, and again what went down with the machine: a few at a time."""
        if self.stopping:
            return []
        while (order := self.restarts.take(self.spawns.pending)) is not None:
            self.spawns.begin(order, None, now)
        return [*map(ForkSession, self.spawns.admit(now))]

    def hello(self, identity: bytes, body: wire.Hello, now: float) -> list[Effect]:
        """A worker introduces itself."""
        if body.protocol < wire.OLDEST_LEVEL:
            return self._too_old(identity, body)
        level = min(body.protocol, wire.PROTOCOL_LEVEL)
        peer = Peer(identity, body.name, body.process, body.generation, now, level)
        if role(body.name) == "session":
            return self._session_hello(peer, body)
        if body.name not in {wire.HUB, wire.REAPER}:
            self.counters["wrong_role"] += 1
            return [Send(identity, body.name, wire.Refused(f"nobody is called {body.name!r}"))]
        known = self.peers.named(body.name)
        effects: list[Effect] = []
        if known is not None and known.process != body.process:  # two were forked, or the old one was given up too soon
            self.counters["refused_peers"] += 1
            effects.append(Send(known.identity, known.name, wire.Refused(f"there is another {known.name} now")))
        self.peers.add(peer)
        effects.append(Send(identity, body.name, self._welcome(peer)))
        if body.name == wire.REAPER:
            effects.append(Send(identity, body.name, wire.Watch(self._watched())))
        else:
            effects += [Send(p.identity, p.name, wire.PeerUp(wire.HUB)) for p in self.peers.of_role("session")]
            effects += [Send(identity, body.name, wire.SessionLost(info)) for info in self.losses.untold()]
        return [*effects, WriteReport()]

    def _too_old(self, identity: bytes, body: wire.Hello) -> list[Effect]:
        """Not `refused`, which would end a session: it works on, and a broker that speaks its level may come back."""
        self.counters["protocol_mismatches"] += 1
        spoken = f"{body.name} speaks level {body.protocol}, this runner {wire.OLDEST_LEVEL} to {wire.PROTOCOL_LEVEL}."
        logger.warning("%s", spoken)
        hint = f"Run the version that it came with ({body.version}), or end it: hapi doctor clean"
        return [Send(identity, body.name, wire.Failure(ErrorCode.PROTOCOL_MISMATCH.value, spoken, hint))]

    def _session_hello(self, peer: Peer, body: wire.Hello) -> list[Effect]:
        session_id = body.name.partition(":")[2]
        spawn = self.spawns.pending.get(session_id)
        refusal = self._refusal(session_id, peer, body)
        if refusal is not None:
            self.counters["refused_peers"] += 1
            logger.warning("refused supervisor %s of %s: %s", peer.process.pid, session_id, refusal)
            known = self.peers.named(peer.name)
            if known is not None and known.process == peer.process:
                self.peers.remove(peer.name)  # its older connection is gone, and must not stand in another's way
            effects: list[Effect] = [Send(peer.identity, peer.name, wire.Refused(refusal))]
            return effects + self._stopped_while_starting(session_id)
        self.peers.add(peer)
        order = spawn.order if spawn is not None and body.info is None else None
        effects = [Send(peer.identity, peer.name, self._welcome(peer, order))]
        if body.info is not None:
            self.restarts.drop(session_id)
        if self.adoption.heard(session_id):
            effects += self._take_up(session_id)
        if body.info is not None:
            effects += self._news(body.info)
        return effects

    def _refusal(self, session_id: str, peer: Peer, body: wire.Hello) -> str | None:
        """Why a supervisor is not wanted; None when it is."""
        spawn = self.spawns.pending.get(session_id)
        if spawn is not None and spawn.stopped is not None:
            return "the session was stopped while it was starting"
        if body.info is None and spawn is None:
            return "nobody asked for this session, or the one who did has given up"
        known = self.peers.named(peer.name)
        if known is not None and known.process != peer.process and known.generation >= peer.generation:
            return "the session has a supervisor"
        return None

    def _welcome(self, peer: Peer, order: wire.Spawn | None = None) -> wire.Welcome:
        hub = self.peers.named(wire.HUB) is not None
        return wire.Welcome(
            instance=self.settings.instance,
            hub=hub,
            hub_online=self.hub.online,
            order=order,
            workspace_roots=self.settings.workspace_roots,
            runner_pid=self.settings.pid,
            runner_started_at=self.settings.started_at,
            umask=self.settings.umask,
            protocol=peer.protocol,
            fingerprint=self.settings.fingerprint if peer.name == wire.HUB else "",
        )

    def forked(self, session_id: str, pid: int) -> None:
        """The nursery has forked a supervisor."""
        spawn = self.spawns.pending.get(session_id)
        if spawn is not None:
            spawn.pid = pid

    def child_ended(self, session_id: str, pid: int, code: int) -> list[Effect]:
        """A supervisor's process ended; one that never said hello cannot say why."""
        info = self.sessions.live.get(session_id)
        if info is not None and info.supervisor is not None:
            return []  # the reaper cleans up and reports
        peer = self.peers.named(wire.session_peer(session_id))
        if peer is not None and peer.process.pid == pid:
            self.peers.depart(peer.name)
        spawn = self.spawns.pending.get(session_id)
        if spawn is None or spawn.pid != pid:
            return []  # an earlier one, or one too many; the other one goes on
        hint = "nursery.log has the reason: hapi runner logs --worker nursery"
        failed = wire.Failure(ErrorCode.INTERNAL.value, f"The supervisor ended before it was ready ({code}).", hint)
        return self.never_started(session_id, failed)

    def nursery_lost(self) -> list[Effect]:
        """The nursery died: forks that were on order may never come; late ones will be turned away.

        A supervisor that said hello has its order and goes on: its spawn is still waited for.
        """
        waiting = [key for key in self.spawns.pending if self.peers.named(wire.session_peer(key)) is None]
        waiting = [key for key in waiting if not self.spawns.in_line(key)]
        live = self.sessions.live
        waiting = [key for key in waiting if key not in live or live[key].supervisor is None]
        failed = wire.Failure(
            ErrorCode.INTERNAL.value, "The nursery died while the session was starting.", "Try again."
        )
        return [answer for key in waiting for answer in self.never_started(key, failed)]

    def warnings(self) -> list[str]:
        """What a person should know, for `hapi runner status`."""
        said = self.upgrade.warnings()
        silent = sorted(self.adoption.quarantined & self.sessions.live.keys())
        if silent:
            names = ", ".join(name[:13] for name in silent[:5])
            what = "session is" if len(silent) == 1 else "sessions are"
            said.append(f"{len(silent)} {what} quarantined, supervisor alive and silent: {names}")
        return said

    def peer_gone(self, name: str) -> list[Effect]:
        """A worker's process ended."""
        if self.peers.remove(name) is None:
            return []
        if name == wire.HUB:
            self.hub = wire.HubStatus(url=self.hub.url, reason="the hub connector is restarting")
            if self.stopping:
                return self._quit()
            return [Send(p.identity, p.name, wire.PeerDown(name)) for p in self.peers.of_role("session")]
        return []

    def tell(self, identity: bytes, header: wire.Header, body: Any, now: float, now_ms: int) -> list[Effect]:
        """A message for the broker itself from a known peer."""
        peer = self.peers.by_identity[identity]
        peer.last_seen = now
        if header.sender != peer.name or not may_tell_broker(peer.name, body) or not about_itself(peer.name, body):
            return self._wrong_role(identity, peer, header, body)
        relayed = self.relays.answered(peer.name, header.request, body) if header.reply else None
        if relayed is not None:
            return list(relayed)
        if isinstance(body, wire.Spawn | wire.StopSession | wire.StopRunner):
            return self.request(ReplyTo("bus", identity, header.sender, header.request), body, now)
        if isinstance(body, wire.Heartbeat):
            return self._heartbeat(body, now)
        return self._take_news(peer, body, now, now_ms)

    def _take_news(self, peer: Peer, body: Any, now: float, now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        match body:
            case wire.SessionChanged():
                effects = self._news(body.info)
            case wire.SpawnFailed():
                self._is_leaving(peer, body.session_id)
                effects += self.spawns.settle(body.session_id, body.failure)
            case wire.SessionStopped():
                effects += self.stops.settle(body)
            case wire.SupervisorGone():
                effects = self._supervisor_gone(body, now, now_ms)
            case wire.HubStatus():
                effects = self._hub_status(body)
            case wire.Accepted() if peer.name == wire.HUB and self.stopping:
                effects = self._quit()
        return effects

    def _is_leaving(self, peer: Peer, session_id: str) -> None:
        """Whoever continues the session now waits for the end of the supervisor that failed, and does not join it."""
        info = self.sessions.live.get(session_id)
        if info is not None and info.phase is Phase.STARTING and info.supervisor == peer.process:
            self.sessions.put(msgspec.structs.replace(info, phase=Phase.STOPPING))

    def _heartbeat(self, body: wire.Heartbeat, now: float) -> list[Effect]:
        self.last_heartbeat, self.heard_heartbeat = body.at, now
        found = [] if self.stopping else self.upgrade.heard(Build(body.installed_version, body.fingerprint), now)
        return [WriteReport(), *found]

    def _hub_status(self, status: wire.HubStatus) -> list[Effect]:
        changed = status.online is not self.hub.online
        self.hub = status
        online = wire.HubOnline(status.online)
        return [Send(p.identity, p.name, online) for p in self.peers.of_role("session")] if changed else []

    def _wrong_role(self, identity: bytes, peer: Peer, header: wire.Header, body: Any) -> list[Effect]:
        self.counters["wrong_role"] += 1
        logger.warning("%s (as %s) may not send %s", peer.name, header.sender, type(body).__name__)
        if not header.request:
            return []
        refusal = HapiError(ErrorCode.BAD_REQUEST, f"{peer.name} may not send {type(body).__name__}.")
        return [Answer(ReplyTo("bus", identity, peer.name, header.request), wire.failure(refusal))]

    def _news(self, info: wire.SessionInfo) -> list[Effect]:
        before = self.sessions.live.get(info.session_id)
        self.sessions.put(info)
        effects: list[Effect] = []
        if info.phase in READY:
            effects += self.spawns.settle(info.session_id, wire.Spawned(info))
        if info.phase is Phase.ENDED:  # its supervisor still has words for the hub: it stays a peer until it is gone
            ended = wire.Failure(ErrorCode.AGENT_FAILED.value, f"The session ended: {info.reason}.", info.detail or "")
            if info.supervisor is not None:
                self.losses.find(info, EndReason.SUPERVISOR_LOST)  # a reaper that comes later watches it, too
            effects += self._tell("reaper", wire.Unwatch(info.session_id))
            effects += self.spawns.settle(info.session_id, ended)
            effects += self.stops.settle(wire.SessionStopped("already_gone", info.session_id))
        elif info.supervisor is not None and (
            before is None or (before.supervisor, before.agent_process) != (info.supervisor, info.agent_process)
        ):
            effects += self._tell("reaper", wire.Watch([watched(info)]))
        return [*effects, *self._settle_waits(info.session_id)]

    def _supervisor_gone(self, body: wire.SupervisorGone, now: float, now_ms: int) -> list[Effect]:
        """A supervisor is dead, and nothing that it left behind is alive."""
        peer = self.peers.named(wire.session_peer(body.session_id))
        if peer is not None and peer.process == body.process:
            self.peers.depart(peer.name)
        found = self.losses.reaped(body)
        self.adoption.died(body.session_id)
        info = self.sessions.live.get(body.session_id) or self.sessions.ended.get(body.session_id)
        if info is None or supervisor_of(info) != body.process:
            return []
        if body.unknown_messages:
            info = msgspec.structs.replace(info, unknown_messages=info.unknown_messages + body.unknown_messages)
            self.sessions.put(info)
        if info.phase is Phase.ENDED:
            told = [*([CloseRecord(info)] if body.unknown_messages else []), *self._tell_end(info)]
            return [*told, *self._take_up(body.session_id)]
        reason = found or EndReason.SUPERVISOR_LOST
        ended = self._end(info, reason, now_ms)
        closed: list[Effect] = [CloseRecord(ended)]
        self.counters["supervisors_lost"] += found is None
        if found is None and info.reason is None:  # nobody asked for it: the machine may be going down
            self.losses.keep_open(ended, now)
            closed = []
        settled = self._settle_ended(body.session_id, reason)
        return [*closed, *self._tell_end(ended), *settled, *self._take_up(body.session_id)]

    def last_word(self, info: wire.SessionInfo) -> list[Effect]:
        """The record that a dead supervisor left: it may have ended its session while no broker was there to hear it."""
        known = self.sessions.live.get(info.session_id)
        if known is None or known.supervisor != info.supervisor:
            return []
        if info.phase is Phase.ENDED:
            return self._news(info)
        if info.reason is not None:  # a stop that it did not live to tell us of
            self.sessions.put(msgspec.structs.replace(known, reason=info.reason))
        return []

    def tick(self, now: float) -> list[Effect]:
        """Whatever is due at `now`: late spawns and stops, the end of the adoption grace, the shutdown's deadline."""
        effects: list[Effect] = []
        for session_id in self.spawns.overdue(now):
            ready = self.sessions.live.get(session_id)
            if ready is not None and ready.phase in READY:
                effects += self.spawns.settle(session_id, wire.Spawned(ready, existing=True))
                continue
            effects += self.never_started(session_id, self.spawns.too_late(session_id))
            effects += self._tell(wire.session_peer(session_id), wire.Refused("it came too late"))
        for session_id in self.stops.overdue(now):
            effects += self._stop_overdue(session_id)
        effects += self.relays.overdue(now)
        effects += [self._waited(key, to) for key, to in self.waits.overdue(now)]
        for session_id in self.adoption.end_grace(now):
            effects += [*self._take_up(session_id), *self._settle_waits(session_id)]
        effects += map(CloseRecord, self.losses.due(now))
        effects += self._start_some(now)
        if self._stop_deadline is not None and now >= self._stop_deadline:
            effects += self._quit()
        return [*effects, *self.upgrade.due(now, busy=self._busy())]

    def _waited(self, session_id: str, to: ReplyTo) -> Effect:
        """The time is up: how the session is, whatever was waited for."""
        info = self.sessions.live.get(session_id) or self.sessions.ended.get(session_id)
        if info is None:  # so many have ended since that it is forgotten
            gone = HapiError(ErrorCode.UNKNOWN_SESSION, f"Session {session_id} is not known any more.")
            return Answer(to, wire.failure(gone))
        return Answer(to, wire.Waited(info, reached=False))

    def _busy(self) -> bool:
        """Whether somebody waits for something that a handoff would break off."""
        waiting = self.spawns.pending or self.stops.pending or self.relays.deadlines()
        return bool(waiting) or self.adoption.deadline() is not None

    def _stop_overdue(self, session_id: str) -> list[Effect]:
        """A stop that nobody reported on. A start that was never heard of is turned away if it ever speaks."""
        spawn = self.spawns.pending.get(session_id)
        if spawn is not None and spawn.stopped:
            return self._stopped_while_starting(session_id)
        info = self.sessions.live.get(session_id)
        survivors = [] if info is None else pids(info)
        return [*self.stops.settle(wire.SessionStopped("still_alive", session_id, survivors=survivors))]

    def next_deadline(self) -> float | None:
        """When `tick` has something to do; None when nothing is due at all."""
        times = [spawn.deadline for spawn in self.spawns.pending.values()]
        times += [stop.deadline for stop in self.stops.pending.values()]
        times += self.relays.deadlines()
        others = (
            self.adoption.deadline(),
            self._stop_deadline,
            self.losses.deadline(),
            self.upgrade.deadline(),
            self.waits.deadline(),
            None if self.stopping else self.spawns.turn(),
        )
        if not self.stopping and self.restarts.due(self.spawns.pending):
            return 0.0
        return min([*times, *(at for at in others if at is not None)], default=None)


def _ended_at(record: Record) -> int:
    return record.info.ended_at or 0 if record.info is not None else 0
