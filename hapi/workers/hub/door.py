"""The one door to Socket.IO; no other module imports it.

A `schema.Notice` leaves through `emit`, a `schema.Call` through `call`, which cannot go without an acknowledgement
callback: the hub's process dies of an unacknowledged call. Both are checked by type and again at run time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
import msgspec
import socketio

from hapi.workers.hub.problems import HubProblem, Offline, Refused
from hapi.workers.hub.schema import Call, Notice, Ping

NAMESPACE = "/cli"
OPEN_TIMEOUT_S = 15.0
CLOSE_TIMEOUT_S = 6.0
PROBE_TIMEOUT_S = 10.0
DRAIN_TIMEOUT_S = 2.0
MAX_ANSWERING = 256

Receiver = Callable[[str, Any], Coroutine[Any, Any, Any] | None]
_LOST = object()


class NoAnswer(Exception):
    """Raised by a receiver's coroutine: let the hub's request run into its time-out."""


class _Json:
    """JSON as python-socketio wants it. Encoding turns NaN into null; decoding keeps what JavaScript may send."""

    @staticmethod
    def dumps(value: Any, **_: Any) -> str:
        return msgspec.json.encode(value).decode()

    loads = staticmethod(json.loads)


class Site(msgspec.Struct, frozen=True):
    """Where the hub is and how to get in. Its repr does not show the token."""

    url: str
    token: str
    headers: dict[str, str]
    http: aiohttp.ClientSession

    def __repr__(self) -> str:
        return f"Site({self.url})"


class Door:
    """One Socket.IO connection at a time to the hub, with a fresh client for each. Tries once; `keeper` tries again.

    `receive` is called with every event's name and argument, in order of arrival, before anything is awaited; if it
    returns a coroutine, its result is the acknowledgement.
    """

    def __init__(self, site: Site, auth: dict[str, str], receive: Receiver) -> None:
        self._site = site
        self._auth = {**auth, "token": site.token}
        self._receive = receive
        self._client: Any = None
        self._lost = asyncio.Event()
        self._lost.set()
        self._sending = asyncio.Lock()
        self._pending: set[asyncio.Future[Any]] = set()
        self._answering = 0
        self._answered = asyncio.Event()
        self._answered.set()
        self.refused_events = 0

    @property
    def connected(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return not self._lost.is_set()

    async def open(self) -> None:
        """Connect. Raises Refused for a bad token, HubProblem when the hub cannot be reached in OPEN_TIMEOUT_S."""
        lost = asyncio.Event()
        refusals: list[str] = []
        client = self._new_client(lost, refusals)
        try:
            async with asyncio.timeout(OPEN_TIMEOUT_S):
                await client.connect(
                    self._site.url,
                    headers=dict(self._site.headers),
                    auth=self._auth,
                    transports=["websocket"],
                    namespaces=[NAMESPACE],
                    wait_timeout=OPEN_TIMEOUT_S,
                )
        except (socketio.exceptions.SocketIOError, aiohttp.ClientError, OSError, ValueError) as error:
            await self._discard(client)
            if "Invalid token" in refusals:
                raise Refused("The hub refuses the token.") from None
            raise HubProblem(f"No connection: {next(iter(refusals), None) or error or 'time-out'}") from None
        except BaseException:
            await self._discard(client)
            raise
        self._client, self._lost = client, lost

    async def emit(self, notice: Notice) -> None:
        """Send a notice; returns when it is on its way. Raises Offline, TypeError for anything but a Notice."""
        if not isinstance(notice, Notice):
            raise TypeError(f"{type(notice).__name__} is not a Notice; a Call needs an acknowledgement")
        await self._send(notice, None)

    async def call(self, call: Call, timeout_s: float) -> Any:
        """Send a call and return its acknowledgement. Raises Offline (also when the connection goes meanwhile),
        HubProblem after `timeout_s`, TypeError for anything but a Call.
        """
        if not isinstance(call, Call):
            raise TypeError(f"{type(call).__name__} is not a Call")
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._pending.add(answer)
        try:
            await self._send(call, lambda *values: _settle(answer, values[0] if values else None))
            async with asyncio.timeout(timeout_s):
                value = await answer
        except TimeoutError:
            raise HubProblem(f"The hub did not acknowledge {call.event} within {timeout_s:g} s.") from None
        finally:
            self._pending.discard(answer)
        if value is _LOST:
            raise Offline(f"The connection went before the hub acknowledged {call.event}.")
        return value

    async def probe(self) -> None:
        """Find out whether the connection still stands, and close it if not."""
        try:
            await self.call(Ping(), PROBE_TIMEOUT_S)
        except HubProblem:
            await self.close()

    async def wait_lost(self) -> None:
        """Return when the connection is gone; at once when there is none."""
        await self._lost.wait()

    async def close(self) -> None:
        """Let what is on its way out (briefly), then disconnect. Never raises; may be called twice."""
        client = self._client
        if client is None:
            return
        if self.connected:
            await self._drain()
        if self._client is client:
            self._client = None
            await self._discard(client)
            self._lost.set()

    async def _drain(self) -> None:
        """Disconnecting throws away what waits to be written: answers, and events behind the last barrier."""
        with contextlib.suppress(TimeoutError, HubProblem):
            async with asyncio.timeout(DRAIN_TIMEOUT_S):
                await self._answered.wait()
            await self.call(Ping(), DRAIN_TIMEOUT_S)

    def _new_client(self, lost: asyncio.Event, refusals: list[str]) -> Any:
        client = socketio.AsyncClient(
            reconnection=False,
            handle_sigint=False,
            json=_Json,
            http_session=self._site.http,
            websocket_extra_options={"max_msg_size": 0},
        )

        async def on_any(event: str, *values: Any) -> Any:
            return await self._received(event, values[0] if values else None)

        async def on_connect_error(reason: Any = None) -> None:
            refusals.append(str(reason.get("message") if isinstance(reason, dict) else reason))

        async def on_disconnect(_reason: Any = None) -> None:
            lost.set()
            if self._lost is lost:
                self._fail_pending()

        client.on("*", on_any, namespace=NAMESPACE)
        client.on("connect_error", on_connect_error, namespace=NAMESPACE)
        client.on("disconnect", on_disconnect, namespace=NAMESPACE)
        return client

    async def _received(self, event: str, value: Any) -> Any:
        answer = self._receive(event, value)
        if answer is None:
            return None
        if self._answering >= MAX_ANSWERING:
            self.refused_events += 1
            answer.close()
            return None
        lost = self._lost
        self._answering += 1
        self._answered.clear()
        try:
            return await answer
        except NoAnswer:
            pass
        finally:
            self._answering -= 1
            if self._answering == 0:
                self._answered.set()
        await lost.wait()
        return None

    async def _send(self, message: Notice | Call, acknowledge: Callable[..., None] | None) -> None:
        client = self._client
        if client is None or self._lost.is_set():
            raise Offline("There is no connection to the hub.")
        async with self._sending:
            try:
                await client.emit(message.event, message.payload(), namespace=NAMESPACE, callback=acknowledge)
            except socketio.exceptions.SocketIOError:
                raise Offline("The connection to the hub is gone.") from None

    def _fail_pending(self) -> None:
        for answer in self._pending:
            _settle(answer, _LOST)

    async def _discard(self, client: Any) -> None:
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                await client.disconnect()
        except (socketio.exceptions.SocketIOError, aiohttp.ClientError, OSError):
            return  # it is gone already, which is what we want
        finally:
            self._fail_pending()


def _settle(answer: asyncio.Future[Any], value: Any) -> None:
    if not answer.done():
        answer.set_result(value)
