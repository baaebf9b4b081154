"""A supervisor's life: say hello, learn the order, start the agent, serve until the session has ended.

It outlives the broker: the link says hello again to whichever broker appears on the socket.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

import hapi
from hapi import config, log, procs, wire
from hapi.clock import now_ms
from hapi.errors import ErrorCode, HapiError
from hapi.files import FileLock
from hapi.journal import Journal
from hapi.lifecycle import EndReason, Phase
from hapi.store import SessionDirectory
from hapi.workers.link import Link
from hapi.workers.supervisor import title
from hapi.workers.supervisor.agent_process import become_subreaper
from hapi.workers.supervisor.session import Session
from hapi.workers.supervisor.start import Starter, first_info

WELCOME_DEADLINE_S = 10.0
FAREWELL_S = 3.0
DETAIL_LIMIT = 4_000
FAREWELL_OFFLINE_S = 0.2  # the connector has been handed the last words, and tells the hub when it can
_REASONS = {"user": EndReason.STOPPED_BY_USER, "hub": EndReason.STOPPED_FROM_HUB}

logger = logging.getLogger(__name__)


class Supervisor:
    """One session from order to end. `run` returns when the process may exit."""

    def __init__(self, settings: config.Config, session_id: str) -> None:
        self._settings = settings
        self._session_id = session_id
        self._directory = SessionDirectory(settings.paths.session(session_id))
        self._process = procs.own_identity()
        self._lock = FileLock(self._directory.lock)
        self._info: wire.SessionInfo | None = None
        self._session: Session | None = None
        self._journal: Journal | None = None
        self._starting: asyncio.Task[None] | None = None
        self._stopped_early: EndReason | None = None
        self._hub = False
        self._hub_online = False
        self._done = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._link = Link(settings.paths.bus_endpoint, wire.session_peer(session_id), wire.FOR_SESSION, self._hello)

    async def run(self) -> None:
        """Serve until the session has ended, or nobody wants it."""
        receiving = self._spawn_task(self._receive())
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._terminated)
        for number in (signal.SIGINT, signal.SIGHUP):  # handled, not ignored: the agent would inherit that
            loop.add_signal_handler(number, logger.info, "passed over signal %d", number)
        patience = asyncio.get_running_loop().call_later(WELCOME_DEADLINE_S, self._give_up)
        try:
            await self._done.wait()
            if self._session is not None:
                await self._session.farewell(FAREWELL_S if self._hub_online else FAREWELL_OFFLINE_S)
        finally:
            patience.cancel()
            receiving.cancel()
            if self._journal is not None:
                self._journal.close()
            self._link.close()
            self._lock.release()

    def _hello(self) -> wire.Hello:
        return wire.Hello(
            name=wire.session_peer(self._session_id),
            process=self._process,
            version=hapi.__version__,
            generation=self._info.generation if self._info is not None else 0,
            info=self._info,
            protocol=wire.PROTOCOL_LEVEL,
        )

    def _terminated(self) -> None:
        """SIGTERM: nobody said that the session is not wanted, but its agent must not outlive us."""
        logger.warning("SIGTERM")
        self._spawn_task(self._stop(wire.Header(self._link.name, self._link.name), EndReason.SUPERVISOR_LOST))

    def _give_up(self) -> None:
        if self._info is None:
            logger.warning("no broker gave an order within %g s", WELCOME_DEADLINE_S)
            self._done.set()

    async def _receive(self) -> None:
        while True:
            header, body = await self._link.receive()
            try:
                self._take(header, body)
            except HapiError as error:
                self._link.reply(header, wire.failure(error))
            except OSError as error:
                refusal = HapiError(ErrorCode.DISK, f"Cannot write to disk: {error.strerror}.", "Make room.")
                self._link.reply(header, wire.failure(refusal))
            except Exception as error:  # a bug of ours must not make the session deaf
                logger.exception("%s failed", type(body).__name__)
                bug = HapiError(ErrorCode.INTERNAL, f"Internal error: {error!r}", str(self._directory.log))
                self._link.reply(header, wire.failure(bug))

    def _take(self, header: wire.Header, body: Any) -> None:
        match body:
            case wire.Welcome():
                self._welcome(body)
            case wire.Refused():
                logger.warning("turned away: %s", body.reason)
                self._spawn_task(self._stop(header, EndReason.SPAWN_FAILED))
            case wire.PeerUp() | wire.PeerDown() if body.name == wire.HUB:
                self._hub_is(up=isinstance(body, wire.PeerUp))
            case wire.HubOnline():
                self._hub_online = body.online
            case wire.StopSession():
                self._spawn_task(self._stop(header, _REASONS[body.by]))
            case _ if self._session is not None:
                self._for_session(self._session, header, body)
            case _:
                raise HapiError(ErrorCode.BAD_REQUEST, "The session is still starting.", "Try again in a moment.")

    def _for_session(self, session: Session, header: wire.Header, body: Any) -> None:
        answer: Any = wire.Accepted()
        match body:
            case wire.UserMessage():
                session.receive(body)
            case wire.SendText():
                session.say(body.text)
            case wire.RetryMessage():
                session.retry(body.message)
            case wire.CancelMessage():
                answer = session.take_back(body)
            case wire.AnswerPermission():
                session.answer(body)
            case wire.Delivered():
                session.delivered(body.seq)
            case wire.AbortTurn():
                self._answer_later(header, session.abort)
                return
            case wire.Configure():
                self._answer_later(header, lambda: session.configure(body.values))
                return
        self._link.reply(header, answer)

    def _answer_later(self, header: wire.Header, work: Callable[[], Awaitable[Any]]) -> None:
        async def run() -> None:
            try:
                answer = await work()
            except HapiError as error:
                answer = wire.failure(error)
            self._link.reply(header, answer or wire.Accepted())

        self._spawn_task(run())

    # ------------------------------------------------------------------------------------------------- starting

    def _welcome(self, welcome: wire.Welcome) -> None:
        self._hub_is(up=welcome.hub)
        self._hub_online = welcome.hub_online
        if welcome.order is not None and self._info is None:
            order = welcome.order
            self._info = first_info(order, self._settings.namespace, 1, started_at=now_ms(), version=hapi.__version__)
            self._info.supervisor = self._process
            umask = welcome.umask if order.umask is None else order.umask
            starter = Starter(self._settings, self._directory, welcome.workspace_roots, umask)
            self._starting = self._spawn_task(self._start(order, self._info, starter))

    async def _start(self, order: wire.Spawn, info: wire.SessionInfo, starter: Starter) -> None:
        try:
            self._claim(order, info)
            started = await starter.run(order, info)
        except HapiError as error:
            if self._stopped_early is None:
                self._failed(info, error)
            return
        except Exception as error:
            logger.exception("the spawn failed")
            self._failed(info, HapiError(ErrorCode.INTERNAL, f"Internal error: {error!r}", str(self._directory.log)))
            return
        self._session = Session(started, self._link, self._directory, self._open_journal())
        self._session.hub_is(up=self._hub)
        self._session.go()
        self._spawn_task(self._finish_with(self._session))

    def _claim(self, order: wire.Spawn, info: wire.SessionInfo) -> None:
        """Become the one writer of the session's directory. Raises HapiError when another supervisor is."""
        try:
            self._directory.create()
            if not self._lock.acquire(f"{self._process.pid}\n"):
                raise HapiError(ErrorCode.ALREADY_RUNNING, "Another supervisor holds the session's directory.")
            log.set_up(self._directory.log)
            info.generation = self._last_generation() + 1
            self._directory.write_spec(order)
            self._directory.write_state(info)
        except OSError as error:
            message = f"Cannot write {self._directory.path}: {error.strerror}"
            raise HapiError(ErrorCode.DISK, message, "Is the disk full?") from None
        title.show(info)
        self._link.send(wire.BROKER, wire.SessionChanged(msgspec.structs.replace(info)))

    def _last_generation(self) -> int:
        try:
            return self._directory.read_state().generation
        except HapiError:
            return 0  # a new session, or a record that the broker has put aside

    def _open_journal(self) -> Journal:
        self._journal = Journal(self._directory.journal)
        return self._journal

    def _failed(self, info: wire.SessionInfo, error: HapiError) -> None:
        """The session never became ready: say why, to whoever asked and on the record."""
        logger.warning("spawn failed: %s %s", error.message, error.hint)
        info.phase, info.ended_at = Phase.ENDED, now_ms()
        info.reason = self._stopped_early or EndReason.SPAWN_FAILED
        info.detail = f"{error.message}\n{error.hint}".strip()[:DETAIL_LIMIT]
        if error.code is not ErrorCode.ALREADY_RUNNING:
            try:
                self._directory.write_state(info)
            except OSError as trouble:
                logger.warning("cannot write state.json: %s", trouble)
        failed = wire.SpawnFailed(session_id=self._session_id, failure=wire.failure(error))
        self._link.send(wire.BROKER, failed)
        self._link.send(wire.BROKER, wire.SessionChanged(info))
        self._done.set()

    # ------------------------------------------------------------------------------------------------- ending

    async def _stop(self, header: wire.Header, reason: EndReason) -> None:
        if self._session is None:
            result = await self._stop_start(reason)
        else:
            result = await self._session.stop(reason)
        self._link.reply(header, result)
        if self._session is None:
            self._done.set()

    async def _stop_start(self, reason: EndReason) -> wire.SessionStopped:
        """A stop that arrives during the start wins over it."""
        self._stopped_early = reason
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        result = wire.SessionStopped("stopped", self._session_id, "during_start")
        self._link.send(wire.BROKER, result)
        if self._info is not None:
            self._failed(self._info, _stopped_early())
        return result

    async def _finish_with(self, session: Session) -> None:
        await session.ended.wait()
        self._done.set()

    def _hub_is(self, *, up: bool) -> None:
        self._hub = up
        if self._session is not None:
            self._session.hub_is(up=up)

    def _spawn_task(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("task failed", exc_info=task.exception())


def _stopped_early() -> HapiError:
    return HapiError(ErrorCode.STOPPED_DURING_START, "The session was stopped while it was starting.")


def main(namespace: str, session_id: str) -> None:
    """Entry point of a supervisor's process, called in a fork of the nursery."""
    title.show_starting(namespace, session_id)
    become_subreaper()
    asyncio.run(_serve(namespace, session_id))


async def _serve(namespace: str, session_id: str) -> None:
    await Supervisor(config.load(namespace), session_id).run()
