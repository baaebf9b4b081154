"""What the CLI and the hub connector may ask, and how the broker comes to its end. Pure, as `core`."""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from hapi import wire
from hapi.broker.books import Books
from hapi.broker.deferrals import Deferred
from hapi.broker.effects import Answer, CloseRecord, Effect, Ending, ForkSession, Quit, ReplyTo, Send, WriteReport
from hapi.broker.sessions import pids
from hapi.errors import ErrorCode, HapiError
from hapi.handoff import SOURCE as HANDOFF_SOURCE
from hapi.ids import session_id as canonical
from hapi.lifecycle import READY, EndReason, Phase

SHUTDOWN_DEADLINE_S = 3.0
_STOP_REASONS = {"user": EndReason.STOPPED_BY_USER, "hub": EndReason.STOPPED_FROM_HUB}
OS_SIGNAL = "os-signal"  # what the machine's shutdown sends
RESTART_SOURCES = frozenset({"hapi-app", HANDOFF_SOURCE})  # stop, and let the service manager start a new one

logger = logging.getLogger(__name__)


class Requests(Books):
    """Every request has one answer: at once, or when its deadline comes at the latest."""

    def request(self, to: ReplyTo, body: Any, now: float) -> list[Effect]:
        """A request of the CLI or of the hub connector. Errors become answers; nothing is raised."""
        effects: list[Effect]
        try:
            match body:
                case wire.ListSessions():
                    effects = [Answer(to, wire.SessionList(self.sessions.listed(ended=body.ended)))]
                case wire.Spawn():
                    effects = self._spawn(to, body, now)
                case wire.StopSession():
                    effects = self._stop_session(to, body, now)
                case wire.SendText():
                    effects = self._send_text(to, body, now)
                case wire.WaitSession():
                    effects = self._wait_session(to, body, now)
                case wire.StopRunner():
                    effects = self.stop_runner(body.source, now, to)
                case _:
                    raise HapiError(ErrorCode.BAD_REQUEST, f"{type(body).__name__} is not a request.")
        except HapiError as error:
            if error.code is ErrorCode.AT_CAPACITY:
                self.counters["refused_at_capacity"] += 1
            return [Answer(to, wire.failure(error))]
        return effects

    def _take_up(self, session_id: str) -> list[Effect]:
        """The requests that waited for the verdict on a session, or for the end of its former supervisor."""
        kept = self.deferrals.take_up(session_id)
        return [effect for request in kept for effect in self.request(request.to, request.body, request.at)]

    def _defer(self, session_id: str, to: ReplyTo, body: Any, now: float) -> list[Effect]:
        """Keep a request back, for `_take_up`."""
        self.deferrals.keep(session_id, Deferred(to, body, now))
        return []

    def _check(self, order: wire.Spawn) -> None:
        """Raises HapiError for an order that cannot be taken whatever runs."""
        if self.stopping:
            raise HapiError(ErrorCode.SHUTTING_DOWN, "The runner is stopping.", "Start it again: hapi runner start")
        if canonical(order.session_id) != order.session_id:
            raise HapiError(ErrorCode.BAD_REQUEST, "A session id is a uuid in lower case.")
        if len(wire.encode(order)) > wire.MAX_ORDER_BYTES:
            raise HapiError(ErrorCode.TOO_LARGE, "The order is too large; its environment perhaps.")

    def _spawn(self, to: ReplyTo, order: wire.Spawn, now: float) -> list[Effect]:
        self._check(order)
        live = self.sessions.live.get(order.session_id)
        if live is not None and order.existing and self._is_ending(live):
            return self._defer(order.session_id, to, order, now)
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
        if ended is not None and self.losses.awaits_reaping(ended):  # its former supervisor has words for the hub yet
            return self._defer(order.session_id, to, order, now)
        if self.restarts.waits(order.session_id):
            order = msgspec.structs.replace(order, existing=True)
        if not self.spawns.begin(order, to, now, joined=live is not None):
            return []
        return [*map(CloseRecord, self.losses.settle(order.session_id)), *map(ForkSession, self.spawns.admit(now))]

    def _is_ending(self, info: wire.SessionInfo) -> bool:
        """Whether what is left of the session is on its way out, so that it can be continued soon."""
        if self.losses.awaits_reaping(info):
            return True
        return info.phase is Phase.STOPPING and self.peers.named(wire.session_peer(info.session_id)) is not None

    def _stop_session(self, to: ReplyTo, body: wire.StopSession, now: float) -> list[Effect]:
        target = self._whole_id(body.target.lower())
        stopped = wire.Failure(ErrorCode.STOPPED_DURING_START.value, body.why or "The session was stopped.")
        in_vain = [Answer(kept.to, stopped) for kept in self.deferrals.take_back(target)]
        return [*in_vain, *self._stop_target(to, target, body, now)]

    def _whole_id(self, target: str) -> str:
        """The id of the session that is meant; the target itself when none is on record."""
        try:
            return self.sessions.resolve(target).session_id
        except HapiError:
            return target

    def _stop_target(self, to: ReplyTo, target: str, body: wire.StopSession, now: float) -> list[Effect]:
        if target in self.spawns.pending and target not in self.sessions.live:
            return self._stop_starting(to, target, body, now)
        info = self._to_stop(target)
        if info is None or info.phase is Phase.ENDED:
            return [Answer(to, wire.SessionStopped("already_gone", target if info is None else info.session_id))]
        if info.supervisor is None and info.session_id in self.spawns.pending:
            return self._stop_starting(to, info.session_id, body, now)
        if self.restarts.waits(info.session_id):
            return self._stop_interrupted(to, info, body)
        if self.adoption.is_open(info.session_id):
            return self._defer(info.session_id, to, body, now)
        return self._stop_live(to, info, body, now)

    def _stop_live(self, to: ReplyTo, info: wire.SessionInfo, body: wire.StopSession, now: float) -> list[Effect]:
        peer = self.peers.named(wire.session_peer(info.session_id))
        if peer is None and not self.losses.awaits_reaping(info):
            self.counters["stops_unheard"] += 1
            return [Answer(to, wire.SessionStopped("still_alive", info.session_id, survivors=pids(info)))]
        if not self.stops.begin(info.session_id, to, now) or peer is None:
            return []
        return [Send(peer.identity, peer.name, wire.StopSession(info.session_id, body.by, body.why, body.handoff))]

    def _stop_interrupted(self, to: ReplyTo, info: wire.SessionInfo, body: wire.StopSession) -> list[Effect]:
        """A session that went down with the machine and has yet to be started again will not be."""
        self.restarts.drop(info.session_id)
        closed = CloseRecord(self._end(info, _stop_reason(body), self.now_ms, body.why or None))
        answer = Answer(to, wire.SessionStopped("stopped", info.session_id, "before_start"))
        return [closed, answer, *self._settle_waits(info.session_id)]

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
            self.spawns.pending[session_id].stopped = _stop_reason(body)
            return self._stopped_while_starting(session_id) if self.spawns.in_line(session_id) else []
        return (
            [Send(peer.identity, peer.name, wire.StopSession(session_id, body.by, body.why, body.handoff))]
            if begun
            else []
        )

    def _send_text(self, to: ReplyTo, body: wire.SendText, now: float) -> list[Effect]:
        info = self.sessions.resolve(body.target)
        peer = self.peers.named(wire.session_peer(info.session_id))
        if info.phase is Phase.ENDED:
            raise HapiError(ErrorCode.SESSION_ENDED, f"Session {info.session_id} has ended.", "Spawn a new one.")
        if self.adoption.is_open(info.session_id):
            return self._defer(info.session_id, to, body, now)
        if self.losses.awaits_reaping(info):
            raise _being_ended(info.session_id)
        if peer is None:
            raise HapiError(ErrorCode.TIMEOUT, "The session's supervisor does not answer at the moment.", "Try again.")
        return [self.relays.begin(to, peer, body, now)]

    def _wait_session(self, to: ReplyTo, body: wire.WaitSession, now: float) -> list[Effect]:
        """Answered at once if it is so already, but not from a record of which it is not clear yet whether it holds."""
        info = self.sessions.resolve(body.target)
        self.waits.begin(info.session_id, to, body, now)
        return self._settle_waits(info.session_id)

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
        asked = [key for key, spawn in self.spawns.pending.items() if spawn.waiters]  # nobody gave up a restart
        peers = [self.peers.named(wire.session_peer(key)) for key in asked]
        refused = [Send(peer.identity, peer.name, wire.Refused("the runner stops")) for peer in peers if peer]
        starting = [answer for key in list(self.spawns.pending) for answer in self.spawns.settle(key, stopped)]
        deferred = [Answer(kept.to, stopped) for kept in self.deferrals.give_up()]
        lost = [] if self._shutdown else self.losses.settle_all()
        rest: list[Effect] = [
            *map(CloseRecord, lost),
            *refused,
            *starting,
            *deferred,
            *self.stops.end_all(stopped),
            *self.relays.end_all(stopped),
            *self.waits.end_all(stopped),
        ]
        return [*answers, *rest, Quit(self._ending)]


def _stop_reason(body: wire.StopSession) -> EndReason:
    if body.why:
        return EndReason.SPAWN_FAILED
    return EndReason.HANDED_OVER if body.handoff else _STOP_REASONS[body.by]


def _being_ended(session_id: str) -> HapiError:
    message = f"Session {session_id} lost its supervisor; what it left behind is being ended."
    return HapiError(ErrorCode.SESSION_ENDED, message, "Spawn a new one.")


def _is_id(text: str) -> bool:
    try:
        return canonical(text) == text
    except HapiError:
        return False
