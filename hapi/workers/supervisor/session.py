"""One session's life, whichever way its agent is spoken to: its phase, its queue, its end. The heart of a supervisor.

`ChatSession` and `TerminalSession` say how a message gets to the agent, and what there is to do before it is ended.
Order of every step that matters: on disk first, then to the agent or to the hub (docs/architecture.md).
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from signal import SIGKILL
from typing import Any, Literal

from hapi import wire
from hapi.clock import now_ms
from hapi.closing import cut_turn
from hapi.crashpoints import crash_point
from hapi.errors import HapiError
from hapi.journal import Journal
from hapi.lifecycle import BUSY, EndReason, Lifecycle, Phase
from hapi.store import SessionDirectory
from hapi.workers.link import Link
from hapi.workers.supervisor import title
from hapi.workers.supervisor.agent_process import KILL, LADDER_S, AgentProcess, Exit
from hapi.workers.supervisor.mailbox import Mailbox
from hapi.workers.supervisor.memory import MemoryWatch
from hapi.workers.supervisor.news import News
from hapi.workers.supervisor.publisher import Publisher
from hapi.workers.supervisor.record import Record
from hapi.workers.supervisor.started import Started
from hapi.workers.supervisor.transcriber import Transcriber

TURNS = "turns"
DISK_WAIT_S = 0.5
DISK_WAIT_LONGEST_S = 10.0
_DETAIL_LIMIT = 2_000

logger = logging.getLogger(__name__)


class Session(ABC):
    """Everything a started session does until it has ended. Runs on the supervisor's loop, in one task per concern."""

    def __init__(self, started: Started, link: Link, directory: SessionDirectory, journal: Journal) -> None:
        self.info = started.info
        self.lifecycle = Lifecycle(self.info.phase)
        self.ended = asyncio.Event()
        self._started = started
        self._agent: AgentProcess = started.agent
        self._link = link
        self._directory = directory
        self._journal = journal
        self._kept = Record(directory, self.info)
        self._news = News(self.info, link, journal)
        self._publisher = Publisher(link, journal, self.snapshot, Transcriber(directory.transcript))
        self.mailbox = Mailbox(journal, self._emit, self._news.tell)
        self._stopping: asyncio.Task[wire.SessionStopped] | None = None
        self._released = False
        self._disk_wait_s = DISK_WAIT_S
        self._memory = MemoryWatch()
        self._tasks: set[asyncio.Task[Any]] = set()

    # ------------------------------------------------------------------------------------------------- its life

    def go(self) -> None:
        """The agent is ready: announce it and begin to serve."""
        self._agent.on_wait = self._hang_up_shells
        self._begin()
        self._count_unknown("The session was continued; the turn that ran before was cut.")
        for note in self._started.notes:
            self._emit(wire.Note(note))
        self._move(Phase.IDLE)
        self._start(self._serve_queue(), TURNS)
        self._start(self._watch_agent(), "agent")

    def hub_is(self, *, up: bool) -> None:
        """The hub connector came or went."""
        self._publisher.hub_is(up=up)

    def delivered(self, seq: int) -> None:
        """The hub confirmed events up to `seq`."""
        self._publisher.delivered(seq)

    async def stop(self, reason: EndReason, why: str = "") -> wire.SessionStopped:
        """End the agent and all it started, then the session. Asked again, it joins the stop under way.

        Bounded by `_wind_down`, the ladder of `agent_process` and the last images, 14.5 s in all. `why` becomes the record's detail.
        """
        if self._released and self.info.reason is None:
            self.info.reason = reason  # the machine goes down, and this session shall not come back with it
            self._move(Phase.STOPPING)
        if self._stopping is None:
            if self._agent.exit is not None and self.info.reason is None:
                work = self._watched_end()
            else:
                self.info.reason = self.info.reason or reason  # recorded with the first move, before the first signal
                work = self._stop(self.info.reason, why)
            self._stopping = asyncio.get_running_loop().create_task(work, name="stop")
        return await asyncio.shield(self._stopping)

    async def _watched_end(self) -> wire.SessionStopped:
        """The agent ended by itself and `_watch_agent` is at it: no stop did this, and none is recorded."""
        try:
            await asyncio.wait_for(self.ended.wait(), LADDER_S)
        except TimeoutError:
            self._stopping = None
            result = wire.SessionStopped("still_alive", self.info.session_id, KILL.name, self._agent.pids())
            self._link.send(wire.BROKER, result)
            return result
        return wire.SessionStopped("already_gone", self.info.session_id)

    async def _stop(self, reason: str, why: str) -> wire.SessionStopped:
        busy = self.lifecycle.phase in BUSY
        if self.lifecycle.phase is Phase.ENDED:
            return wire.SessionStopped("already_gone", self.info.session_id)
        self._move(Phase.STOPPING)
        crash_point("supervisor.stop.begun")
        self._nobody_answers("Session stopped")
        self._hang_up_shells()
        await self._wind_down(busy=busy)
        crash_point("supervisor.stop.cancelled")
        rung, survivors = await self._agent.stop(at_once=self._started.ignores_eof)
        if survivors:
            logger.error("still alive after SIGKILL: %s", survivors)
            self._stopping = None
            self._start(self._end_late(reason, why), "survivors")
            result = wire.SessionStopped("still_alive", self.info.session_id, rung, survivors)
            self._link.send(wire.BROKER, result)
            return result
        crash_point("supervisor.stop.gone")
        await self._last_words()
        result = wire.SessionStopped("stopped", self.info.session_id, rung)
        self._count_unknown("The session was stopped; the turn that ran was cut.")
        self._give_back(reason)
        self._end(reason, why, stopped=result)
        return result

    async def _end_late(self, reason: str, why: str) -> None:
        """What survived SIGKILL may be let go by the kernel yet: then the session is over after all."""
        await self._agent.tree_ended()
        await self._last_words()
        if self._stopping is None:
            self._count_unknown("The session was stopped; the turn that ran was cut.")
            self._give_back(reason)
            self._end(reason, why)

    async def release(self) -> None:
        """End the agent and all it started, and leave the record open: the machine shuts down, nobody stopped us.

        The next boot starts the session again; in this boot the reaper closes it. Bounded as `stop` is.
        """
        if self._stopping is None:
            self._released = True
            self._stopping = asyncio.get_running_loop().create_task(self._release(), name="release")
        await asyncio.shield(self._stopping)

    async def _release(self) -> wire.SessionStopped:
        self._hang_up_shells()
        await self._wind_down(busy=self.lifecycle.phase in BUSY)
        rung, survivors = await self._agent.stop(at_once=self._started.ignores_eof)
        await self._last_words()
        status: Literal["stopped", "still_alive"] = "still_alive" if survivors else "stopped"
        return wire.SessionStopped(status, self.info.session_id, rung, survivors)

    def _hang_up_shells(self) -> None:
        """Before any other signal: a shell that people use is deaf to SIGTERM."""
        for shell in list(self._started.terminals.shells.values()):
            shell.hang_up()

    def _give_back(self, reason: str) -> None:
        """What waits for the agent is said to have waited in vain, unless the session goes on elsewhere."""
        if reason != EndReason.HANDED_OVER:
            self.mailbox.give_back()

    def _count_unknown(self, why: str) -> None:
        """The turn that is open on record will not go on: say so, and whether the agent has its message is unknown."""
        try:
            self.info.unknown_messages += cut_turn(self._journal, why)
        except OSError as error:
            logger.error("cannot journal: %s", error)  # noqa: TRY400
        self._publisher.push()

    async def _watch_agent(self) -> None:
        """When the agent ends by itself, end what it left behind, and the session with a true reason."""
        exit_ = await self._agent.exited()
        if self.info.reason is not None or self._released:
            return  # we stopped it
        tail = await self._agent.tail()
        self._hang_up_shells()
        _, survivors = await self._agent.stop(at_once=True)
        if survivors:
            logger.error("the agent left processes that survive SIGKILL: %s", survivors)
            await self._agent.tree_ended()
        if self._released:
            return  # the machine goes down
        reason = self._why_it_ended(exit_)
        self.info.exit_code, self.info.exit_signal = exit_.code, exit_.signal
        self._nobody_answers("The agent ended")
        await self._last_words()
        self._count_unknown("The agent ended in the middle of its turn.")
        self._emit(wire.Note(f"The agent ended: {exit_.words()}.", is_error=reason is not EndReason.COMPLETED))
        self._end(reason, f"{exit_.words()}\n{tail}".strip())

    def _end(self, reason: str, detail: str = "", stopped: wire.SessionStopped | None = None) -> None:
        """The last move, once: to disk, then `stopped` to whoever asked for it, then to everybody."""
        if not self.lifecycle.move(Phase.ENDED):
            return
        self.info.reason, self.info.ended_at = reason, now_ms()
        self.info.detail = detail[-_DETAIL_LIMIT:] or None
        self._record()
        crash_point("supervisor.stop.recorded")
        if stopped is not None:
            self._link.send(wire.BROKER, stopped)
            crash_point("supervisor.stop.told")
        self._tell()
        self._over()
        self.ended.set()

    async def farewell(self, timeout_s: float) -> None:
        """After the end: give the hub time to take the last events, then end our tasks."""
        closing = asyncio.ensure_future(self._started.terminals.close())
        if not await self._publisher.flush(timeout_s):
            logger.info("the hub has yet to get %d events", len(self._journal.state.unconfirmed))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._close()
        await closing

    # ------------------------------------------------------------------------------------------------- its turns

    async def _serve_queue(self) -> None:
        while True:
            await self.mailbox.arrived.wait()
            self.mailbox.arrived.clear()
            while (message := self.mailbox.first) and self._stopping is None and self._agent.exit is None:
                if await self._settled() and await self._take(message):
                    await self._run_turn(message)

    async def _take(self, message: wire.UserMessage) -> bool:
        """Put on record that a message goes to the agent now; a disk that is full is tried again, not given up."""
        try:
            self._journal.taken(message.id)
        except OSError as error:
            logger.error("cannot journal: %s; trying again in %.1f s", error, self._disk_wait_s)  # noqa: TRY400
            self.info.detail = f"The disk refuses: {error.strerror}. Messages wait."
            self._announce()
            await self._disk_rests()
            return False
        crash_point("supervisor.in.taken")
        self._disk_wait_s = DISK_WAIT_S
        return True

    async def _disk_rests(self) -> bool:
        """After the disk refused: wait before it is asked again, longer each time. False when the session has ended."""
        try:
            await asyncio.wait_for(self.ended.wait(), self._disk_wait_s)
        except TimeoutError:
            self._disk_wait_s = min(self._disk_wait_s * 2, DISK_WAIT_LONGEST_S)
        return not self.ended.is_set()

    # ------------------------------------------------------------------------------------------------- its agent

    @abstractmethod
    def _begin(self) -> None:
        """The session hears its agent from now on."""

    async def _settled(self) -> bool:
        """Whether the next message may go to the agent; False after doing what was left to do before it."""
        return True

    @abstractmethod
    async def _run_turn(self, message: wire.UserMessage) -> None:
        """Give the agent a message that is on record as taken; put on record when it has it."""

    @abstractmethod
    def _nobody_answers(self, why: str) -> None:
        """What the agent asked of people is void."""

    @abstractmethod
    async def _wind_down(self, *, busy: bool) -> None:
        """The agent is about to be ended: have it end what it does; bounded."""

    @abstractmethod
    async def _last_words(self) -> None:
        """Show what the agent said and nobody has seen: the agent is gone."""

    def _why_it_ended(self, exit_: Exit) -> EndReason:
        """Why the session ends, now that its agent ended by itself."""
        return end_reason(exit_, busy=self._journal.state.turn_open, out_of_memory=self._memory.ran_out())

    def _over(self) -> None:  # noqa: B027 - not every kind has more to say
        """The end is on record and told."""

    @abstractmethod
    async def _close(self) -> None:
        """Let go of what leads to the agent."""

    @abstractmethod
    async def abort(self) -> None:
        """Have the agent leave what it does; the queue stays."""

    @abstractmethod
    def answer(self, answer: wire.AnswerPermission) -> None:
        """A person's answer to a permission request. Raises HapiError(bad_request) when nothing waits for it."""

    @abstractmethod
    async def configure(self, values: dict[str, str | None]) -> wire.Configured:
        """Change the mode, the model or another option; answers with what is in force. Raises HapiError."""

    @abstractmethod
    async def fork(self) -> wire.Forked:
        """Have the agent copy its conversation. Raises HapiError: bad_request, agent_failed."""

    def _consumed(self, message: wire.UserMessage) -> None:
        self.mailbox.consumed(message)
        crash_point("supervisor.in.consumed")

    # ------------------------------------------------------------------------------------------------- telling

    def snapshot(self) -> wire.Snapshot:
        """The whole state for the hub."""
        return wire.Snapshot(
            info=self.info,
            effort=self.info.effort,
            worktree=self.info.worktree,
            config=self.info.config,
            last_seq=next(reversed(self._journal.state.unconfirmed), 0),
            protocol=wire.PROTOCOL_LEVEL,
        )

    def _move(self, phase: Phase) -> None:
        if self.lifecycle.move(phase):
            self.info.phase = phase
            self._announce()

    def _announce(self) -> None:
        """Tell disk, `ps`, broker and hub what is so now."""
        self._record()
        self._tell()

    def _record(self) -> None:
        self.info.phase = self.lifecycle.phase
        self._news.count()
        self._kept.keep()

    def _tell(self) -> None:
        """Tell everybody. That a turn begins may wait a moment: it may be over by then, and more is said of its end."""
        begins = self.info.phase is Phase.WORKING
        title.show(self.info)
        self._news.tell(soon=begins)
        self._publisher.changed(soon=begins)

    def _emit(self, event: wire.Event) -> None:
        self._news.heard(event)
        try:
            self._publisher.emit(event)
        except OSError as error:
            self.info.events_lost += 1
            logger.error("cannot journal an event: %s", error)  # noqa: TRY400

    def _start(self, work: Any, name: str) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            logger.error("task %s failed", task.get_name(), exc_info=error)
            words = error.message if isinstance(error, HapiError) else f"Internal error: {error!r}"
            self._emit(wire.Note(words, is_error=True))
            if task.get_name() == TURNS and self._stopping is None:  # it would be deaf: better a true end
                self._start(self.stop(EndReason.SUPERVISOR_LOST), "stop")


def end_reason(exit_: Exit, *, busy: bool, out_of_memory: bool) -> EndReason:
    """Why a session ended whose agent ended by itself. Only one that had nothing left to do has completed."""
    if exit_.signal is not None:
        return EndReason.MEMORY_LIMIT if out_of_memory and exit_.signal == SIGKILL else EndReason.AGENT_CRASHED
    return EndReason.AGENT_EXITED if busy or exit_.code else EndReason.COMPLETED
