"""One session: its phase, its turns, its agent. The heart of a supervisor.

Order of every step that matters: on disk first, then to the agent or to the hub (docs/architecture.md).
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from signal import SIGKILL
from typing import Any, Literal

import msgspec

from hapi import wire
from hapi.clock import monotonic, now_ms
from hapi.closing import cut_turn
from hapi.crashpoints import crash_point
from hapi.errors import ErrorCode, HapiError
from hapi.journal import Journal
from hapi.lifecycle import BUSY, EndReason, Lifecycle, Phase
from hapi.store import SessionDirectory
from hapi.workers.link import Link
from hapi.workers.supervisor import prompt, title
from hapi.workers.supervisor.acp_events import Said, Turn
from hapi.workers.supervisor.acp_tools import Picture
from hapi.workers.supervisor.agent_process import KILL, LADDER_S, AgentProcess, Exit
from hapi.workers.supervisor.asking import Asking
from hapi.workers.supervisor.mailbox import Mailbox
from hapi.workers.supervisor.memory import MemoryWatch
from hapi.workers.supervisor.pictures import Pictures
from hapi.workers.supervisor.publisher import Publisher
from hapi.workers.supervisor.start import Started
from hapi.workers.supervisor.stragglers import Stragglers

CANCEL_GRACE_S = 1.0
LIVE_THINKING_S = 0.25
TURNS = "turns"
DISK_WAIT_S = 0.5
DISK_WAIT_LONGEST_S = 10.0
_DETAIL_LIMIT = 2_000

logger = logging.getLogger(__name__)


class Session:
    """Everything a started session does until it has ended. Runs on the supervisor's loop, in one task per concern."""

    def __init__(self, started: Started, link: Link, directory: SessionDirectory, journal: Journal) -> None:
        self.info = started.info
        self.lifecycle = Lifecycle(self.info.phase)
        self.asking = Asking(self._asking_changed)
        self._configuration = started.configuration
        self._mode_told = self.info.permission_mode
        self.asking.set_mode(self._configuration.allowing, plan_denies=self._configuration.plan_denies)
        self.ended = asyncio.Event()
        self._started = started
        self._agent: AgentProcess = started.agent
        self._driver = started.driver
        self._turn: Turn = started.turn
        self._link = link
        self._directory = directory
        self._journal = journal
        self._publisher = Publisher(link, journal, self.snapshot)
        self.mailbox = Mailbox(journal, self._emit)
        self._turn_over = asyncio.Event()
        self._turn_over.set()
        self._pictures = Pictures(directory.path, self._emit)
        self._stragglers = Stragglers(lambda: self._show(self._turn.flush()))
        self._stopping: asyncio.Task[wire.SessionStopped] | None = None
        self._released = False
        self._live_at = 0.0
        self._disk_wait_s = DISK_WAIT_S
        self._memory = MemoryWatch()
        self._tasks: set[asyncio.Task[Any]] = set()

    # ------------------------------------------------------------------------------------------------- its life

    def go(self) -> None:
        """The agent is ready: announce it and begin to serve."""
        self._started.route(self.on_update, self._ask)
        self._configuration.listen(self._configured, lambda: self.lifecycle.phase in BUSY)
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

        Bounded by CANCEL_GRACE_S, the ladder of `agent_process` and the last images, 14.5 s in all. `why` becomes the record's detail.
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
        self.asking.cancel_all("Session stopped")
        if busy:
            await self._cancel()
            await self._wait_turn_over()
        crash_point("supervisor.stop.cancelled")
        rung, survivors = await self._agent.stop(skip_eof=self._started.ignores_eof)
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
        self.mailbox.give_back()
        self._end(reason, why, stopped=result)
        return result

    async def _end_late(self, reason: str, why: str) -> None:
        """What survived SIGKILL may be let go by the kernel yet: then the session is over after all."""
        await self._agent.tree_ended()
        await self._last_words()
        if self._stopping is None:
            self._count_unknown("The session was stopped; the turn that ran was cut.")
            self.mailbox.give_back()
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
        if self.lifecycle.phase in BUSY:
            await self._cancel()
            await self._wait_turn_over()
        rung, survivors = await self._agent.stop(skip_eof=self._started.ignores_eof)
        await self._last_words()
        status: Literal["stopped", "still_alive"] = "still_alive" if survivors else "stopped"
        return wire.SessionStopped(status, self.info.session_id, rung, survivors)

    async def _last_words(self) -> None:
        """Show what the agent said and nobody has seen: the agent is gone."""
        self._stragglers.flush()
        self._show(self._turn.finish("cancelled"))
        await self._pictures.settled()

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
        tail = await self._agent.stderr_tail()
        _, survivors = await self._agent.stop(skip_eof=True)
        if survivors:
            logger.error("the agent left processes that survive SIGKILL: %s", survivors)
            await self._agent.tree_ended()
        if self._released:
            return  # the machine goes down
        reason = end_reason(exit_, busy=self._journal.state.turn_open, out_of_memory=self._memory.ran_out())
        self.info.exit_code, self.info.exit_signal = exit_.code, exit_.signal
        self.asking.cancel_all("The agent ended")
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
        self.ended.set()

    async def farewell(self, timeout_s: float) -> None:
        """After the end: give the hub time to take the last events, then end our tasks."""
        if not await self._publisher.flush(timeout_s):
            logger.info("the hub has yet to get %d events", len(self._journal.state.unconfirmed))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._driver.close()

    # ------------------------------------------------------------------------------------------------- its turns

    async def abort(self) -> None:
        """Cancel the running turn; the queue stays. Nothing happens between turns."""
        self.asking.cancel_all("User aborted")
        if self.lifecycle.phase in BUSY:
            await self._cancel()
            self._show(self._turn.flush())
            self._emit(wire.Note("Session aborted"))

    async def _cancel(self) -> None:
        """Ask the agent to end its turn; one that does not read its pipe cannot hold us up."""
        try:
            async with asyncio.timeout(CANCEL_GRACE_S):
                await self._driver.cancel()
        except (OSError, TimeoutError) as error:
            logger.warning("the agent cannot be told to cancel: %s", error)

    async def _wait_turn_over(self) -> None:
        try:
            async with asyncio.timeout(CANCEL_GRACE_S):
                await self._turn_over.wait()
        except TimeoutError:
            logger.info("the agent goes on with its turn")

    async def _serve_queue(self) -> None:
        while True:
            await self.mailbox.arrived.wait()
            self.mailbox.arrived.clear()
            while (message := self.mailbox.first) and self._stopping is None and self._agent.exit is None:
                if self._configuration.unsettled:
                    for words in await self._configuration.settle():
                        self._emit(wire.Note(words, is_error=True))
                    continue  # it took its time: the session may be stopping
                if await self._take(message):
                    await self._run_turn(message)

    async def _take(self, message: wire.UserMessage) -> bool:
        """Put on record that a message goes to the agent now; a disk that is full is tried again, not given up."""
        try:
            self._journal.taken(message.id)
        except OSError as error:
            logger.error("cannot journal: %s; trying again in %.1f s", error, self._disk_wait_s)  # noqa: TRY400
            self.info.detail = f"The disk refuses: {error.strerror}. Messages wait."
            self._announce()
            try:
                await asyncio.wait_for(self.ended.wait(), self._disk_wait_s)
            except TimeoutError:
                self._disk_wait_s = min(self._disk_wait_s * 2, DISK_WAIT_LONGEST_S)
            return False
        crash_point("supervisor.in.taken")
        self._disk_wait_s = DISK_WAIT_S
        return True

    async def _run_turn(self, message: wire.UserMessage) -> None:
        self.info.detail = None
        self._stragglers.flush()
        self._turn_over.clear()
        self._move(Phase.WORKING)
        stop_reason = "error"
        try:
            answer = await self._driver.prompt(await self._blocks(message), lambda: self._consumed(message))
            stop_reason = str(answer.get("stopReason") or "end_turn")
            await self._finish_turn(stop_reason)
            for event in self._turn.spent(answer, self.info.model):
                self._emit(event)
        except HapiError as error:
            await self._finish_turn(stop_reason)
            if self._agent.exit is not None:
                return  # the session ends with this turn: `_watch_agent` says how
            if self._stopping is None:
                self._emit(wire.Note(error.message, is_error=True))
            if self._driver.closed:  # it lives, and can do nothing for this session
                await self.stop(EndReason.AGENT_EXITED, error.message)
                return
        if self.lifecycle.phase not in BUSY:
            return  # stopped meanwhile
        more = self.mailbox.first is not None
        self._emit(wire.TurnEnded(stop_reason, more))
        self._move(Phase.IDLE)

    def _consumed(self, message: wire.UserMessage) -> None:
        self.mailbox.consumed(message)
        crash_point("supervisor.in.consumed")

    async def _blocks(self, message: wire.UserMessage) -> list[dict[str, Any]]:
        """A message as ACP content; a file that the agent cannot get is said in the chat."""
        if not message.attachments:
            return [{"type": "text", "text": message.text}]
        allowed = (self._directory.path / "uploads", Path(self.info.directory))
        blocks, problems = await asyncio.to_thread(prompt.blocks, message, self._driver.takes, allowed)
        for problem in problems:
            self._emit(wire.Note(problem, is_error=True))
        return blocks

    async def _finish_turn(self, stop_reason: str) -> None:
        self.asking.cancel_all("Prompt finished")
        if stop_reason != "error":
            await self._stragglers.wait()
        await self._pictures.settled()
        self._show(self._turn.finish(stop_reason))
        self._turn_over.set()

    # ------------------------------------------------------------------------------------------------- the agent

    def on_update(self, update: dict[str, Any]) -> None:
        """An ACP session update; one that comes when its turn is over is shown a moment later."""
        self._stragglers.heard(update.get("sessionUpdate"), between_turns=self._turn_over.is_set())
        self._show(self._turn.update(update))
        if monotonic() - self._live_at >= LIVE_THINKING_S:  # first the clock: the text is long to join
            thinking = self._turn.thinking
            if thinking is not None:
                self._live_at = monotonic()
                self._publisher.live(*thinking)
        if self._turn.title is not None and self._turn.title != self.info.title:
            self.info.title = self._turn.title
            self._announce()
        if update.get("sessionUpdate") in {"current_mode_update", "config_option_update"}:
            self._configuration.heard()
            self._publisher.changed()  # what can be chosen may be new
        elif update.get("sessionUpdate") == "available_commands_update":
            self._publisher.changed()

    async def _ask(self, params: dict[str, Any]) -> dict[str, Any]:
        self._show(self._turn.flush())
        return await self.asking.ask(params, self._turn)

    def answer(self, answer: wire.AnswerPermission) -> None:
        """A person's answer to a permission request. Raises HapiError(bad_request) when nothing waits for it."""
        try:
            settled = self.asking.answer(answer)
        except HapiError as error:
            if any(request.request_id == answer.request_id for request in self.asking.open):
                self._emit(wire.Note(error.message, is_error=True))  # the web does not show what we answer to it
            raise
        if settled.mode is not None:
            self._start(self._configuration.apply({"permissionMode": settled.mode}), "mode")
        if settled.decision == "abort":
            self._start(self.abort(), "abort")

    async def configure(self, values: dict[str, str | None]) -> wire.Configured:
        """Change the mode, the model or another option; answers with what is in force. Raises as `Configuration`."""
        return wire.Configured(await self._configuration.apply(values))

    async def fork(self) -> wire.Forked:
        """Have the agent copy its conversation. Raises HapiError: bad_request in a turn, agent_failed."""
        if self.lifecycle.phase is not Phase.IDLE or not self._driver.can_fork:
            raise HapiError(ErrorCode.BAD_REQUEST, "The conversation can be copied between turns only, if at all.")
        return wire.Forked(await self._driver.fork(self.info.directory))

    def _configured(self) -> None:
        if self.lifecycle.phase is Phase.ENDED:
            return
        self.asking.set_mode(self._configuration.allowing, plan_denies=self._configuration.plan_denies)
        mode = self.info.permission_mode
        if mode is not None and mode != self._mode_told:
            self._mode_told = mode
            self._emit(wire.ModeChanged(mode))
        self._announce()

    # ------------------------------------------------------------------------------------------------- telling

    def snapshot(self) -> wire.Snapshot:
        """The whole state for the hub."""
        return wire.Snapshot(
            info=self.info,
            effort=self.info.effort,
            requests=self.asking.open,
            outcomes=self.asking.outcomes,
            worktree=self.info.worktree,
            commands=self._turn.commands or [],
            models=self._configuration.models(),
            modes=self._configuration.modes(),
            config=self.info.config,
            last_seq=next(reversed(self._journal.state.unconfirmed), 0),
            protocol=wire.PROTOCOL_LEVEL,
            efforts=self._configuration.efforts(),
            can_fork=self._driver.can_fork,
        )

    def _asking_changed(self) -> None:
        phase = self.lifecycle.phase
        if phase in BUSY:
            self._move(Phase.WAITING if self.asking.open else Phase.WORKING)
        self._publisher.changed()

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
        try:
            self._directory.write_state(self.info)
        except OSError as error:
            logger.error("cannot write state.json: %s", error)  # noqa: TRY400 - the words say it all

    def _tell(self) -> None:
        title.show(self.info)
        self._link.send(wire.BROKER, wire.SessionChanged(msgspec.structs.replace(self.info)))
        self._publisher.changed()

    def _show(self, said: list[Said]) -> None:
        """Emit events; an image is stored before it is shown."""
        for event in said:
            if isinstance(event, Picture):
                self._pictures.take(event)
            else:
                self._emit(event)

    def _emit(self, event: wire.Event) -> None:
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
