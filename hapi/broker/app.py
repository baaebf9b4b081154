"""The broker's loop: sockets, processes, signals and timers in, `core`'s effects out. One thread, never blocking."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import setproctitle
import zmq

import hapi
from hapi import clock, procs, wire
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
from hapi.broker.nursery import Nursery
from hapi.broker.peers import may_route
from hapi.broker.processes import WorkerLife
from hapi.broker.reattach import scan, troubles
from hapi.broker.requests import OS_SIGNAL
from hapi.broker.signals import QUIT_SIGNALS, Signals
from hapi.broker.takeover import Takeover
from hapi.broker.transport import Transport
from hapi.config import Config
from hapi.crashpoints import crash_point
from hapi.errors import ErrorCode, HapiError
from hapi.files import FileLock
from hapi.installed import PACKAGE
from hapi.store import SessionDirectory
from hapi.workers.orders import Exited, Forked, ForkFailed

BATCH = 256
_LAST_WORDS_MS = 20
LONGEST_POLL_S = 5.0
MAX_FORKING = 64  # the nursery's pipe holds some 270 orders

logger = logging.getLogger(__name__)


class Start(msgspec.Struct, frozen=True, kw_only=True):
    """What a broker was started with: the roots and the umask for sessions, the digest of the code it runs."""

    workspace_roots: list[str]
    umask: int = 0o022
    fingerprint: str = ""


class App:
    """One broker. `run` serves until it is told to stop, and says what comes next."""

    def __init__(self, config: Config, lock: FileLock, start: Start) -> None:
        """`lock` is held, and kept."""
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
        )
        self.core = Core(settings)
        self.transport = Transport(self.paths.control_endpoint, self.paths.bus_endpoint, self.core.counters)
        self.workers = {name: WorkerLife(name) for name in ("nursery", "hub", "reaper")}
        self._lifeline_read, self._lifeline = os.pipe()
        self._nursery: Nursery | None = None
        self._watched: dict[int, str] = {}
        self._poller = zmq.Poller()
        self._signals = Signals()
        self._forks_waiting: list[str] = []
        self._forking = 0
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
        self._start_workers(now)
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
        self.core.now_ms = clock.now_ms()
        if self.transport.control in ready:
            self._serve_control()
        if self.transport.bus in ready:
            self._serve_bus()
        if self._nursery is not None and self._nursery.pipe.fileno() in ready:
            self._serve_nursery()
        if self._signals.fd in ready:
            self._serve_signals()
        for fd in [fd for fd in self._watched if fd in ready]:
            self._worker_died(self._watched[fd])
        now = clock.monotonic()
        self._takeover.look(now)
        deadline = self.core.next_deadline()
        if deadline is not None and now >= deadline:
            self._carry_out(self.core.tick(now))
        self._start_workers(now)

    def _poll_ms(self) -> int:
        now = clock.monotonic()
        waiting = ["nursery"] if self._nursery is None else list(self.workers)
        starts = [] if self.core.stopping else [self.workers[name].start_at for name in waiting]
        times = [at for at in starts if at is not None]
        deadline = self.core.next_deadline()
        times += [at for at in (deadline, self._takeover.deadline()) if at is not None]
        wait = min([LONGEST_POLL_S, *(at - now for at in times)])
        return max(0, int(wait * 1000) + 1)

    def _serve_control(self) -> None:
        for _ in range(BATCH):
            try:
                frames = self.transport.control.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._guarded(self._take_request, frames)

    def _guarded(self, take: Callable[[list[bytes]], None], frames: list[bytes]) -> None:
        """A bug that one message brings to light must not end the broker; it is logged, counted and shown."""
        try:
            take(frames)
        except Exception:
            self.core.counters["internal_errors"] += 1
            logger.exception("a message could not be handled")

    def _serve_signals(self) -> None:
        received = self._signals.received()
        if received & QUIT_SIGNALS:
            self._carry_out(self.core.stop_runner(OS_SIGNAL, clock.monotonic()))
        if self._nursery is not None:
            self._nursery.reap()

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
        for _ in range(BATCH):
            try:
                frames = self.transport.bus.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._guarded(self._take_message, frames)

    def _take_message(self, frames: list[bytes]) -> None:
        identity = frames[0]
        try:
            if len(frames) != 3:
                raise HapiError(ErrorCode.BAD_REQUEST, f"A message has two frames, not {len(frames) - 1}.")
            header = wire.decode_header(frames[1])
        except HapiError as error:
            self.core.counters["undecodable"] += 1
            self.transport.send(identity, "", wire.failure(error))
            return
        if header.to == wire.BROKER:
            self._for_broker(identity, header, frames[2])
        else:
            self._forward(identity, header, frames)

    def _forward(self, identity: bytes, header: wire.Header, frames: list[bytes]) -> None:
        """The hot path: routing table, rights, out; the body is not looked at."""
        core = self.core
        peer = core.peers.by_identity.get(identity)
        if peer is None:
            core.counters["unwelcome"] += 1
            self.transport.send(identity, header.sender, wire.HelloWanted())
            return
        target = core.peers.routes.get(header.to)
        if target is not None and peer.name == header.sender and may_route(header.sender, header.to):
            core.counters["forwarded"] += self.transport.forward(target, frames[1], frames[2])
            return
        wrong = target is not None
        core.counters["wrong_role" if wrong else "unroutable"] += 1
        if header.request and not header.reply:
            words = f"{peer.name} may not write to {header.to}." if wrong else f"{header.to} is not connected."
            refusal = HapiError(ErrorCode.BAD_REQUEST if wrong else ErrorCode.NOT_RUNNING, words)
            self.transport.answer(ReplyTo("bus", identity, peer.name, header.request), wire.failure(refusal))

    def _for_broker(self, identity: bytes, header: wire.Header, data: bytes) -> None:
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
                    self._fork_session(effect.session_id)
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

    def _fork_session(self, session_id: str) -> None:
        """Order a fork; no more are under way than the nursery's pipe holds, so that an order cannot block."""
        crash_point("broker.spawn.begun")
        if self._nursery is None or self._forking >= MAX_FORKING or not self._nursery.order("session", session_id):
            self._forks_waiting.append(session_id)
        else:
            self._forking += 1
            crash_point("broker.spawn.ordered")

    def _fork_waiting(self) -> None:
        """Order the forks that had to wait, those that are still wanted."""
        waiting, self._forks_waiting = self._forks_waiting, []
        for session_id in waiting:
            if session_id in self.core.spawns.pending:
                self._fork_session(session_id)

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
                workers={name: worker.pid for name, worker in self.workers.items()},
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
            workers={name: worker.status(now) for name, worker in self.workers.items()},
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

    # ------------------------------------------------------------------------------------------------- processes

    def _start_workers(self, now: float) -> None:
        if self.core.stopping:
            return
        if self.workers["nursery"].due(now):
            self._start_nursery()
        if self._nursery is None:
            return
        for name in ("hub", "reaper"):
            worker = self.workers[name]
            if worker.due(now) and self._nursery.order(name):
                worker.ordered()

    def _start_nursery(self) -> None:
        nursery = Nursery(self.paths.namespace, self._lifeline_read, self.paths.log("nursery"))
        self._nursery = nursery
        self._poller.register(nursery.pipe.fileno(), zmq.POLLIN)
        self.workers["nursery"].started(nursery.pid)
        logger.info("nursery started, pid %d", nursery.pid)
        self._forking = 0
        self._fork_waiting()

    def _serve_nursery(self) -> None:
        while self._nursery is not None:
            try:
                news = self._nursery.news()
            except EOFError:
                self._nursery_died()
                return
            if news is None:
                return
            self._take_news(news)

    def _take_news(self, news: Forked | ForkFailed | Exited) -> None:
        match news:
            case Forked() if news.kind in self.workers:
                self._worker_started(news)
            case ForkFailed() if news.kind in self.workers:
                logger.error("cannot fork %s: %s", news.kind, news.error)
                self.workers[news.kind].died(clock.monotonic())
            case ForkFailed():
                self._forked()
                failed = wire.Failure(ErrorCode.AT_CAPACITY.value, f"Cannot start a process: {news.error}")
                self._carry_out(self.core.never_started(news.name, failed))
            case Exited() if news.kind in self.workers:
                if self.workers[news.kind].pid == news.pid:
                    self._worker_died(news.kind)
            case Exited():
                logger.info("supervisor of %s (pid %d) ended: %d", news.name, news.pid, news.code)
                self._carry_out(self.core.child_ended(news.name, news.pid, news.code))
            case Forked():
                self._forked()
                logger.info("supervisor of %s forked, pid %d", news.name, news.pid)

    def _forked(self) -> None:
        self._forking -= 1
        if self._forks_waiting:
            self._fork_waiting()

    def _worker_started(self, news: Forked) -> None:
        self.workers[news.kind].started(news.pid)
        logger.info("%s started, pid %d", news.kind, news.pid)
        process = procs.identity(news.pid)
        fd = None if process is None else procs.open_pidfd(process)
        if fd is not None:  # the nursery may die before the worker does
            self._watched[fd] = news.kind
            self._poller.register(fd, zmq.POLLIN)
        self._write_report("running")

    def _worker_died(self, name: str) -> None:
        for fd in [fd for fd, watched in self._watched.items() if watched == name]:
            del self._watched[fd]
            self._poller.unregister(fd)
            os.close(fd)
        worker = self.workers[name]
        if worker.pid == 0:
            return
        if self.core.stopping:
            worker.pid = 0
            self._carry_out(self.core.peer_gone(name))
            return
        pid = worker.pid
        delay = worker.died(clock.monotonic())
        logger.warning("%s (pid %d) ended; started again in %.1f s", name, pid, delay)
        self._carry_out(self.core.peer_gone(name))

    def _nursery_died(self) -> None:
        nursery = self._nursery
        if nursery is None:
            return
        self._poller.unregister(nursery.pipe.fileno())
        nursery.close()
        nursery.reap()
        self._nursery = None
        for name in ("hub", "reaper"):
            self.workers[name].order_lost(clock.monotonic())
        delay = self.workers["nursery"].died(clock.monotonic())
        logger.warning("nursery (pid %d) ended; started again in %.1f s", nursery.pid, delay)
        self._carry_out(self.core.nursery_lost())

    def _wind_up(self) -> None:
        """End the workers: the broken lifeline tells them; whoever is left after a second is killed.

        A signal that asks us to quit in the meantime turns a handoff into a stop.
        """
        comes_back = self._ending is Ending.REPLACE or (self._ending is Ending.RESTART and self.config.supervised)
        self._write_report("restarting" if comes_back else "stopped")
        self._takeover.abandon()
        self.transport.close()
        os.close(self._lifeline)
        os.close(self._lifeline_read)
        ending = zmq.Poller()
        for fd in self._watched:
            ending.register(fd, zmq.POLLIN)
        deadline = clock.monotonic() + 1.0
        while self._watched and clock.monotonic() < deadline:
            for fd, _ in ending.poll(100):
                ending.unregister(fd)
                self._watched.pop(fd, None)
                os.close(fd)
        for name in self._watched.values():
            process = procs.identity(self.workers[name].pid)
            if process is not None:
                logger.warning("%s does not end; killing it", name)
                procs.send_signal(process, signal.SIGKILL)
        for fd in self._watched:
            os.close(fd)
        if self._nursery is not None:  # last: it reaps the others
            self._nursery.close()
            self._nursery.wait(1.0)
        if self._signals.received() & QUIT_SIGNALS:
            self._ending = Ending.STOP
        self._signals.close()
        logger.info("stopped; %d sessions live on", len(self.core.sessions.live))


def title(namespace: str) -> str:
    """What `ps` shows."""
    text = f"hapi: broker [{namespace}]"
    setproctitle.setproctitle(text)
    return text
