"""What the broker hears of a session: its record as it is now, with the messages that wait and the agent's last words."""

from __future__ import annotations

import asyncio

import msgspec

from hapi import wire
from hapi.journal import Journal
from hapi.lifecycle import Phase
from hapi.transcript import last_line
from hapi.workers.link import Link

WORDS_S = 1.0  # how long an agent's words may wait for the next ones
SOON_S = 0.025  # how long the beginning of a turn may wait for its end


class News:
    """Tells of phases and messages at once (of the beginning of a turn: soon), and of words once in WORDS_S: agents are
    talkative.
    """

    def __init__(self, info: wire.SessionInfo, link: Link, journal: Journal) -> None:
        self._info = info
        self._link = link
        self._journal = journal
        self._later: asyncio.TimerHandle | None = None

    def tell(self, *, soon: bool = False) -> None:
        """Tell the broker how the session is now, or within SOON_S. A message that has been accepted is told of before
        its sender hears.
        """
        if soon:
            self._tell_within(SOON_S)
            return
        self._forget_timer()
        self.count()
        self._link.send(wire.BROKER, wire.SessionChanged(msgspec.structs.replace(self._info)))

    def count(self) -> None:
        """Put down how many messages wait for the agent; so does one that is on its way to it before it is at work."""
        state = self._journal.state
        under_way = state.in_flight is not None and self._info.phase is Phase.IDLE
        self._info.queued = len(state.queue) + under_way

    def heard(self, event: wire.Event) -> None:
        """An event of the chat; only what the agent says is news."""
        if isinstance(event, wire.AgentText) and event.image is None:
            self.words(event.text)

    def words(self, text: str) -> None:
        """The agent says something; its last line is told soon."""
        line = last_line(text)
        if line is None or line == self._info.last_words:
            return
        self._info.last_words = line
        self._tell_within(WORDS_S)

    def _tell_within(self, delay_s: float) -> None:
        """Whatever is told earlier does for this, too; asking again does not put it off."""
        loop = asyncio.get_running_loop()
        at = loop.time() + delay_s
        if self._later is None or self._later.when() > at:
            self._forget_timer()
            self._later = loop.call_at(at, self._tell_late)

    def _forget_timer(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None

    def _tell_late(self) -> None:
        self._later = None
        if self._info.phase is not Phase.ENDED:  # its end was the last that is said of a session
            self.tell()
