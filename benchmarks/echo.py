"""The least that a runner can do at the hub: sessions that answer each message at once, with one row, from this process."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp

from hapi import wire
from hapi.clock import now_ms
from hapi.workers.hub import incoming, translate
from hapi.workers.hub.door import Door, Site
from hapi.workers.hub.hub_clock import HubClock
from hapi.workers.hub.rest import Rest
from hapi.workers.hub.schema import Ping, SessionAlive

_METADATA = {"path": "/", "host": "echo", "flavor": "claude", "lifecycleState": "running"}


class Echo:
    """One session."""

    def __init__(self, site: Site) -> None:
        self.session = str(uuid.uuid4())
        self.door = Door(site, {"clientType": "session-scoped", "sessionId": self.session}, self._received)
        self._answered = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, rest: Rest) -> None:
        await rest.create_session(self.session, {"metadata": _METADATA, "agentState": {}})
        await self.door.open()
        await self.door.emit(SessionAlive(sid=self.session, time=now_ms(), thinking=False, mode="remote"))
        await self.door.call(Ping(), 10.0)

    def _received(self, event: str, data: Any) -> None:
        update = incoming.read_update(data) if event == "update" else None
        if isinstance(update, incoming.NewMessage) and update.message.local_id is not None:
            task = asyncio.create_task(self._answer(update.message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, row: incoming.ChatRow) -> None:
        said = str(row.content["content"]["text"]).removeprefix("/say ")
        self._answered += 1
        events: tuple[wire.Event, ...] = (wire.Consumed([row.local_id or ""]), wire.AgentText(said))
        numbered = [
            wire.NumberedEvent(2 * self._answered + number, now_ms(), event) for number, event in enumerate(events)
        ]
        for notice in translate.notices(self.session, numbered):
            await self.door.emit(notice)


@asynccontextmanager
async def echoes(url: str, token: str, count: int) -> AsyncIterator[list[str]]:
    """The ids of so many sessions that answer."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)))
        site = Site(url, token, {}, http)
        rest = Rest(site, HubClock())
        made = [Echo(site) for _ in range(count)]
        for echo in made:
            await echo.open(rest)
            stack.push_async_callback(echo.door.close)
        yield [echo.session for echo in made]
