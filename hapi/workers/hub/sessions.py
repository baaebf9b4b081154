"""All sessions that this connector speaks for, by id."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from typing import Any

from hapi import journal, wire
from hapi.lifecycle import READY
from hapi.store import SessionDirectory
from hapi.workers.hub.context import Context
from hapi.workers.hub.session import SessionLink
from hapi.workers.hub.timing import within

DELETED_REMEMBERED = 1000
_PREFIX = "session:"

logger = logging.getLogger("hapi.hub")


class Sessions:
    """Routes what sessions send to their links, making and dropping links as sessions come and go."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._links: dict[str, SessionLink] = {}
        self._deleted: OrderedDict[str, int] = OrderedDict()  # session id → generation that was deleted
        context.on_wake.append(self._probe_all)

    async def take(self, sender: str, body: Any) -> bool:
        """Handle a message from a session; False if it is none of ours."""
        if not sender.startswith(_PREFIX):
            return False
        session_id = sender.removeprefix(_PREFIX)
        if isinstance(body, wire.Snapshot):
            await self._take_snapshot(session_id, body)
        elif isinstance(body, wire.Events):
            self._take_events(session_id, body)
        elif isinstance(body, wire.LiveReasoning):
            link = self._links.get(session_id)
            if link is not None:
                link.take_live(body)
        else:
            return False
        return True

    def lose(self, info: wire.SessionInfo) -> None:
        """A session has ended whose supervisor can no longer speak: its directory has what the hub must get."""
        self._context.start(self._tell_rest(info), "end")

    async def _tell_rest(self, info: wire.SessionInfo) -> None:
        directory = SessionDirectory(self._context.config.paths.session(info.session_id))
        known = info.session_id in self._links  # also of a supervisor from before the promises
        if not known and await asyncio.to_thread(directory.is_told, info.generation):
            return
        if self._deleted.get(info.session_id, -1) >= info.generation:
            await self._note_told(info)
            return
        try:
            left = await asyncio.to_thread(journal.read, directory.journal)
        except OSError as error:
            logger.warning("the journal of %s cannot be read: %s", info.session_id, error)
            left = journal.JournalState()
        self._link(info.session_id).lose(info, list(left.unconfirmed.values()))

    async def _note_told(self, info: wire.SessionInfo) -> None:
        """The hub knows all of that generation: nothing of it is told again, whoever restarts."""
        directory = SessionDirectory(self._context.config.paths.session(info.session_id))
        try:
            await asyncio.to_thread(directory.told, info.generation)
        except OSError as error:
            logger.warning("cannot note that the hub knows of the end of %s: %s", info.session_id, error)

    def forget_sleeping(self, sender: str) -> None:
        """A peer is gone: a link that never got to its start has nothing to wait for."""
        link = self._links.get(sender.removeprefix(_PREFIX))
        if link is not None and link.task is None:
            del self._links[link.session_id]

    async def established(self, session_id: str, timeout_s: float) -> bool:
        """Whether the hub knows the session as alive, now or within `timeout_s`."""
        link = self._link(session_id)
        known = await within(link.established, timeout_s)
        if not known:
            self.forget_sleeping(session_id)
        return known

    def count(self) -> int:
        """How many sessions are connected or trying to be."""
        return sum(link.task is not None for link in self._links.values())

    def _link(self, session_id: str) -> SessionLink:
        link = self._links.get(session_id)
        if link is None:
            link = self._links[session_id] = SessionLink(self._context, session_id, self._gone)
        return link

    async def _take_snapshot(self, session_id: str, snapshot: wire.Snapshot) -> None:
        generation = self._deleted.get(session_id)
        if generation is not None and snapshot.info.generation <= generation:
            return
        self._deleted.pop(session_id, None)
        await self._link(session_id).update(snapshot)

    def _take_events(self, session_id: str, body: wire.Events) -> None:
        link = self._links.get(session_id)
        if link is not None:
            link.take_events(body.events)
        elif session_id in self._deleted and body.events:  # nobody wants them any more
            self._context.bus.send(wire.session_peer(session_id), wire.Delivered(body.events[-1].seq))
        else:  # a session sends its snapshot first, and its events again
            self._context.counters["events_of_unknown_sessions"] += 1

    def _gone(self, link: SessionLink) -> None:
        if self._links.get(link.session_id) is link:
            del self._links[link.session_id]
        newest = link.newest
        if newest is not None and (link.told or link.deleted):
            self._context.start(self._note_told(newest.info), "told")
        if link.deleted and newest is not None:
            self._deleted[link.session_id] = newest.info.generation
            if len(self._deleted) > DELETED_REMEMBERED:
                self._deleted.popitem(last=False)
        elif link.successor is not None and link.successor.info.phase in READY:
            heir = self._link(link.session_id)
            heir.outbox = link.outbox
            self._context.start(heir.update(link.successor), "resume")

    def _probe_all(self) -> None:
        for link in self._links.values():
            link.probe()
