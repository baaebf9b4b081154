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
from hapi.broker.losses import UNTOLD_MS, Losses, supervisor_of, watched
from hapi.broker.peers import Peer, Peers, about_itself, may_tell_broker, role
from hapi.broker.reattach import Record, Verdict
from hapi.broker.relays import Relays
from hapi.broker.restarts import Restarts
from hapi.broker.sessions import Sessions
from hapi.broker.spawns import Spawns, Stops
from hapi.broker.upgrade import Upgrade
from hapi.errors import ErrorCode, HapiError
from hapi.handoff import SOURCE as HANDOFF_SOURCE
from hapi.handoff import Build
from hapi.ids import session_id as canonical
from hapi.lifecycle import READY, EndReason, Phase

SHUTDOWN_DEADLINE_S = 3.0
STOP_REASONS = {"user": EndReason.STOPPED_BY_USER, "hub": EndReason.STOPPED_FROM_HUB}
OS_SIGNAL = "os-signal"  # what the machine's shutdown sends
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
            effects += self._adopt_one(record, now_ms)
        return effects

    def _adopt_one(self, record: Record, now_ms: int) -> list[Effect]:
        """Give a record its verdict. One whose supervisor is dead is ended when the reaper has proven its tree gone:
        until then the session is listed, and its record open for the next broker, should this one die.
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
        self.sessions.put(info)
        if decided is Verdict.ENDED:
            self.losses.find(info, EndReason.SUPERVISOR_LOST if record.facts.same_boot else EndReason.MACHINE_REBOOTED)
        return []

    def _restart_some(self, now: float) -> list[Effect]:
        """Start again what went down with the machine, a few at a time."""
        effects: list[Effect] = []
        while not self.stopping and (order := self.restarts.take(self.spawns.pending)) is not None:
            self.spawns.begin(order, None, now)
            effects.append(ForkSession(order.session_id))
        return effects

    def _take_up(self, session_id: str) -> list[Effect]:
        """The requests that waited for the verdict on a session."""
        kept = self.adoption.take_up(session_id)
        return [effect for request in kept for effect in self.request(request.to, request.body, request.at)]

    def _end(
        self, info: wire.SessionInfo, reason: EndReason, now_ms: int, detail: str | None = None
    ) -> wire.SessionInfo:
        """End a session whose supervisor cannot: in our books only. A stop that it did not live to see the end of counts."""
        self.peers.remove(wire.session_peer(info.session_id))
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
        if live is not None and self.losses.awaits_reaping(live):
            raise _being_ended(order.session_id)
        pending = order.session_id in self.spawns.pending
        if live is not None and live.phase in READY and not pending:
            return [Answer(to, wire.Spawned(live, existing=True))]
        if live is not None and live.phase is Phase.STOPPING:
            raise HapiError(ErrorCode.SESSION_ENDED, f"Session {order.session_id} is being stopped.", "Use another id.")
        ended = self.sessions.ended.get(order.session_id)
        if ended is not None and not order.existing:
            message = f"Session {order.session_id} has ended: {ended.reason}."
            raise HapiError(ErrorCode.SESSION_ENDED, message, f"{ended.detail or ''}\nUse another id.".strip())
        if self.restarts.waits(order.session_id):
            order = msgspec.structs.replace(order, existing=True)
        if not self.spawns.begin(order, to, now, joined=live is not None):
            return []
        return [*map(CloseRecord, self.losses.settle(order.session_id)), ForkSession(order.session_id)]

    def _stop_session(self, to: ReplyTo, body: wire.StopSession, now: float) -> list[Effect]:
        target = body.target.lower()
        if target in self.spawns.pending and target not in self.sessions.live:
            return self._stop_starting(to, target, body, now)
        info = self._to_stop(target)
        if info is None or info.phase is Phase.ENDED:
            return [Answer(to, wire.SessionStopped("already_gone", target if info is None else info.session_id))]
        if info.supervisor is None and info.session_id in self.spawns.pending:
            return self._stop_starting(to, info.session_id, body, now)
        if self.restarts.waits(info.session_id):
            return self._stop_interrupted(to, info, body)
        return [] if self.adoption.defer(info.session_id, to, body, now) else self._stop_live(to, info, body, now)

    def _stop_live(self, to: ReplyTo, info: wire.SessionInfo, body: wire.StopSession, now: float) -> list[Effect]:
        peer = self.peers.named(wire.session_peer(info.session_id))
        if peer is None and not self.losses.awaits_reaping(info):
            self.counters["stops_unheard"] += 1
            return [Answer(to, wire.SessionStopped("still_alive", info.session_id, survivors=_pids(info)))]
        if not self.stops.begin(info.session_id, to, now) or peer is None:
            return []
        return [Send(peer.identity, peer.name, wire.StopSession(info.session_id, body.by))]

    def _stop_interrupted(self, to: ReplyTo, info: wire.SessionInfo, body: wire.StopSession) -> list[Effect]:
        """A session that went down with the machine and has yet to be started again will not be."""
        self.restarts.drop(info.session_id)
        closed = CloseRecord(self._end(info, STOP_REASONS[body.by], self.now_ms))
        return [closed, Answer(to, wire.SessionStopped("stopped", info.session_id, "before_start"))]

    def _to_stop(self, target: str) -> wire.SessionInfo | None:
        """The session that is meant; None for a whole id of which nothing is known (any more): it runs nowhere here.

        Raises HapiError(unknown_session or ambiguous_session) for a part of one.
        """
        try:
            return self.sessions.resolve(target)
        except HapiError as error:
            if error.code is ErrorCode.UNKNOWN_SESSION and _is_id(target):
                return None
            raise

    def _stop_starting(self, to: ReplyTo, session_id: str, body: wire.StopSession, now: float) -> list[Effect]:
        """A stop that arrives while the session is starting wins over the start."""
        begun = self.stops.begin(session_id, to, now)
        peer = self.peers.named(wire.session_peer(session_id))
        if peer is None:  # its supervisor is turned away when it says hello
            self.spawns.pending[session_id].stopped = STOP_REASONS[body.by]
            return []
        return [Send(peer.identity, peer.name, wire.StopSession(session_id, body.by))] if begun else []

    def _send_text(self, to: ReplyTo, body: wire.SendText, now: float) -> list[Effect]:
        info = self.sessions.resolve(body.target)
        peer = self.peers.named(wire.session_peer(info.session_id))
        if info.phase is Phase.ENDED:
            raise HapiError(ErrorCode.SESSION_ENDED, f"Session {info.session_id} has ended.", "Spawn a new one.")
        if self.adoption.defer(info.session_id, to, body, now):
            return []
        if self.losses.awaits_reaping(info):
            raise _being_ended(info.session_id)
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
        self._shutdown = self._shutdown or source == OS_SIGNAL
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
        lost = [] if self._shutdown else self.losses.settle_all()
        rest: list[Effect] = [
            *map(CloseRecord, lost),
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

    def _stopped_while_starting(self, session_id: str) -> list[Effect]:
        spawn = self.spawns.pending.get(session_id)
        if spawn is None or spawn.stopped is None:
            return []
        failed = wire.Failure(ErrorCode.STOPPED_DURING_START.value, "The session was stopped while it was starting.")
        return self.never_started(session_id, failed)

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
        info = self.sessions.live.get(session_id)
        if info is not None and info.supervisor is not None:
            return []  # the reaper cleans up and reports
        if peer is not None and peer.process.pid != pid:
            return []  # one too many; the other one goes on
        if peer is not None:
            self.peers.remove(peer.name)
        hint = "nursery.log has the reason: hapi runner logs --worker nursery"
        failed = wire.Failure(ErrorCode.INTERNAL.value, f"The supervisor ended before it was ready ({code}).", hint)
        return self.never_started(session_id, failed)

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
            effects = [CloseRecord(ended), *self._tell_end(ended)]
        gone = wire.SessionStopped("stopped", session_id, "before_start")
        stopped = self.stops.settle(gone) if spawn is not None and spawn.stopped is not None else []
        return [*effects, *self.spawns.settle(session_id, failed), *stopped]

    def nursery_lost(self) -> list[Effect]:
        """The nursery died: forks that were on order may never come; late ones will be turned away.

        A supervisor that said hello has its order and goes on: its spawn is still waited for.
        """
        waiting = [key for key in self.spawns.pending if self.peers.named(wire.session_peer(key)) is None]
        live = self.sessions.live
        waiting = [key for key in waiting if key not in live or live[key].supervisor is None]
        failed = wire.Failure(
            ErrorCode.INTERNAL.value, "The nursery died while the session was starting.", "Try again."
        )
        return [answer for key in waiting for answer in self.never_started(key, failed)]

    def warnings(self) -> list[str]:
        """What a person should know, for `hapi runner status`."""
        said = self.upgrade.warnings()
        aside = sorted(self.adoption.quarantined)
        if aside:
            names = ", ".join(name[:13] for name in aside[:5])
            said.append(f"{len(aside)} session records are put aside, silent or not understood: {names}; see the log")
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
        return effects

    def _supervisor_gone(self, body: wire.SupervisorGone, now: float, now_ms: int) -> list[Effect]:
        """A supervisor is dead, and nothing that it left behind is alive."""
        peer = self.peers.named(wire.session_peer(body.session_id))
        if peer is not None and peer.process == body.process:
            self.peers.remove(peer.name)
        found = self.losses.reaped(body)
        self.adoption.died(body.session_id)
        info = self.sessions.live.get(body.session_id) or self.sessions.ended.get(body.session_id)
        if info is None or supervisor_of(info) != body.process:
            return []
        if body.unknown_messages:
            info = msgspec.structs.replace(info, unknown_messages=info.unknown_messages + body.unknown_messages)
            self.sessions.put(info)
        if info.phase is Phase.ENDED:
            return self._tell_end(info)
        reason = found or EndReason.SUPERVISOR_LOST
        ended = self._end(info, reason, now_ms)
        closed: list[Effect] = [CloseRecord(ended)]
        self.counters["supervisors_lost"] += found is None
        if found is None and info.reason is None:  # nobody asked for it: the machine may be going down
            self.losses.keep_open(ended, now)
            closed = []
        settled = self._settle_ended(body.session_id, reason)
        return [*closed, *self._tell_end(ended), *settled, *self._take_up(body.session_id)]

    def _tell_end(self, info: wire.SessionInfo) -> list[Effect]:
        """Let the hub know of an end that no supervisor can tell it any more; now, and whenever it comes back."""
        if not self.losses.tell(info):
            return []
        return self._tell(wire.HUB, wire.SessionLost(info))

    def last_word(self, info: wire.SessionInfo) -> list[Effect]:
        """The record that a dead supervisor left: it may have ended its session while no broker was there to hear it."""
        known = self.sessions.live.get(info.session_id)
        if info.phase is not Phase.ENDED or known is None or known.supervisor != info.supervisor:
            return []
        return self._news(info)

    def _watched(self) -> list[wire.Watched]:
        live = self.sessions.live.values()
        known = [watched(i) for i in live if i.supervisor and not self.losses.awaits_reaping(i)]
        return [*known, *self.losses.to_reap()]

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
            effects += self._stop_overdue(session_id)
        effects += self.relays.overdue(now)
        for session_id in self.adoption.end_grace(now):
            effects += self._take_up(session_id)
        effects += map(CloseRecord, self.losses.due(now))
        effects += self._restart_some(now)
        if self._stop_deadline is not None and now >= self._stop_deadline:
            effects += self._quit()
        return [*effects, *self.upgrade.due(now, busy=self._busy())]

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
        survivors = [] if info is None else _pids(info)
        return [*self.stops.settle(wire.SessionStopped("still_alive", session_id, survivors=survivors))]

    def next_deadline(self) -> float | None:
        """When `tick` has something to do; None when nothing is due at all."""
        times = [spawn.deadline for spawn in self.spawns.pending.values()]
        times += [stop.deadline for stop in self.stops.pending.values()]
        times += self.relays.deadlines()
        others = (self.adoption.deadline(), self._stop_deadline, self.losses.deadline(), self.upgrade.deadline())
        if not self.stopping and self.restarts.due(self.spawns.pending):
            return 0.0
        return min([*times, *(at for at in others if at is not None)], default=None)


def _being_ended(session_id: str) -> HapiError:
    message = f"Session {session_id} lost its supervisor; what it left behind is being ended."
    return HapiError(ErrorCode.SESSION_ENDED, message, "Spawn a new one.")


def _is_id(text: str) -> bool:
    try:
        return canonical(text) == text
    except HapiError:
        return False


def _ended_at(record: Record) -> int:
    return record.info.ended_at or 0 if record.info is not None else 0


def _pids(info: wire.SessionInfo) -> list[int]:
    return [process.pid for process in (info.supervisor, info.agent_process) if process is not None]
