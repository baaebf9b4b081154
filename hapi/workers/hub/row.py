"""A session's row at the hub: finding or making it, and writing metadata and agentState."""

from __future__ import annotations

import asyncio
import logging

from hapi import wire
from hapi.clock import now_ms
from hapi.handover import can_chat
from hapi.store import SessionDirectory
from hapi.workers.hub import describe, incoming
from hapi.workers.hub.context import Context
from hapi.workers.hub.door import Door
from hapi.workers.hub.problems import Conflict, NotFound
from hapi.workers.hub.schema import UpdateMetadata, UpdateState
from hapi.workers.hub.versioned import Cell

_log = logging.getLogger("hapi.hub")


class Row:
    """The hub's copy of a session. `deleted`: somebody deleted it there, or it never was and `must_exist`."""

    def __init__(self, context: Context, session_id: str) -> None:
        self._context = context
        self._session_id = session_id
        self._metadata = Cell(0, None)
        self._state = Cell(0, None)
        self._directory = SessionDirectory(context.config.paths.session(session_id))
        self._machine_created_at: int | None = None  # of the hub that we know the row from
        self.must_exist = False
        self.deleted = False

    async def load(self, snapshot: wire.Snapshot) -> None:
        """Learn the newest versions, creating the row if it is new. Raises HubProblem.

        A row that we knew and that is missing was deleted by the user, unless the machine's row is missing or newer
        too: then the hub lost its data, and the session is created again. Which hub has the row is on disk, so that
        this holds for what was deleted while no connector was there.
        """
        if self._machine_created_at is None:
            self._machine_created_at = await asyncio.to_thread(self._directory.hub)
        row = await self._find()
        if row is None:
            if self.must_exist or await self._was_deleted():
                self.deleted = True
                return
            row = await self._create(snapshot)
        if self._machine_created_at != self._context.machine_created_at:
            self._machine_created_at = self._context.machine_created_at
            self._context.start(self._note_hub(self._machine_created_at), "note of the hub")
        self._metadata = Cell(row.metadata_version, row.metadata)
        self._state = Cell(row.agent_state_version, row.agent_state)

    def archived_since(self, started_at: int) -> bool:
        """Whether the hub archived the session by itself, after it was started."""
        value = self._metadata.value
        by_hub = value.get("lifecycleState") == "archived" and value.get("archivedBy") == "hub"
        since = value.get("lifecycleStateSince")
        return by_hub and (not isinstance(since, int) or since >= started_at)

    async def write(self, door: Door, snapshot: wire.Snapshot, *, archived: bool) -> None:
        """Make the hub show `snapshot`; what is unchanged is not written. Raises HubProblem."""
        sid, host = self._session_id, self._context.host
        state = describe.agent_state(snapshot, can_chat=can_chat(snapshot.info, self._context.config))
        await self._state.write(
            door,
            lambda _: state,
            lambda version, value: UpdateState(sid=sid, expected_version=version, agent_state=value),
        )
        await self._metadata.write(
            door,
            lambda base: describe.metadata(snapshot, base, host, archived=archived, now=now_ms()),
            lambda version, value: UpdateMetadata(sid=sid, expected_version=version, metadata=value),
        )

    async def _note_hub(self, known_since: int) -> None:
        """Beside what follows: should we die before, the next connector finds the row by making it again (§5.1)."""
        try:
            await asyncio.to_thread(self._directory.note_hub, known_since)
        except OSError as error:
            _log.warning("cannot note that the hub has a row of %s: %s", self._session_id, error)

    async def _find(self) -> incoming.SessionRow | None:
        if self._machine_created_at is None and not self.must_exist:
            return None  # not met yet: creating answers with the row if there is one
        try:
            return await self._context.rest.session(self._session_id)
        except NotFound:
            return None

    async def _create(self, snapshot: wire.Snapshot) -> incoming.SessionRow:
        chat = can_chat(snapshot.info, self._context.config)
        body = describe.creation(snapshot, self._context.host, now_ms(), can_chat=chat)
        try:
            return await self._context.rest.create_session(self._session_id, body)
        except Conflict:  # made by another client under a tag of its own
            return await self._context.rest.session(self._session_id)

    async def _was_deleted(self) -> bool:
        known = self._machine_created_at
        return known is not None and known == await self._machine_age()

    async def _machine_age(self) -> int | None:
        try:
            return (await self._context.rest.machine(self._context.host.machine_id)).created_at
        except NotFound:
            return None
