"""The reaper: the runner's clock. Watches every supervisor, ends what dead ones leave behind, beats the heart.

A supervisor's death is seen at once through its pidfd; the sweep of every heartbeat finds what that missed.
"""

from __future__ import annotations

import asyncio
import logging
import os

import setproctitle

import hapi
from hapi import clock, closing, config, log, procs, wire
from hapi.handoff import Build
from hapi.installed import Installed
from hapi.paths import Paths
from hapi.workers import lifeline as lifelines
from hapi.workers.link import Link

KILL_DEADLINE_S = 3.0
SETTLE_S = 5.0  # an installation that changed is looked at again after that, if not sooner

logger = logging.getLogger(__name__)


class Reaper:
    """Watches the sessions that the broker names. `run` ends when the lifeline to the broker breaks."""

    def __init__(self, link: Link, paths: Paths, heartbeat_s: float) -> None:
        self._link = link
        self._paths = paths
        self._unsent: list[wire.SupervisorGone] = []
        self._heartbeat_s = heartbeat_s
        self._watched: dict[str, tuple[wire.Watched, int | None]] = {}
        self._ended: set[str] = set()
        self._installed = Installed()
        self._build: Build | None = None
        self._reaping: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until the broker has another reaper; cancel to end sooner."""
        loop = asyncio.get_running_loop()
        loop.call_soon(self._beat, loop)
        while True:
            _, body = await self._link.receive()
            if isinstance(body, wire.Watch):
                for watched in body.sessions:
                    self._watch(watched)
            elif isinstance(body, wire.Welcome):
                unsent, self._unsent = self._unsent, []
                for gone in unsent:
                    self._tell(gone)
            elif isinstance(body, wire.Unwatch) and body.session_id in self._watched:
                self._ended.add(body.session_id)
            elif isinstance(body, wire.Refused):
                logger.warning("turned away: %s", body.reason)
                return

    def _watch(self, watched: wire.Watched) -> None:
        known = self._watched.get(watched.session_id)
        if known is not None and known[0].supervisor == watched.supervisor:
            self._watched[watched.session_id] = (watched, known[1])
            return
        self._unwatch(watched.session_id)
        self._ended.discard(watched.session_id)  # that was said of the supervisor before
        fd = procs.open_pidfd(watched.supervisor)
        self._watched[watched.session_id] = (watched, fd)
        if fd is not None:
            asyncio.get_running_loop().add_reader(fd, self._supervisor_ended, watched.session_id)
        elif not procs.is_alive(watched.supervisor):
            self._supervisor_ended(watched.session_id)

    def _unwatch(self, session_id: str) -> wire.Watched | None:
        watched, fd = self._watched.pop(session_id, (None, None))
        if fd is not None:
            asyncio.get_running_loop().remove_reader(fd)
            os.close(fd)
        return watched

    def _supervisor_ended(self, session_id: str) -> None:
        watched = self._unwatch(session_id)
        if watched is None:
            return
        if session_id in self._ended:
            self._ended.discard(session_id)
            self._tell(wire.SupervisorGone(session_id=session_id, process=watched.supervisor))
            return
        task = asyncio.get_running_loop().create_task(self._clean_up(watched), name=f"reap {session_id}")
        self._reaping.add(task)
        task.add_done_callback(self._reaping.discard)

    async def _clean_up(self, watched: wire.Watched) -> None:
        """End what a dead supervisor left behind, bring its journal to an end, then tell the broker."""
        closed = await asyncio.to_thread(closing.clean_up, watched, self._paths, KILL_DEADLINE_S)
        logger.info("supervisor of %s ended; killed %d left behind", watched.session_id, closed.reaped)
        if closed.survivors:
            logger.error("these survive SIGKILL: %s", closed.survivors)
        gone = wire.SupervisorGone(
            session_id=watched.session_id,
            process=watched.supervisor,
            unknown_messages=closed.unknown_messages,
            reaped=closed.reaped,
            survivors=[process.pid for process in closed.survivors],
        )
        self._tell(gone)

    def _tell(self, gone: wire.SupervisorGone) -> None:
        """Tell the broker of a death; what cannot be told now is told after its next welcome."""
        if not self._link.send(wire.BROKER, gone):
            self._unsent.append(gone)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        """One heartbeat: sweep, then report. Also catches deaths where there is no pidfd."""
        ended = procs.ended(fd for _, fd in self._watched.values() if fd is not None)
        for session_id, (watched, fd) in list(self._watched.items()):
            if fd in ended or (fd is None and not procs.is_alive(watched.supervisor)):
                self._supervisor_ended(session_id)
        build = self._installed.look()
        beat = wire.Heartbeat(at=clock.now_ms(), installed_version=build.version, fingerprint=build.digest)
        sent = self._link.send(wire.BROKER, beat)
        pause = SETTLE_S if self._build not in {None, build} else self._heartbeat_s
        if sent:
            self._build = build
        loop.call_later(min(pause if sent else 0.1, self._heartbeat_s), self._beat, loop)


def main(namespace: str, lifeline: int) -> None:
    """Entry point of the reaper's process, called in a fork of the nursery."""
    setproctitle.setproctitle(f"hapi: reaper [{namespace}]")
    settings = config.load(namespace)
    log.set_up(settings.paths.log("reaper"))
    asyncio.run(_serve(settings, lifeline))


async def _serve(settings: config.Config, lifeline: int) -> None:
    def hello() -> wire.Hello:
        process, version = procs.own_identity(), hapi.__version__
        return wire.Hello(name=wire.REAPER, process=process, version=version, protocol=wire.PROTOCOL_LEVEL)

    link = Link(settings.paths.bus_endpoint, wire.REAPER, wire.FOR_REAPER, hello)
    work = asyncio.create_task(Reaper(link, settings.paths, settings.heartbeat_interval_ms / 1000).run(), name="reaper")
    lifelines.follow(lifeline, work)
    try:
        await work
    except asyncio.CancelledError:
        logger.info("the broker is gone; so am I")
    finally:
        link.close()
