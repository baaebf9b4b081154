"""The broker's loop: sockets, processes, signals and timers in, `core`'s effects out. One thread, never blocking."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
import setproctitle
import zmq

import hapi
from hapi import clock, wire
from hapi.broker import report
from hapi.broker.books import CoreSettings
from hapi.broker.core import Core
from hapi.broker.effects import (
    Answer,
    CheckInstalled,
    CloseRecord,
    Effect,
    Ending,
    ForkSession,
    HandOver,
    Quit,
    ReplyTo,
    Send,
    WriteReport,
)
from hapi.broker.nursery import Headstart
from hapi.broker.peers import may_route
from hapi.broker.reattach import scan, troubles
from hapi.broker.requests import OS_SIGNAL
from hapi.broker.signals import QUIT_SIGNALS, Signals
from hapi.broker.takeover import Takeover
from hapi.broker.transport import Message, Transport
from hapi.broker.workforce import Workforce
from hapi.config import Config
from hapi.crashpoints import crash_point
from hapi.errors import ErrorCode, HapiError
from hapi.files import FileLock
from hapi.installed import PACKAGE
from hapi.store import SessionDirectory

BATCH = 256
_LAST_WORDS_MS = 20
LONGEST_POLL_S = 5.0
STARTS_PER_CORE = 8  # enough to keep it busy; a slow agent of a second each is ready in time nevertheless
_Got = TypeVar("_Got")

logger = logging.getLogger(__name__)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker was started with: the roots and the umask for sessions, the digest of the code it runs."""

    workspace_roots: list[str]
    umask: int = 0o022
    fingerprint: str = ""


class App:
    """One broker. `run` serves until it is told to stop, and says what comes next."""

    _due = 0.0  # when there is something to do although nobody says anything
    _decided = True  # something may have changed `_due` since it was computed

    def __init__(self, config: Config, lock: FileLock, start: Start, headstart: Headstart | None = None) -> None:
        """`lock` is held, and kept. `headstart`: a nursery that is on its way."""
        self.config = config
        self._lock = lock
        self.paths = config.paths
        self.warnings: list[str] = []
        self.started_at = clock.now_ms()
        settings = CoreSettings(
            instance=uuid.uuid4().hex,
            version=hapi.__version__,
            ready_timeout_s=config.ready_timeout_ms / 1000,
            workspace_roots=start.workspace_roots,
            pid=os.getpid(),
            started_at=self.started_at,
            umask=start.umask,
            fingerprint=start.fingerprint,
            handoff_disabled=config.handoff_disabled,
            handoff_window_s=config.handoff_window_ms / 1000,
            starts_at_once=STARTS_PER_CORE * (os.cpu_count() or 1),
        )
        self.core = Core(settings)
        self.transport = Transport(self.paths.control_endpoint, self.paths.bus_endpoint, self.core.counters)
        self._poller = zmq.Poller()
        self.workforce = Workforce(
            self.core, self.paths, self._poller, self._carry_out, lambda: self._write_report("running")
        )
        if headstart is not None:
            self.workforce.start_with(headstart)
        self._signals = Signals()
        self._takeover = Takeover(config, self.core)
        self._ending: Ending | None = None

    def run(self) -> Ending:
        """Serve. The workers end with the broker; sessions live on. A handoff of a supervised runner is a restart."""
        for source in (self.transport.control, self.transport.bus, self._signals.fd):
            self._poller.register(source, zmq.POLLIN)
        now = clock.monotonic()
        records = scan(self.paths.sessions, self.paths.namespace)
        self.warnings += troubles(records)
        self._carry_out(self.core.adopt(records, now, clock.now_ms()))
        crash_point("broker.adopt.scanned")
        self.workforce.start_due(now)
        self._write_report("running")
        while self._ending is None:
            ready = dict(self._poller.poll(self._poll_ms()))
            self._serve(ready)
        self.transport.leave()
        while self.transport.control.poll(_LAST_WORDS_MS):  # whoever asked while we were leaving gets an answer
            self._serve_control()
        self._wind_up()
        return self._ending

    # ------------------------------------------------------------------------------------------------- the loop

    def _serve(self, ready: dict[Any, int]) -> None:
        """One round. One that only forwards skips all that cannot have changed: it is what bulk traffic consists of."""
        self.core.now_ms = clock.now_ms()
        if self.transport.control in ready:
            self._serve_control()
        if self.transport.bus in ready:
            self._serve_bus()
            if len(ready) == 1 and not self._decided and clock.monotonic() < self._due:
                return
        self._serve_rest(ready)

    def _serve_rest(self, ready: dict[Any, int]) -> None:
        self.workforce.serve(ready)
        if self._signals.fd in ready:
            self._serve_signals()
        now = clock.monotonic()
        self._takeover.look(now)
        deadline = self.core.next_deadline()
        if deadline is not None and now >= deadline:
            self._carry_out(self.core.tick(now))
        self.workforce.start_due(now)
        self._decided = True

    def _poll_ms(self) -> int:
        now = clock.monotonic()
        if self._decided:
            deadlines = (self.core.next_deadline(), self._takeover.deadline(), self.workforce.deadline())
            self._due = min([now + LONGEST_POLL_S, *(at for at in deadlines if at is not None)])
            self._decided = False
        return max(0, int((self._due - now) * 1000) + 1)

    def _serve_control(self) -> None:
        for _ in range(BATCH):
            try:
                frames = self.transport.control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._guarded(self._take_request, frames)

    def _guarded(self, take: Callable[[_Got], None], message: _Got) -> None:
        """A bug that one message brings to light must not end the broker; it is logged, counted and shown."""
        try:
            take(message)
        except Exception:
            self.core.counters["internal_errors"] += 1
            logger.exception("a message could not be handled")

    def _serve_signals(self) -> None:
        received = self._signals.received()
        if received & QUIT_SIGNALS:
            self._carry_out(self.core.stop_runner(OS_SIGNAL, clock.monotonic()))
        self.workforce.reap()

    def _take_request(self, frames: list[bytes]) -> None:
        to = ReplyTo("control", frames[0], wire.CLI, 0)
        try:
            if len(frames) != 4 or frames[1]:
                raise HapiError(ErrorCode.BAD_REQUEST, f"A request has two frames, not {len(frames) - 2}.")
            header = wire.decode_header(frames[2])
            to = ReplyTo("control", frames[0], header.sender, header.request)
            body = wire.decode(wire.FOR_CONTROL, frames[3])
        except HapiError as error:
            self.core.counters["undecodable"] += 1
            self.transport.answer(to, wire.failure(error))
            return
        if isinstance(body, wire.GetStatus):
            self.transport.answer(to, self._status())
        else:
            self._carry_out(self.core.request(to, body, clock.monotonic()))

    def _serve_bus(self) -> None:
        left = BATCH
        while left:
            taken, message = self.transport.pass_on(self.core.peers.passes, left)
            if message is None:
                return
            self._guarded(self._take_message, message)
            left -= taken

    def _take_message(self, message: Message) -> None:
        identity, data, bodies = message
        try:
            if len(bodies) != 1:
                raise HapiError(ErrorCode.BAD_REQUEST, f"A message has two frames, not {1 + len(bodies)}.")
            header = wire.decode_header(data)
        except HapiError as error:
            self.core.counters["undecodable"] += 1
            self.transport.send(identity, "", wire.failure(error))
            return
        if header.to == wire.BROKER:
            self._for_broker(identity, header, bodies[0].bytes)
        else:
            self._forward(message, header)

    def _forward(self, message: Message, header: wire.Header) -> None:
        """What the transport does not know how to pass on: routing table, rights, out; the body is not looked at.

        It will know the next one like it, unless that has a number: those are all different.
        """
        core = self.core
        identity, data, (body,) = message
        speaker = core.peers.speaker(identity)
        if speaker is None:
            core.counters["unwelcome"] += 1
            self.transport.send(identity, header.sender, wire.HelloWanted())
            return
        target = core.peers.routes.get(header.to)
        if target is not None and speaker == header.sender and may_route(header.sender, header.to):
            core.counters["forwarded"] += self.transport.forward(target, data, body)
            if not header.request and identity in core.peers.by_identity:
                core.peers.remember(identity, data, target)
            return
        wrong = target is not None
        core.counters["wrong_role" if wrong else "unroutable"] += 1
        if header.request and not header.reply:
            words = f"{speaker} may not write to {header.to}." if wrong else f"{header.to} is not connected."
            refusal = HapiError(ErrorCode.BAD_REQUEST if wrong else ErrorCode.NOT_RUNNING, words)
            self.transport.answer(ReplyTo("bus", identity, speaker, header.request), wire.failure(refusal))

    def _for_broker(self, identity: bytes, header: wire.Header, data: bytes) -> None:
        self._decided = True
        to = ReplyTo("bus", identity, header.sender, header.request)
        try:
            body = wire.decode(wire.FOR_BROKER, data)
        except HapiError as error:
            self.core.counters["undecodable"] += 1
            self.transport.answer(to, wire.failure(error))
            return
        now = clock.monotonic()
        if isinstance(body, wire.Hello):
            if body.info is not None:
                crash_point("broker.adopt.heard")
            self._carry_out(self.core.hello(identity, body, now))
        elif identity not in self.core.peers.by_identity:
            self.core.counters["unwelcome"] += 1
            self.transport.send(identity, header.sender, wire.HelloWanted())
        else:
            if isinstance(body, wire.SupervisorGone):
                self._hear_last_word(body.session_id)
            self._carry_out(self.core.tell(identity, header, body, now, clock.now_ms()))

    def _hear_last_word(self, session_id: str) -> None:
        """Before a session is called lost: does its record say that it had ended?"""
        with contextlib.suppress(HapiError):  # no record, no word
            self._carry_out(self.core.last_word(SessionDirectory(self.paths.session(session_id)).read_state()))

    # ------------------------------------------------------------------------------------------------- effects

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self._send(effect)
                case Answer():
                    self._answer(effect)
                case ForkSession():
                    self.workforce.fork_session(effect.session_id)
                case CloseRecord():
                    self._close_record(effect.info)
                case WriteReport():
                    self._write_report("shutting-down" if self.core.stopping else "running")
                case CheckInstalled() | HandOver():
                    self._take_over(effect)
                case Quit():
                    self._ending = effect.ending

    def _take_over(self, step: CheckInstalled | HandOver) -> None:
        if isinstance(step, CheckInstalled):
            self._takeover.check(step.build)
        elif self._takeover.claim(step.build):
            self._carry_out(self.core.hand_over(clock.monotonic()))

    def _send(self, effect: Send) -> None:
        stop = isinstance(effect.body, wire.StopSession)
        if stop:
            crash_point("broker.stop.received")
        self.transport.send(effect.identity, effect.to, effect.body, effect.request)
        if stop:
            crash_point("broker.stop.sent")

    def _answer(self, answer: Answer) -> None:
        if isinstance(answer.body, wire.Spawned):
            crash_point("broker.spawn.answering")
        elif isinstance(answer.body, wire.SessionStopped):
            crash_point("broker.stop.answering")
        self.transport.answer(answer.to, answer.body)

    def _close_record(self, info: wire.SessionInfo) -> None:
        try:
            SessionDirectory(self.paths.session(info.session_id)).close_state(info)
        except OSError as error:
            logger.warning("cannot close the record of %s: %s", info.session_id, error)
            self.core.counters["records_unwritten"] += 1

    def _write_report(self, status: str) -> None:
        if not self._lock.keep():
            logger.warning("%s was removed or replaced, and cannot be taken anew", self.paths.lock)
        trouble = report.write(
            self.paths.state,
            report.Report(
                pid=os.getpid(),
                control_endpoint=self.paths.control_endpoint,
                start_time=clock.iso(self.started_at),
                started_with_cli_version=hapi.__version__,
                runner_log_path=str(self.paths.log("runner")),
                namespace=self.paths.namespace,
                workers={name: worker.pid for name, worker in self.workforce.workers.items()},
                workspace_roots=self.core.settings.workspace_roots,
                supervised=self.config.supervised,
                status=status,
                last_heartbeat=None if self.core.last_heartbeat is None else clock.iso(self.core.last_heartbeat),
            ),
        )
        if trouble and trouble not in self.warnings:
            self.warnings.append(trouble)

    def _status(self) -> wire.Status:
        now = clock.monotonic()
        core = self.core
        return wire.Status(
            pid=os.getpid(),
            version=hapi.__version__,
            namespace=self.paths.namespace,
            endpoint=self.paths.control_endpoint,
            started_at=self.started_at,
            log_path=str(self.paths.log("runner")),
            workspace_roots=core.settings.workspace_roots,
            hub=core.hub,
            workers={name: worker.status(now) for name, worker in self.workforce.workers.items()},
            sessions=core.sessions.phases(),
            verdicts=dict(core.adoption.verdicts),
            counters=dict(core.counters),
            last_heartbeat=core.last_heartbeat,
            heartbeat_age_ms=None if core.heard_heartbeat is None else int((now - core.heard_heartbeat) * 1000),
            heartbeat_interval_ms=self.config.heartbeat_interval_ms,
            supervised=self.config.supervised,
            stopping=core.stopping,
            warnings=[*self.warnings, *core.warnings()],
            protocol=wire.PROTOCOL_LEVEL,
            fingerprint=core.settings.fingerprint,
            install=PACKAGE,
            handoff_disabled=self.config.handoff_disabled,
            handoff=self._takeover.status(),
        )

    def _wind_up(self) -> None:
        """End the workers. A signal that asks us to quit in the meantime turns a handoff into a stop."""
        comes_back = self._ending is Ending.REPLACE or (self._ending is Ending.RESTART and self.config.supervised)
        self._write_report("restarting" if comes_back else "stopped")
        self._takeover.abandon()
        self.transport.close()
        self.workforce.end()
        if self._signals.received() & QUIT_SIGNALS:
            self._ending = Ending.STOP
        self._signals.close()
        logger.info("stopped; %d sessions live on", len(self.core.sessions.live))


def title(namespace: str) -> str:
    """What `ps` shows."""
    text = f"hapi: broker [{namespace}]"
    setproctitle.setproctitle(text)
    return text
