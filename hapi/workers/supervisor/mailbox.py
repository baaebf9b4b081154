"""What people say to a session: on disk first, then in line for the agent. A message is known by its id and taken once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from hapi import wire
from hapi.clock import now_ms
from hapi.closing import quote
from hapi.crashpoints import crash_point
from hapi.ids import new_session_id
from hapi.journal import Journal

logger = logging.getLogger(__name__)


class Mailbox:
    """The queue of a session's journal, and the fate of what went through it. `emit` tells the hub.

    `changed` is called when the queue is another, before whoever changed it is answered. Its methods raise OSError
    when the journal cannot be written: then nothing has changed.
    """

    def __init__(self, journal: Journal, emit: Callable[[wire.Event], None], changed: Callable[[], None]) -> None:
        self._journal = journal
        self._emit = emit
        self._changed = changed
        self.arrived = asyncio.Event()
        if journal.state.queue:
            self.arrived.set()

    @property
    def first(self) -> wire.UserMessage | None:
        """The message whose turn is next."""
        return next(iter(self._journal.state.queue.values()), None)

    def receive(self, message: wire.UserMessage) -> None:
        """Queue a person's message; one that we know already changes nothing."""
        if self._journal.received(message):
            crash_point("supervisor.in.journalled")
            self._arrived()
        else:
            self._answer_again(message)  # the hub asks again: it missed the first answer

    def retry(self, message: wire.UserMessage) -> None:
        """Queue a message again that the user chose to retry; asked again, it is queued once."""
        if self._journal.state.fates.get(message.id) in {None, "removed"}:
            self._journal.requeue(message)
            self._arrived()
        else:
            self._answer_again(message)

    def say(self, said: wire.SendText) -> None:
        """A person on this machine says something: the hub is shown it, the agent gets it; once."""
        message = wire.UserMessage(id=said.id or new_session_id(), text=said.text, created_at=now_ms())
        if self._journal.received(message):
            self._emit(wire.UserText(said.text))
            self._arrived()

    def take_back(self, message: wire.CancelMessage) -> wire.MessageFate:
        """Whether a queued message can still be taken back; does so if it can."""
        if self._journal.removed(message.id):
            self._changed()
            return wire.MessageFate("removed")
        if self._with_agent(message.id):
            return wire.MessageFate("consumed")
        if self._journal.state.fates.get(message.id) == "taken":
            return wire.MessageFate("in_flight")
        self._journal.refuse(message.id)  # it may still be on its way to us
        return wire.MessageFate("removed")

    def give_back(self) -> None:
        """A person ended the session: what still waits for the agent will not run, and is said."""
        for message in list(self._journal.state.queue.values()):
            try:
                self._journal.removed(message.id)
            except OSError as error:
                logger.error("cannot journal: %s", error)  # noqa: TRY400 - the words say it all
                return
            self._emit(wire.Note(f"This message was not given to the agent: {quote(message.text)}", is_error=True))

    def consumed(self, message: wire.UserMessage) -> None:
        """The agent's pipe has the message; on record even when the hub has no name for it."""
        self._emit(wire.Consumed([message.local_id] if message.local_id else []))

    def _arrived(self) -> None:
        self.arrived.set()
        self._changed()

    def _answer_again(self, message: wire.UserMessage) -> None:
        if message.local_id and self._with_agent(message.id):
            self._emit(wire.Consumed([message.local_id]))

    def _with_agent(self, message_id: str) -> bool:
        """Whether that message is known to have reached the agent."""
        in_flight = self._journal.state.in_flight
        taken = self._journal.state.fates.get(message_id) == "taken"
        return taken and (in_flight is None or in_flight.id != message_id)
