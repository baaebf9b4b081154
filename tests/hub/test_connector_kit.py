"""What the connector's tests share: a bus in memory with a broker and sessions on it, and a running connector."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from hapi import config, wire
from hapi.clock import now_ms
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import EndReason, Phase
from hapi.workers.hub.bus import RunnerInfo
from hapi.workers.hub.connector import run_connector
from tests.support.hub import WebClient
from tests.support.wait import until_async


class FakeBus:
    """`hapi.workers.link.Link` without sockets. Everything crosses the real codec."""

    def __init__(self) -> None:
        self.connected = True
        self.counters: Counter[str] = Counter()
        self.status = wire.HubStatus()
        self.replies: list[Any] = []
        self.sessions: dict[str, FakeSession] = {}
        self.on_broker: Callable[[Any], Any] = lambda body: wire.Failure("bad_request", f"no {type(body).__name__}")
        self.asked_of_broker: list[Any] = []
        self._inbox: asyncio.Queue[tuple[wire.Header, Any]] = asyncio.Queue()

    def say(self, sender: str, body: Any, request: int = 0) -> None:
        self._inbox.put_nowait((wire.Header(wire.HUB, sender, request), wire.decode(wire.FOR_HUB, wire.encode(body))))

    def send(self, to: str, body: Any) -> bool:
        if to == wire.BROKER:
            self.status = wire.decode(wire.FOR_BROKER, wire.encode(body))
        elif to.removeprefix("session:") in self.sessions:
            self.sessions[to.removeprefix("session:")].hear(wire.decode(wire.FOR_SESSION, wire.encode(body)))
        return True

    async def request(self, to: str, body: Any, timeout_s: float) -> Any:
        if to == wire.BROKER:
            body = wire.decode(wire.FOR_BROKER, wire.encode(body))
            self.asked_of_broker.append(body)
            reply = self.on_broker(body)
        else:
            session = self.sessions.get(to.removeprefix("session:"))
            if session is None:
                raise HapiError(ErrorCode.UNKNOWN_SESSION, "no such session")
            reply = session.answer(wire.decode(wire.FOR_SESSION, wire.encode(body)))
        if isinstance(reply, asyncio.Future):
            try:
                reply = await asyncio.wait_for(reply, timeout_s)
            except TimeoutError:
                raise HapiError(ErrorCode.TIMEOUT, "no answer") from None
        if isinstance(reply, wire.Failure):
            raise reply.error()
        return wire.decode(wire.FOR_HUB, wire.encode(reply))

    def reply(self, header: wire.Header, body: Any) -> bool:
        self.replies.append(body)
        return True

    async def receive(self) -> tuple[wire.Header, Any]:
        return await self._inbox.get()


class FakeSession:
    """A supervisor as the connector sees it."""

    def __init__(self, bus: FakeBus, directory: str, agent: str = "opencode", **info: Any) -> None:
        self.id = info.pop("session_id", None) or str(uuid.uuid4())
        self.bus = bus
        self.info = wire.SessionInfo(
            session_id=self.id,
            namespace="default",
            agent=agent,
            directory=directory,
            phase=Phase.IDLE,
            started_by="runner",
            started_at=now_ms(),
            **info,
        )
        self.extra: dict[str, Any] = {}
        self.heard: list[Any] = []
        self.delivered = 0
        self.seq = 0
        self.stop_answer: Any = "stopped"
        self.fate = "removed"
        bus.sessions[self.id] = self

    @property
    def texts(self) -> list[str]:
        return [body.text for body in self.heard if isinstance(body, wire.UserMessage)]

    def of(self, kind: type) -> list[Any]:
        return [body for body in self.heard if isinstance(body, kind)]

    def tell(self, **changes: Any) -> None:
        for name in list(changes):
            if hasattr(self.info, name):
                setattr(self.info, name, changes.pop(name))
        self.extra.update(changes)
        self.bus.say(wire.session_peer(self.id), wire.Snapshot(info=self.info, **self.extra))

    def emit(self, *events: wire.Event) -> wire.Events:
        batch = []
        for event in events:
            self.seq += 1
            batch.append(wire.NumberedEvent(self.seq, now_ms(), event))
        message = wire.Events(batch)
        self.bus.say(wire.session_peer(self.id), message)
        return message

    def hear(self, body: Any) -> None:
        self.heard.append(body)
        if isinstance(body, wire.Delivered):
            self.delivered = body.seq

    def answer(self, body: Any) -> Any:
        self.heard.append(body)
        if isinstance(body, wire.StopSession):
            return self._stop()
        if isinstance(body, wire.CancelMessage):
            return wire.MessageFate(self.fate)
        return wire.Configured(body.values) if isinstance(body, wire.Configure) else wire.Accepted()

    def _stop(self) -> Any:
        if self.stop_answer == "stopped":
            self.tell(phase=Phase.ENDED, reason=EndReason.STOPPED_FROM_HUB)
        return wire.SessionStopped(self.stop_answer, self.id)


class Running:
    """A connector at work."""

    def __init__(self, bus: FakeBus, task: asyncio.Task[None], settings: config.Config, titles: list[str]) -> None:
        self.bus = bus
        self.task = task
        self.config = settings
        self.titles = titles

    async def online(self, deadline_s: float = 15) -> None:
        await until_async(lambda: self.bus.status.online, deadline_s, f"online; {self.bus.status}")

    async def stop(self) -> None:
        self.bus.say(wire.BROKER, wire.Shutdown("hapi-cli"), request=1)
        await asyncio.wait_for(self.task, 10)


@contextlib.asynccontextmanager
async def connector(
    home: Path, url: str, token: str | None, bus: FakeBus | None = None, **runner: Any
) -> AsyncIterator[Running]:
    environ = {"HAPI_HOME": str(home), "HAPI_API_URL": url, "HAPI_HOSTNAME": "box"}
    if token:
        environ["CLI_API_TOKEN"] = token
    settings = config.load(None, environ)
    bus = bus or FakeBus()
    titles: list[str] = []
    info = RunnerInfo(broker_pid=4242, set_title=titles.append, **runner)
    task = asyncio.create_task(run_connector(bus, settings, info))
    try:
        yield Running(bus, task, settings, titles)
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class Web:
    """`WebClient` off the event loop, where it may block."""

    def __init__(self, client: WebClient) -> None:
        self._client = client

    @classmethod
    async def login(cls, url: str, token: str) -> Web:
        return cls(await asyncio.to_thread(WebClient, url, token))

    async def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        return await asyncio.to_thread(getattr(self._client, method), *args, **kwargs)

    async def post(self, path: str, body: dict[str, Any]) -> Any:
        """For bodies with keys that `WebClient.post` cannot take by name."""
        return await asyncio.to_thread(self._client._request, "POST", path, body)

    async def post_and_forget(self, path: str) -> None:
        """POST; may be cancelled, unlike a thread."""
        headers = {"Authorization": f"Bearer {self._client._bearer}"}
        async with aiohttp.ClientSession() as http, http.post(self._client.url + path, json={}, headers=headers):
            pass

    async def texts(self, session_id: str) -> list[str]:
        rows = await self("messages", session_id)
        contents = [row["content"]["content"] for row in rows]
        return [content.get("text") or content["data"].get("message", content["data"]["type"]) for content in contents]


def test_the_fake_bus_speaks_the_real_codec():
    body = wire.Snapshot(info=msgspec.convert(_INFO, wire.SessionInfo))
    assert wire.decode(wire.FOR_HUB, wire.encode(body)) == body


_INFO = {
    "session_id": "x",
    "namespace": "default",
    "agent": "claude",
    "directory": "/",
    "phase": "idle",
    "started_by": "runner",
    "started_at": 1,
}
