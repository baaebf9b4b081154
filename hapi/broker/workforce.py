"""Starting the workers, starting them again, hearing of their deaths, ending them. Orders the nursery's forks."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Container

import zmq

from hapi import clock, procs, wire
from hapi.broker.core import Core
from hapi.broker.effects import (
    Effect,
)
from hapi.broker.nursery import Headstart, Nursery
from hapi.broker.processes import WorkerLife
from hapi.crashpoints import crash_point
from hapi.errors import ErrorCode
from hapi.paths import Paths
from hapi.workers.orders import Exited, Forked, ForkFailed

MAX_FORKING = 64  # the nursery's pipe holds some 270 orders

logger = logging.getLogger(__name__)


class Workforce:
    """The broker's workers: nursery, hub connector, reaper; and the supervisors that it has the nursery fork."""

    def __init__(
        self,
        core: Core,
        paths: Paths,
        poller: zmq.Poller,
        carry_out: Callable[[list[Effect]], None],
        changed: Callable[[], None],
    ) -> None:
        """`poller` hears of the nursery's pipe and the workers' deaths; `changed` is called when a worker came."""
        self.workers = {name: WorkerLife(name) for name in ("nursery", "hub", "reaper")}
        self._nursery: Nursery | None = None
        self._watched: dict[int, str] = {}
        self._core = core
        self._paths = paths
        self._poller = poller
        self._carry_out = carry_out
        self._changed = changed
        self._early: Nursery | None = None
        self._lifeline_read, self._lifeline = os.pipe()
        self._forks_waiting: list[str] = []
        self._forking = 0

    def start_with(self, headstart: Headstart) -> None:
        """The first nursery is on its way already. Before anything else."""
        os.close(self._lifeline_read)
        os.close(self._lifeline)
        self._early, self._lifeline_read, self._lifeline = headstart

    def fork_session(self, session_id: str) -> None:
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
            if session_id in self._core.spawns.pending:
                self.fork_session(session_id)

    def start_due(self, now: float) -> None:
        """Start the workers whose time has come; the nursery first, which forks the others."""
        if self._core.stopping:
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
        nursery = self._early or Nursery(self._paths.namespace, self._lifeline_read, self._paths.log("nursery"))
        self._early = None
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
                self._carry_out(self._core.never_started(news.name, failed))
            case Exited() if news.kind in self.workers:
                if self.workers[news.kind].pid == news.pid:
                    self._worker_died(news.kind)
            case Exited():
                logger.info("supervisor of %s (pid %d) ended: %d", news.name, news.pid, news.code)
                self._carry_out(self._core.child_ended(news.name, news.pid, news.code))
            case Forked():
                self._core.forked(news.name, news.pid)
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
        self._changed()

    def _worker_died(self, name: str) -> None:
        for fd in [fd for fd, watched in self._watched.items() if watched == name]:
            del self._watched[fd]
            self._poller.unregister(fd)
            os.close(fd)
        worker = self.workers[name]
        if worker.pid == 0:
            return
        if self._core.stopping:
            worker.pid = 0
            self._carry_out(self._core.peer_gone(name))
            return
        pid = worker.pid
        delay = worker.died(clock.monotonic())
        logger.warning("%s (pid %d) ended; started again in %.1f s", name, pid, delay)
        self._carry_out(self._core.peer_gone(name))

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
        self._carry_out(self._core.nursery_lost())

    def deadline(self) -> float | None:
        """When `start_due` has something to do; None when there is nothing."""
        waiting = ["nursery"] if self._nursery is None else list(self.workers)
        starts = [] if self._core.stopping else [self.workers[name].start_at for name in waiting]
        return min((at for at in starts if at is not None), default=None)

    def serve(self, ready: Container[int]) -> None:
        """What the poller found: news of the nursery, deaths of workers."""
        if self._nursery is not None and self._nursery.pipe.fileno() in ready:
            self._serve_nursery()
        for fd in [fd for fd in self._watched if fd in ready]:
            self._worker_died(self._watched[fd])

    def reap(self) -> None:
        """A child of ours ended: no zombie is kept."""
        if self._nursery is not None:
            self._nursery.reap()

    def end(self) -> None:
        """End the workers: the broken lifeline tells them; whoever is left after a second is killed."""
        nursery = self._nursery or self._early
        if nursery is not None and not all(self.workers[name].pid for name in ("hub", "reaper")):
            nursery.abandon()  # it may be loading yet, and would fork them in the end
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
        if nursery is not None:  # last: it reaps the others
            nursery.close()
            nursery.wait(1.0)
