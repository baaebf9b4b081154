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
from hapi import config, log, procs, remains, wire
from hapi.clock import now_ms
from hapi.crashpoints import crash_point
from hapi.errors import ErrorCode, HapiError
from hapi.files import FileLock
from hapi.journal import Journal
from hapi.lifecycle import EndReason, Phase
from hapi.store import SessionDirectory
from hapi.workers import settled
from hapi.workers.link import Link
from hapi.workers.supervisor import title
from hapi.workers.supervisor.agent_process import become_subreaper
from hapi.workers.supervisor.chat_session import ChatSession
from hapi.workers.supervisor.chat_start import ChatStarted
from hapi.workers.supervisor.session import Session
from hapi.workers.supervisor.start import Starter, continued, first_info, same_command
from hapi.workers.supervisor.terminal_session import TerminalSession
from hapi.workers.supervisor.terminal_start import TerminalStarted

WELCOME_DEADLINE_S = 10.0
FAREWELL_S = 3.0
DETAIL_LIMIT = 4_000
CLAIM_PATIENCE_S = 5.0  # the record of a dead supervisor may be in the middle of being closed
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
        self._starter: Starter | None = None
        self._stopped_early: EndReason | None = None
        self._rebooted = False
        self._stopping_start: asyncio.Task[wire.SessionStopped] | None = None
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
        crash_point("supervisor.spawn.hello" if self._info is None else "supervisor.adopt.hello")
        return wire.Hello(
            name=wire.session_peer(self._session_id),
            process=self._process,
            version=hapi.__version__,
            generation=self._info.generation if self._info is not None else 0,
            info=self._info,
            protocol=wire.PROTOCOL_LEVEL,
        )

    def _terminated(self) -> None:
        """SIGTERM: the machine shuts down, most likely. The agent must not outlive us; the record stays open."""
        logger.warning("SIGTERM")
        self._spawn_task(self._release())

    async def _release(self) -> None:
        if self._stopping_start is not None:  # somebody did stop it, a moment before
            await asyncio.shield(self._stopping_start)
        elif self._session is not None:
            await self._session.release()
        elif self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        self._done.set()

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
            except Exception as error:  # noqa: BLE001 - a bug of ours must not make the session deaf
                self._link.reply(header, self._bug(error))

    def _take(self, header: wire.Header, body: Any) -> None:
        match body:
            case wire.Welcome():
                self._welcome(body)
            case wire.Refused():
                logger.warning("turned away: %s", body.reason)
                why = f"The runner gave the session up: {body.reason}."
                self._spawn_task(self._stop(header, EndReason.SPAWN_FAILED, why))
            case wire.PeerUp() | wire.PeerDown() if body.name == wire.HUB:
                self._hub_is(up=isinstance(body, wire.PeerUp))
            case wire.HubOnline():
                self._hub_online = body.online
            case wire.StopSession():
                self._spawn_task(self._stop(header, _reason(body), body.why))
            case _ if self._session is not None:
                self._for_session(self._session, header, body)
            case _:
                raise HapiError(ErrorCode.BAD_REQUEST, "The session is still starting.", "Try again in a moment.")

    def _for_session(self, session: Session, header: wire.Header, body: Any) -> None:
        answer: Any = wire.Accepted()
        match body:
            case wire.UserMessage():
                session.mailbox.receive(body)
            case wire.SendText():
                session.mailbox.say(body)
            case wire.RetryMessage():
                session.mailbox.retry(body.message)
            case wire.CancelMessage():
                answer = session.mailbox.take_back(body)
            case wire.AnswerPermission():
                session.answer(body)
            case wire.Delivered():
                session.delivered(body.seq)
            case wire.AbortTurn():
                self._answer_later(header, session.abort)
                return
            case wire.ForkConversation():
                self._answer_later(header, session.fork)
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
            except Exception as error:  # noqa: BLE001 - whoever asked must not wait in vain
                answer = self._bug(error)
            self._link.reply(header, answer or wire.Accepted())

        self._spawn_task(run())

    def _bug(self, error: Exception) -> wire.Failure:
        logger.error("a request failed", exc_info=error)
        return wire.failure(HapiError(ErrorCode.INTERNAL, f"Internal error: {error!r}", str(self._directory.log)))

    # ------------------------------------------------------------------------------------------------- starting

    def _welcome(self, welcome: wire.Welcome) -> None:
        self._hub_is(up=welcome.hub)
        self._hub_online = welcome.hub_online
        crash_point("supervisor.spawn.welcomed" if self._info is None else "supervisor.adopt.welcomed")
        if welcome.order is not None and self._info is None:
            order = welcome.order
            self._info = first_info(order, self._settings.namespace, 1, started_at=now_ms(), version=hapi.__version__)
            self._info.supervisor = self._process
            umask = welcome.umask if order.umask is None else order.umask
            starter = self._starter = Starter(self._settings, self._directory, welcome.workspace_roots, umask)
            self._starting = self._spawn_task(self._start(order, self._info, starter))

    async def _start(self, order: wire.Spawn, info: wire.SessionInfo, starter: Starter) -> None:
        try:
            order, journal = self._claim(order, info)
            started = await starter.run(order, info)
        except HapiError as error:
            if self._stopped_early is None:
                self._failed(info, error)
            return
        except Exception as error:
            logger.exception("the spawn failed")
            self._failed(info, HapiError(ErrorCode.INTERNAL, f"Internal error: {error!r}", str(self._directory.log)))
            return
        if journal.trouble:
            started.notes.append(f"{journal.trouble} Messages and answers of that time may be missing.")
        self._session = self._made(started, journal)
        self._session.hub_is(up=self._hub)
        crash_point("supervisor.spawn.ready")
        self._session.go()
        crash_point("supervisor.spawn.idle")
        self._spawn_task(self._finish_with(self._session))

    def _made(self, started: ChatStarted | TerminalStarted, journal: Journal) -> Session:
        if isinstance(started, TerminalStarted):
            return TerminalSession(started, self._link, self._directory, journal)
        return ChatSession(started, self._link, self._directory, journal)

    def _claim(self, order: wire.Spawn, info: wire.SessionInfo) -> tuple[wire.Spawn, Journal]:
        """Become the one writer of the session's directory; the order, with what the record adds to it, and the journal.

        Raises HapiError when another supervisor holds the directory, or the disk refuses.
        """
        try:
            self._directory.create()
            if not self._lock.acquire(f"{self._process.pid}\n", CLAIM_PATIENCE_S):
                raise HapiError(ErrorCode.ALREADY_RUNNING, "Another supervisor holds the session's directory.")
            log.set_up(self._directory.log)
            info.generation = self._directory.last_generation() + 1
            stranger = order.existing and info.generation == 1
            if stranger:
                info.generation = now_ms() // 1000  # its events' numbers must be none that the hub knows already
            previous = self._last_record()
            if previous is not None and order.existing:
                self._rebooted = previous.phase is not Phase.ENDED
                first = self._first_order()
                order = continued(order, info, previous, first if self._rebooted else None)
                order = same_command(order, first, keeps_size=self._rebooted)
                info.agent = order.agent
            self._directory.write_spec(order)
            crash_point("supervisor.spawn.specified")
            journal = self._journal = Journal(self._directory.journal, info.generation)
            journal.trouble = None if stranger else journal.trouble
            self._directory.write_state(info)
            self._directory.promise(info.generation)
            crash_point("supervisor.spawn.claimed")
        except OSError as error:
            message = f"Cannot write {error.filename or self._directory.path}: {error.strerror}"
            raise HapiError(ErrorCode.DISK, message, "Is the disk full, or is that not yours?") from None
        title.show(info)
        self._link.send(wire.BROKER, wire.SessionChanged(msgspec.structs.replace(info)))
        return order, journal

    def _first_order(self) -> wire.Spawn | None:
        try:
            return self._directory.read_spec()
        except HapiError as error:
            logger.warning("the session is continued without its first order: %s", error.message)
            return None

    def _last_record(self) -> wire.SessionInfo | None:
        try:
            return self._directory.read_state()
        except HapiError:
            return None  # a new session, or a record that the broker has put aside

    def _failed(self, info: wire.SessionInfo, error: HapiError) -> None:
        """The session never became ready: say why, to whoever asked and on the record; once."""
        if info.phase is Phase.ENDED:
            return
        logger.warning("spawn failed: %s %s", error.message, error.hint)
        info.phase, info.ended_at = Phase.ENDED, now_ms()
        failed_as = EndReason.MACHINE_REBOOTED if self._rebooted else EndReason.SPAWN_FAILED
        info.reason = self._stopped_early or failed_as
        info.detail = f"{error.message}\n{error.hint}".strip()[:DETAIL_LIMIT]
        if error.code is not ErrorCode.ALREADY_RUNNING:
            try:
                self._directory.write_state(info)
            except OSError as trouble:
                logger.warning("cannot write state.json: %s", trouble)
        failed = wire.SpawnFailed(session_id=self._session_id, failure=wire.failure(error))
        self._link.send(wire.BROKER, failed)
        if error.code is not ErrorCode.ALREADY_RUNNING:  # then the session is another supervisor's
            self._link.send(wire.BROKER, wire.SessionChanged(info))
        self._done.set()

    # ------------------------------------------------------------------------------------------------- ending

    async def _stop(self, header: wire.Header, reason: EndReason, why: str = "") -> None:
        if self._session is not None:
            result = await self._session.stop(reason, why)
            crash_point("supervisor.stop.ended")
            if why and self._starter is not None:
                await self._starter.undo()  # for whoever asked for it, it never was
        else:
            if self._stopping_start is None:
                self._stopping_start = self._spawn_task(self._stop_start(reason, why))
            result = await asyncio.shield(self._stopping_start)
        self._link.reply(header, result)
        if self._session is None:
            self._done.set()

    async def _stop_start(self, reason: EndReason, why: str) -> wire.SessionStopped:
        """A stop that arrives during the start wins over it. Done once; whoever asks again gets the same answer."""
        self._stopped_early = reason
        if self._starting is not None:
            self._starting.cancel()
            await asyncio.gather(self._starting, return_exceptions=True)
        if self._session is not None:  # it was ready an instant before
            return await self._session.stop(reason, why)
        survivors = self._starter.survivors if self._starter is not None else []
        result = wire.SessionStopped(
            "still_alive" if survivors else "stopped", self._session_id, "during_start", survivors
        )
        self._link.send(wire.BROKER, result)
        if self._info is not None:
            self._failed(self._info, self._cancelled(why))
        return result

    def _cancelled(self, why: str) -> HapiError:
        """Why a start was cancelled: `why` in the broker's words, or because somebody stopped it."""
        kept = "\n".join(self._starter.kept) if self._starter is not None else ""
        if why:
            return HapiError(ErrorCode.AGENT_TIMEOUT, why, kept)
        return HapiError(ErrorCode.STOPPED_DURING_START, "The session was stopped while it was starting.", kept)

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


def _reason(body: wire.StopSession) -> EndReason:
    if body.why:
        return EndReason.SPAWN_FAILED
    return EndReason.HANDED_OVER if body.handoff else _REASONS[body.by]


def main(namespace: str, session_id: str) -> None:
    """Entry point of a supervisor's process, called in a fork of the nursery."""
    title.show_starting(namespace, session_id)
    become_subreaper()
    remains.put_stamp(session_id)
    asyncio.run(_serve(namespace, session_id))


async def _serve(namespace: str, session_id: str) -> None:
    await Supervisor(settled.load(namespace), session_id).run()
