"""The broker's decisions. Pure: messages and times in, effects out; no socket, no clock, no file.

Forwarding between peers does not come here; `app` does it from the routing table alone.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import msgspec

from hapi import wire
from hapi.broker.adoption import Adoption
from hapi.broker.effects import Answer, CloseRecord, Effect, Ending, ForkSession, Quit, ReplyTo, Send, WriteReport
from hapi.broker.peers import Peer, Peers, about_itself, may_tell_broker, role
from hapi.broker.reattach import Record, Verdict
from hapi.broker.relays import Relays
from hapi.broker.sessions import Sessions
from hapi.broker.spawns import Spawns, Stops
from hapi.broker.upgrade import Upgrade
from hapi.errors import ErrorCode, HapiError
from hapi.handoff import SOURCE as HANDOFF_SOURCE
from hapi.handoff import Build
from hapi.ids import session_id as canonical
from hapi.lifecycle import READY, EndReason, Phase

SHUTDOWN_DEADLINE_S = 3.0
RESTART_SOURCES = frozenset({"hapi-app", HANDOFF_SOURCE})  # stop, and let the service manager start a new one

logger = logging.getLogger(__name__)


class CoreSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What the core must know of the configuration. `instance` names this broker process for its peers."""

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


class Core:
    """The broker's memory and its rules. Every method that decides returns the effects to carry out, in order."""

    def __init__(self, settings: CoreSettings) -> None:
        self.settings = settings
        self.peers = Peers()
        self.sessions = Sessions()
        self.spawns = Spawns(settings.ready_timeout_s)
        self.stops = Stops()
        self.counters: Counter[str] = Counter()
        self.adoption = Adoption()
        self.hub = wire.HubStatus()
        self.last_heartbeat: int | None = None
        running = Build(settings.version, settings.fingerprint)
        self.upgrade = Upgrade(running, disabled=settings.handoff_disabled, retry_s=settings.handoff_window_s)
        self._to_reap: dict[str, wire.Watched] = {}
        self._untold: list[wire.SessionInfo] = []
        self._stop_waiters: list[ReplyTo] = []
        self._stop_deadline: float | None = None
        self._ending = Ending.STOP
        self._has_quit = False
        self.relays = Relays()

    @property
    def stopping(self) -> bool:
        """The runner is on its way out and takes no new spawns."""
        return self._stop_deadline is not None

    # -------------------------------------------------------------------------------------------- start-up

    def adopt(self, records: list[Record], now: float, now_ms: int) -> list[Effect]:
        """Take over the records found on disk. Live ones wait for their supervisors' hello."""
        self.adoption.begin(now)
        effects: list[Effect] = []
        for record in sorted(records, key=_ended_at):
            if record.info is not None:
                self.sessions.put(record.info)
            if record.info is None or record.info.phase is not Phase.ENDED:
                decided = self.adoption.add(record.session_id, record.facts)
                effects += self._end_unheard(record, now_ms) if decided is Verdict.ENDED else []
        return effects

    def _end_unheard(self, record: Record, now_ms: int) -> list[Effect]:
        """A session whose supervisor was dead before we came."""
        if not record.facts.same_boot:
            return self._lose(record.session_id, EndReason.MACHINE_REBOOTED, now_ms)
        for item in _watched(self.sessions.live[record.session_id]):
            self._to_reap[record.session_id] = item  # its agent may live on: the reaper looks as soon as it is there
        return self._lose(record.session_id, EndReason.SUPERVISOR_LOST, now_ms)

    def _take_up(self, session_id: str) -> list[Effect]:
        """The requests that waited for the verdict on a session."""
        kept = self.adoption.take_up(session_id)
        return [effect for request in kept for effect in self.request(request.to, request.body, request.at)]

    def _lose(self, session_id: str, reason: EndReason, now_ms: int) -> list[Effect]:
        """End a session whose supervisor is proven dead."""
        info = self.sessions.live.get(session_id)
        self.peers.remove(wire.session_peer(session_id))
        if info is None:
            return []
        info = msgspec.structs.replace(info, phase=Phase.ENDED, reason=reason, ended_at=now_ms)
        self.sessions.put(info)
        failed = wire.Failure(ErrorCode.AGENT_FAILED.value, f"The session ended: {reason}.")
        gone = wire.SessionStopped("already_gone", session_id)
        if self.peers.named(wire.HUB) is None:
            self._untold.append(info)  # the next connector tells the hub
        return [
            CloseRecord(info),
            *self._tell("hub", wire.SessionLost(info)),
            *self.spawns.settle(session_id, failed),
            *self.stops.settle(gone),
        ]

    # -------------------------------------------------------------------------------------------- requests

    def request(self, to: ReplyTo, body: Any, now: float) -> list[Effect]:
        """A request of the CLI or of the hub connector. Errors become answers; nothing is raised."""
        try:
            match body:
                case wire.ListSessions():
                    return [Answer(to, wire.SessionList(self.sessions.listed(ended=body.ended)))]
                case wire.Spawn():
                    return self._spawn(to, body, now)
                case wire.StopSession():
                    return self._stop_session(to, body, now)
                case wire.SendText():
                    return self._send_text(to, body, now)
                case wire.StopRunner():
                    return self.stop_runner(body.source, now, to)
                case _:
                    raise HapiError(ErrorCode.BAD_REQUEST, f"{type(body).__name__} is not a request.")
        except HapiError as error:
            return [Answer(to, wire.failure(error))]

    def _spawn(self, to: ReplyTo, order: wire.Spawn, now: float) -> list[Effect]:
        if self.stopping:
            raise HapiError(ErrorCode.SHUTTING_DOWN, "The runner is stopping.", "Start it again: hapi runner start")
        if canonical(order.session_id) != order.session_id:
            raise HapiError(ErrorCode.BAD_REQUEST, "A session id is a uuid in lower case.")
        if len(wire.encode(order)) > wire.MAX_ORDER_BYTES:
            raise HapiError(ErrorCode.TOO_LARGE, "The order is too large; its environment perhaps.")
        live = self.sessions.live.get(order.session_id)
        if live is not None and order.session_id not in self.spawns.pending:
            return [Answer(to, wire.Spawned(live, existing=True))]
        if order.session_id in self.sessions.ended and not order.existing:
            raise HapiError(ErrorCode.SESSION_ENDED, f"Session {order.session_id} has ended.", "Use another id.")
        if not self.spawns.begin(order, to, now):
            return []
        return [ForkSession(order.session_id)]

    def _stop_session(self, to: ReplyTo, body: wire.StopSession, now: float) -> list[Effect]:
        target = body.target.lower()
        if target in self.spawns.pending and target not in self.sessions.live:
            return self._stop_starting(to, target, body, now)
        info = self.sessions.resolve(body.target)
        if info.phase is Phase.ENDED:
            return [Answer(to, wire.SessionStopped("already_gone", info.session_id))]
        if self.adoption.defer(info.session_id, to, body, now):
            return []
        peer = self.peers.named(wire.session_peer(info.session_id))
        if peer is None:
            self.counters["stops_unheard"] += 1
            return [Answer(to, wire.SessionStopped("still_alive", info.session_id, survivors=_pids(info)))]
        if not self.stops.begin(info.session_id, to, now):
            return []
        return [Send(peer.identity, peer.name, wire.StopSession(info.session_id, body.by))]

    def _stop_starting(self, to: ReplyTo, session_id: str, body: wire.StopSession, now: float) -> list[Effect]:
        """A stop that arrives while the session is starting wins over the start."""
        begun = self.stops.begin(session_id, to, now)
        peer = self.peers.named(wire.session_peer(session_id))
        if peer is None:
            self.spawns.pending[session_id].stopped = True  # its supervisor is turned away when it says hello
            return []
        return [Send(peer.identity, peer.name, wire.StopSession(session_id, body.by))] if begun else []

    def _send_text(self, to: ReplyTo, body: wire.SendText, now: float) -> list[Effect]:
        info = self.sessions.resolve(body.target)
        peer = self.peers.named(wire.session_peer(info.session_id))
        if info.phase is Phase.ENDED:
            raise HapiError(ErrorCode.SESSION_ENDED, f"Session {info.session_id} has ended.", "Spawn a new one.")
        if self.adoption.defer(info.session_id, to, body, now):
            return []
        if peer is None:
            raise HapiError(ErrorCode.TIMEOUT, "The session's supervisor does not answer at the moment.", "Try again.")
        return [self.relays.begin(to, peer, body, now)]

    def stop_runner(self, source: str, now: float, to: ReplyTo | None = None) -> list[Effect]:
        """Say goodbye to the hub, then quit; at most SHUTDOWN_DEADLINE_S. Sessions live on. May be asked again."""
        if to is not None:
            self._stop_waiters.append(to)
        return self._stop(source, Ending.RESTART if source in RESTART_SOURCES else Ending.STOP, now)

    def hand_over(self, now: float) -> list[Effect]:
        """As `stop_runner`, for the installed code to take over; a stop that somebody asks for meanwhile wins."""
        return [] if self.stopping else self._stop(HANDOFF_SOURCE, Ending.REPLACE, now)

    def _stop(self, source: str, ending: Ending, now: float) -> list[Effect]:
        under_way = self.stopping
        if not under_way or self._ending is Ending.REPLACE:
            logger.info("stopping on behalf of %s", source)
            self._ending = ending
        if under_way:
            return self._quit() if self._has_quit else []
        self._stop_deadline = now + SHUTDOWN_DEADLINE_S
        hub = self.peers.named(wire.HUB)
        if hub is None:
            return self._quit()
        return [WriteReport(), Send(hub.identity, hub.name, wire.Shutdown(source), request=1)]

    def _quit(self) -> list[Effect]:
        self._has_quit = True
        body = wire.RunnerStopping(len(self.sessions.live))
        answers = [Answer(waiter, body) for waiter in self._stop_waiters]
        self._stop_waiters = []
        stopped = wire.Failure(
            ErrorCode.SHUTTING_DOWN.value, "The runner stopped.", "Start it again: hapi runner start"
        )
        peers = [self.peers.named(wire.session_peer(key)) for key in self.spawns.pending]
        refused = [Send(peer.identity, peer.name, wire.Refused("the runner stops")) for peer in peers if peer]
        starting = [answer for key in list(self.spawns.pending) for answer in self.spawns.settle(key, stopped)]
        deferred = [Answer(kept.to, stopped) for kept in self.adoption.give_up()]
        rest: list[Effect] = [
            *refused,
            *starting,
            *deferred,
            *self.stops.end_all(stopped),
            *self.relays.end_all(stopped),
        ]
        return [*answers, *rest, Quit(self._ending)]

    # -------------------------------------------------------------------------------------------- peers

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
        self.peers.add(peer)
        effects: list[Effect] = [Send(identity, body.name, self._welcome(peer))]
        if body.name == wire.REAPER:
            effects.append(Send(identity, body.name, wire.Watch(self._watched())))
        else:
            effects += [Send(p.identity, p.name, wire.PeerUp(wire.HUB)) for p in self.peers.of_role("session")]
            effects += [Send(identity, body.name, wire.SessionLost(info)) for info in self._untold]
            self._untold.clear()
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
            effects: list[Effect] = [Send(peer.identity, peer.name, wire.Refused(refusal))]
            return effects + self._stopped_while_starting(session_id)
        self.peers.add(peer)
        order = spawn.order if spawn is not None and body.info is None else None
        effects = [Send(peer.identity, peer.name, self._welcome(peer, order))]
        if self.adoption.heard(session_id):
            effects += self._take_up(session_id)
        if body.info is not None:
            effects += self._news(body.info)
        return effects

    def _refusal(self, session_id: str, peer: Peer, body: wire.Hello) -> str | None:
        """Why a supervisor is not wanted; None when it is."""
        spawn = self.spawns.pending.get(session_id)
        if spawn is not None and spawn.stopped:
            return "the session was stopped while it was starting"
        if body.info is None and spawn is None:
            return "nobody asked for this session, or the one who did has given up"
        known = self.peers.named(peer.name)
        if known is not None and known.process != peer.process and known.generation >= peer.generation:
            return "the session has a supervisor"
        return None

    def _stopped_while_starting(self, session_id: str) -> list[Effect]:
        spawn = self.spawns.pending.get(session_id)
        if spawn is None or not spawn.stopped:
            return []
        failed = wire.Failure(ErrorCode.STOPPED_DURING_START.value, "The session was stopped while it was starting.")
        stopped = wire.SessionStopped("stopped", session_id, "before_start")
        return [*self.spawns.settle(session_id, failed), *self.stops.settle(stopped)]

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
        )

    def child_ended(self, session_id: str, pid: int, code: int) -> list[Effect]:
        """A supervisor's process ended; one that never said hello cannot say why."""
        peer = self.peers.named(wire.session_peer(session_id))
        if peer is not None and peer.process.pid == pid:
            self.peers.remove(peer.name)
        if session_id in self.sessions.live:
            return []  # the reaper cleans up and reports
        hint = "nursery.log has the reason: hapi runner logs --worker nursery"
        failed = wire.Failure(ErrorCode.INTERNAL.value, f"The supervisor ended before it was ready ({code}).", hint)
        return self.never_started(session_id, failed)

    def never_started(self, session_id: str, failed: wire.Failure) -> list[Effect]:
        """A spawn came to nothing; a stop that waited for it has nothing left to stop."""
        spawn = self.spawns.pending.get(session_id)
        gone = wire.SessionStopped("stopped", session_id, "before_start")
        stopped = self.stops.settle(gone) if spawn is not None and spawn.stopped else []
        return [*self.spawns.settle(session_id, failed), *stopped]

    def nursery_lost(self) -> list[Effect]:
        """The nursery died: forks that were on order may never come; late ones will be turned away."""
        waiting = [key for key in self.spawns.pending if key not in self.sessions.live]
        failed = wire.Failure(
            ErrorCode.INTERNAL.value, "The nursery died while the session was starting.", "Try again."
        )
        return [answer for key in waiting for answer in self.never_started(key, failed)]

    def warnings(self) -> list[str]:
        """What a person should know, for `hapi runner status`."""
        return self.upgrade.warnings()

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
        return self._take_news(peer, body, now_ms)

    def _take_news(self, peer: Peer, body: Any, now_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        match body:
            case wire.SessionChanged():
                effects = self._news(body.info)
            case wire.SpawnFailed():
                effects += self.spawns.settle(body.session_id, body.failure)
            case wire.SessionStopped():
                effects += self.stops.settle(body)
            case wire.SupervisorGone():
                effects = self._supervisor_gone(body, now_ms)
            case wire.HubStatus():
                effects = self._hub_status(body)
            case wire.Accepted() if peer.name == wire.HUB and self.stopping:
                effects = self._quit()
        return effects

    def _heartbeat(self, body: wire.Heartbeat, now: float) -> list[Effect]:
        self.last_heartbeat = body.at
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
            effects += self._tell("reaper", wire.Unwatch(info.session_id))
            effects += self.spawns.settle(info.session_id, ended)
            effects += self.stops.settle(wire.SessionStopped("already_gone", info.session_id))
        elif before is None or (before.supervisor, before.agent_process) != (info.supervisor, info.agent_process):
            effects += self._tell("reaper", wire.Watch(_watched(info)))
        return effects

    def _supervisor_gone(self, body: wire.SupervisorGone, now_ms: int) -> list[Effect]:
        self._to_reap.pop(body.session_id, None)
        peer = self.peers.named(wire.session_peer(body.session_id))
        if peer is not None and peer.process == body.process:
            self.peers.remove(peer.name)
        info = self.sessions.live.get(body.session_id)
        if info is None or info.supervisor != body.process:
            return []
        self.counters["supervisors_lost"] += 1
        return self._lose(body.session_id, EndReason.SUPERVISOR_LOST, now_ms)

    def _watched(self) -> list[wire.Watched]:
        live = [item for info in self.sessions.live.values() for item in _watched(info)]
        return [*live, *self._to_reap.values()]

    def _tell(self, name: str, body: Any) -> list[Effect]:
        peer = self.peers.named(name)
        return [] if peer is None else [Send(peer.identity, name, body)]

    # -------------------------------------------------------------------------------------------- time

    def tick(self, now: float) -> list[Effect]:
        """Whatever is due at `now`: late spawns and stops, the end of the adoption grace, the shutdown's deadline."""
        effects: list[Effect] = []
        for session_id in self.spawns.overdue(now):
            late = wire.Failure(ErrorCode.AGENT_TIMEOUT.value, "The session did not become ready in time.")
            effects += self.never_started(session_id, late)
            effects += self._tell(wire.session_peer(session_id), wire.Refused("it came too late"))
        for session_id in self.stops.overdue(now):
            info = self.sessions.live.get(session_id)
            survivors = [] if info is None else _pids(info)
            effects += self.stops.settle(wire.SessionStopped("still_alive", session_id, survivors=survivors))
        effects += self.relays.overdue(now)
        for session_id in self.adoption.end_grace(now):
            effects += self._take_up(session_id)
        if self._stop_deadline is not None and now >= self._stop_deadline:
            effects += self._quit()
        return [*effects, *self.upgrade.due(now, busy=self._busy())]

    def _busy(self) -> bool:
        """Whether somebody waits for something that a handoff would break off."""
        waiting = self.spawns.pending or self.stops.pending or self.relays.deadlines()
        return bool(waiting) or self.adoption.deadline() is not None

    def next_deadline(self) -> float | None:
        """When `tick` has something to do; None when nothing is due at all."""
        times = [spawn.deadline for spawn in self.spawns.pending.values()]
        times += [stop.deadline for stop in self.stops.pending.values()]
        times += self.relays.deadlines()
        others = (self.adoption.deadline(), self._stop_deadline, self.upgrade.deadline())
        return min([*times, *(at for at in others if at is not None)], default=None)


def _watched(info: wire.SessionInfo) -> list[wire.Watched]:
    if info.supervisor is None:
        return []
    return [wire.Watched(session_id=info.session_id, supervisor=info.supervisor, agent=info.agent_process)]


def _ended_at(record: Record) -> int:
    return record.info.ended_at or 0 if record.info is not None else 0


def _pids(info: wire.SessionInfo) -> list[int]:
    return [process.pid for process in (info.supervisor, info.agent_process) if process is not None]
