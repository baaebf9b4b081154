"""A session whose agent lives in a terminal: people see and type what they like; messages are typed in for them."""

from __future__ import annotations

import asyncio
import logging

from hapi import procs, wire
from hapi.agents.terminal import learned_id, parting_id
from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError
from hapi.journal import Journal
from hapi.lifecycle import EndReason, Phase
from hapi.store import SessionDirectory
from hapi.terminal.protocol import Ended
from hapi.workers.link import Link
from hapi.workers.offload import offload
from hapi.workers.supervisor.activity import Activity
from hapi.workers.supervisor.agent_process import Exit
from hapi.workers.supervisor.headline import headline
from hapi.workers.supervisor.session import Session, end_reason
from hapi.workers.supervisor.terminal_start import TerminalStarted
from hapi.workers.supervisor.typist import Typist

TELL_S = 2.0  # title and last line are told no more often: some programs put a wheel that turns into them

logger = logging.getLogger(__name__)


class TerminalSession(Session):
    """Its phase is read off its output; its end is its program's. What is asked of a chat only is refused."""

    def __init__(self, started: TerminalStarted, link: Link, directory: SessionDirectory, journal: Journal) -> None:
        super().__init__(started, link, directory, journal)
        self._terminal = started.agent.terminal
        self._interrupt = started.interrupt
        self._entry = started.agent_entry
        self._activity = Activity()
        self._typist = Typist(self._terminal)
        self._loop = asyncio.get_running_loop()
        self._look_timer: asyncio.TimerHandle | None = None
        self._tell_timer: asyncio.TimerHandle | None = None

    # ------------------------------------------------------------------------------------------------- its life

    def _begin(self) -> None:
        self._terminal.on_output = self._wrote
        self._terminal.on_typed = self._activity.typed
        self._terminal.on_drawn = self._drawn
        self._drawn()

    def _nobody_answers(self, why: str) -> None:
        """Its questions are on its screen."""

    async def _wind_down(self, **_: bool) -> None:
        """Type nothing more, and look a last time which conversation it is in."""
        self._typist.stop()
        await self._learn()

    async def _last_words(self) -> None:
        """Keep what its screen shows, and what scrolled off it."""
        self._typist.stop()
        self._terminal.catch_up()
        if self._journal.state.turn_open and self._journal.state.in_flight is None:
            self._turn_ended()
        try:
            await self._read_last()
        except OSError as error:
            logger.error("cannot keep the scrollback: %s", error)  # noqa: TRY400 - the words say it all
        except Exception:  # a mistake of our screen must not keep the session from its end
            logger.exception("cannot read the last screen")

    async def _read_last(self) -> None:
        """What is on the screen at the end, and scrolled off it: for people, and for the next start."""
        screen = self._terminal.recorder.screen
        self._news.words(screen.last_line())
        text = screen.text()
        if self._entry is not None:
            self.info.native_id = parting_id(self._entry, text) or self.info.native_id
        await offload(self._directory.keep_scrollback, text)

    def _why_it_ended(self, exit_: Exit) -> EndReason:
        return end_reason(exit_, busy=False, out_of_memory=self._memory.ran_out())

    def _over(self) -> None:
        exit_ = self._agent.exit or Exit(None, None)
        self._terminal.ended(Ended(code=exit_.code, signal=exit_.signal, reason=self.info.reason or ""))

    async def _close(self) -> None:
        for timer in (self._look_timer, self._tell_timer):
            if timer is not None:
                timer.cancel()

    # ------------------------------------------------------------------------------------------------- its messages

    async def _run_turn(self, message: wire.UserMessage) -> None:
        self.info.detail = None
        self._news.tell()
        paths = [attachment.path for attachment in message.attachments]
        try:
            await self._typist.message("\n".join([message.text, *paths]))
        except HapiError as error:
            logger.warning("a message was not typed to its end: %s", error.message)
            return  # whether the program has it is not known, and the end of the session says so
        self._activity.prompted(monotonic())
        self._consumed(message)
        while self._journal.state.in_flight is not None and await self._disk_rests():
            self.info.events_lost -= 1  # not lost: said again
            self._consumed(message)
        self._look()
        self._news.tell()

    def _turn_ended(self) -> None:
        self._emit(wire.TurnEnded("end_turn", more=self.mailbox.first is not None))

    async def abort(self) -> None:
        """Press the key by which people interrupt this program."""
        self._terminal.type(self._interrupt)

    def answer(self, _: wire.AnswerPermission) -> None:
        raise self._refusal("Its questions are answered in the terminal.")

    async def configure(self, _: dict[str, str | None]) -> wire.Configured:
        raise self._refusal("Its options are changed in the terminal.")

    async def fork(self) -> wire.Forked:
        raise self._refusal("Its conversation cannot be copied from here.")

    def _refusal(self, words: str) -> HapiError:
        hint = f"Attach to it: hapi attach {self.info.session_id}"
        return HapiError(ErrorCode.BAD_REQUEST, f"This session lives in a terminal. {words}", hint)

    # ------------------------------------------------------------------------------------------------- its output

    def _wrote(self, at: float) -> None:
        self._typist.heard(at)
        self._activity.output(at)
        if self._activity.working and self._look_timer is None:
            self._look()

    def _look(self) -> None:
        """Bring the phase in line with what the program does, and look again when that may be over."""
        if self._look_timer is not None:
            self._look_timer.cancel()
            self._look_timer = None
        due = self._activity.look(monotonic())
        if self.lifecycle.phase not in {Phase.IDLE, Phase.WORKING}:
            return
        if due is not None:
            self._look_timer = self._loop.call_at(self._loop.time() + max(0.0, due - monotonic()), self._look)
        if not self._activity.working and self._journal.state.turn_open and self._journal.state.in_flight is None:
            self._turn_ended()
        phase = Phase.WORKING if self._activity.working else Phase.IDLE
        if phase is not self.lifecycle.phase:
            self._move(phase)
            self._start(self._learn(), "learn")

    def _drawn(self) -> None:
        if self._tell_timer is None:
            self._tell_timer = self._loop.call_later(TELL_S, self._tell_screen)

    def _tell_screen(self) -> None:
        """Tell the title and the last line that the screen shows."""
        self._tell_timer = None
        if self.lifecycle.phase is Phase.ENDED:
            return
        screen = self._terminal.recorder.screen
        self._news.words(screen.last_line())
        if self.info.native_id is None:  # a short answer makes no phase, and may be the first one
            self._start(self._learn(), "learn")
        title = headline(screen.title)
        if title and title != self.info.title:
            self.info.title = title
            self._announce()

    # ------------------------------------------------------------------------------------------------- its conversation

    async def _learn(self) -> None:
        """Learn from its open files in which of its conversations the agent is, where it tells in no other way."""
        if self._entry is None or not self._entry.conversation.file:
            return
        pids = self._agent.pids()
        files = await offload(lambda: [file for pid in pids for file in procs.open_files(pid)])
        found = learned_id(self._entry, files)
        if found is not None and found != self.info.native_id:
            self.info.native_id = found
            self._announce()
