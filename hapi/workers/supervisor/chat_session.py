"""A session whose agent is spoken to over ACP: its turns, its questions, its options."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec

from hapi import wire
from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError
from hapi.journal import Journal
from hapi.lifecycle import BUSY, EndReason, Phase
from hapi.store import SessionDirectory
from hapi.workers.link import Link
from hapi.workers.offload import offload
from hapi.workers.supervisor import prompt
from hapi.workers.supervisor.acp_events import Said, Turn
from hapi.workers.supervisor.acp_tools import Picture
from hapi.workers.supervisor.asking import Asking
from hapi.workers.supervisor.chat_start import ChatStarted
from hapi.workers.supervisor.pictures import Pictures
from hapi.workers.supervisor.session import Session
from hapi.workers.supervisor.stragglers import Stragglers

CANCEL_GRACE_S = 1.0
LIVE_THINKING_S = 0.25

logger = logging.getLogger(__name__)


class ChatSession(Session):
    """One prompt after the other; what the agent says becomes events, what it asks waits for a person."""

    def __init__(self, started: ChatStarted, link: Link, directory: SessionDirectory, journal: Journal) -> None:
        super().__init__(started, link, directory, journal)
        self.asking = Asking(self._asking_changed)
        self._chat = started
        self._configuration = started.configuration
        self._mode_told = self.info.permission_mode
        self.asking.set_mode(self._configuration.allowing, plan_denies=self._configuration.plan_denies)
        self._driver = started.driver
        self._turn: Turn = started.turn
        self._turn_over = asyncio.Event()
        self._turn_over.set()
        self._pictures = Pictures(directory.path, self._emit)
        self._stragglers = Stragglers(lambda: self._show(self._turn.flush()))
        self._live_at = 0.0
        self._context: wire.Usage | None = None  # of the running turn, not shown yet

    # ------------------------------------------------------------------------------------------------- its life

    def _begin(self) -> None:
        self._chat.route(self.on_update, self._ask)
        self._configuration.listen(self._configured, lambda: self.lifecycle.phase in BUSY)

    def _nobody_answers(self, why: str) -> None:
        self.asking.cancel_all(why)

    async def _wind_down(self, *, busy: bool) -> None:
        """Cancel its turn; at most twice CANCEL_GRACE_S."""
        if busy:
            await self._cancel()
            await self._wait_turn_over()

    async def _last_words(self) -> None:
        self._stragglers.flush()
        self._show(self._turn.finish("cancelled"))
        await self._pictures.settled()

    async def _close(self) -> None:
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

    async def _settled(self) -> bool:
        if not self._configuration.unsettled:
            return True
        for words in await self._configuration.settle():
            self._emit(wire.Note(words, is_error=True))
        return False  # it took its time: the session may be stopping

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
            spent = self._turn.spent(answer, self.info.model)
            if spent:
                self._context = None  # it says how full the context is, too
            self._show(list(spent))
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
        self._show_context()
        more = self.mailbox.first is not None
        self._emit(wire.TurnEnded(stop_reason, more))
        self._move(Phase.IDLE)

    async def _blocks(self, message: wire.UserMessage) -> list[dict[str, Any]]:
        """A message as ACP content; a file that the agent cannot get is said in the chat."""
        if not message.attachments:
            return [{"type": "text", "text": message.text}]
        allowed = (self._directory.path / "uploads", Path(self.info.directory))
        blocks, problems = await offload(prompt.blocks, message, self._driver.takes, allowed)
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
        self._hear(self._turn.update(update))
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

    def _hear(self, said: list[Said]) -> None:
        """Show what the agent said. In a turn, how full its context is waits until more is said: at the end of most
        turns that comes last, and is part of what the turn has cost.
        """
        if said:
            self._show_context()
        if len(said) == 1 and isinstance(said[0], wire.Usage) and not self._turn_over.is_set():
            self._context = said[0]
        else:
            self._show(said)

    def _show_context(self) -> None:
        context, self._context = self._context, None
        if context is not None:
            self._emit(context)

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
        return msgspec.structs.replace(
            super().snapshot(),
            requests=self.asking.open,
            outcomes=self.asking.outcomes,
            commands=self._turn.commands or [],
            models=self._configuration.models(),
            modes=self._configuration.modes(),
            efforts=self._configuration.efforts(),
            can_fork=self._driver.can_fork,
        )

    def _asking_changed(self) -> None:
        phase = self.lifecycle.phase
        if phase in BUSY:
            self._move(Phase.WAITING if self.asking.open else Phase.WORKING)
        self._publisher.changed()

    def _show(self, said: list[Said]) -> None:
        """Emit events; an image is stored before it is shown."""
        for event in said:
            if isinstance(event, Picture):
                self._pictures.take(event)
            else:
                self._emit(event)
