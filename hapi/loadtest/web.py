"""Through the hub, as its web app does: REST for what is asked, one stream of events for all that agents say."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from hapi.agents.built_in import FLAVORS
from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError
from hapi.loadtest.events import Hearing, Row
from hapi.loadtest.side import Heard

_Answer = TypeVar("_Answer")
MachineId = Callable[[], Awaitable[str | None]]
STAND_IN = "claude"  # the web takes no names but those it knows: any other agent goes under this one, in our settings
_CONNECTIONS = 64
_TIMEOUT = aiohttp.ClientTimeout(total=60)
_SILENCE_S = 75.0  # the hub sends a heartbeat every 30 s
_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0)
_PAGE, _MAX_PAGES = 200, 5_000
_REREAD_S = 30.0  # for one page
_AGAIN = frozenset({401, 408, 409, 425, 429, 500, 502, 503, 504})


class _Page(msgspec.Struct):
    messages: list[Row] = []


_page = msgspec.json.Decoder(_Page)


class Account(msgspec.Struct, frozen=True):
    """Where the hub is, and who we are there: `token` with the namespace of the test, `headers` for every request."""

    url: str
    token: str
    headers: dict[str, str]


class Web:
    """A `Side` through a hub. An answer is seen when its row comes with the events.

    `lost_stream` counts how often the events broke off: the hub repeats few of those that were missed, which is what
    `reread` is for.
    """

    def __init__(self, account: Account, project: Path, machine_id: MachineId, heard: Heard) -> None:
        """`machine_id` tells which of the namespace's machines is ours; None as long as that is not known."""
        self.name = account.url
        self.lost_stream = 0
        self._url, self._token, self._headers = account.url, account.token, account.headers
        self._project, self._machine_id, self._heard = project, machine_id, heard
        self._http: aiohttp.ClientSession | None = None
        self._bearer = ""
        self._machine = ""
        self._events: asyncio.Task[None] | None = None
        self._streaming = asyncio.Event()

    async def open(self) -> None:
        connector = aiohttp.TCPConnector(limit=_CONNECTIONS)
        headers = {**self._headers, "Accept-Encoding": "identity"}  # to pack what stays on a machine costs both sides
        self._http = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, headers=headers)
        await self._log_in()
        self._events = asyncio.create_task(self._follow())
        async with _patience(30.0, "The hub does not list this machine."):
            await self._streaming.wait()
            while not self._machine:
                own = await self._machine_id()
                listed = (await self._ask("GET", "/api/machines", None, 30.0))["machines"]
                self._machine = next((row["id"] for row in listed if row["id"] == own), "")
                await asyncio.sleep(0 if self._machine else 0.05)  # a machine's coming is told by no event

    async def spawn(self, agent: str, timeout_s: float) -> str:
        body = {"directory": str(self._project), "agent": agent if agent in FLAVORS else STAND_IN}
        async with _patience(timeout_s, "The hub did not answer a spawn."):  # asked once: there is no key to it
            result = await self._once("POST", f"/api/machines/{quote(self._machine)}/spawn", body)
        if result.get("type") != "success":
            raise HapiError(ErrorCode.AGENT_FAILED, f"The hub could not spawn: {result.get('message', result)}")
        return str(result["sessionId"])

    async def say(self, session_id: str, key: str, text: str, timeout_s: float) -> None:
        await self._ask("POST", f"/api/sessions/{session_id}/messages", {"text": text, "localId": key}, timeout_s)

    async def stop(self, session_id: str, timeout_s: float) -> None:
        async with _patience(timeout_s, "The hub did not answer a stop."):
            with contextlib.suppress(_Over):
                await self._once("POST", f"/api/sessions/{session_id}/archive", {})

    async def reread(self, session_id: str) -> list[str]:
        words, after = [], 0
        for _ in range(_MAX_PAGES):
            path = f"/cli/sessions/{session_id}/messages?afterSeq={after}&limit={_PAGE}"
            page = await _tried(partial(self._fetch, "GET", path, None, self._token), _REREAD_S, path)
            rows = _page.decode(page).messages
            words += [text for row in rows if (text := row.words()) is not None]
            if len(rows) < _PAGE:
                break
            after = rows[-1].seq
        return words

    async def forget(self, at_once: int) -> int:
        """Delete the sessions of our machine; the machine itself leaves the hub's list 45 s after its last sign of life."""
        if not self._machine:
            return 0
        listed = (await self._ask("GET", "/api/sessions", None, 30.0))["sessions"]
        ours = [row for row in listed if (row.get("metadata") or {}).get("machineId") == self._machine]
        places = asyncio.Semaphore(at_once)

        async def delete(session: dict[str, Any]) -> bool:
            async with places:
                try:
                    if session.get("active"):
                        await self.stop(session["id"], 30.0)
                    await self._ask("DELETE", f"/api/sessions/{session['id']}", None, 10.0)
                except HapiError:
                    return False
                return True

        done = await asyncio.gather(*map(delete, ours))
        return done.count(False)

    async def close(self) -> None:
        if self._events is not None:
            self._events.cancel()
            await asyncio.gather(self._events, return_exceptions=True)
        if self._http is not None:
            await self._http.close()

    # ---------------------------------------------------------------------------------------------- requests

    async def _ask(self, verb: str, path: str, body: Any, timeout_s: float) -> Any:
        """As `_once`, again and again for what may mend itself, until the time is up."""
        return await _tried(partial(self._once, verb, path, body), timeout_s, f"{verb} {path}")

    async def _once(self, verb: str, path: str, body: Any) -> Any:
        return msgspec.json.decode(await self._fetch(verb, path, body, self._bearer))

    async def _fetch(self, verb: str, path: str, body: Any, bearer: str) -> bytes:
        """The answer's bytes. Raises _Again for what may mend itself, _Over for a session that has ended, HapiError."""
        if self._http is None:
            raise HapiError(ErrorCode.HUB_REFUSED, "There is no connection to the hub.")
        headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
        data = None if body is None else msgspec.json.encode(body)
        try:
            async with self._http.request(
                verb, self._url + path, data=data, headers=headers, allow_redirects=False
            ) as response:
                content, status = await response.read(), response.status
        except (aiohttp.ClientError, OSError) as error:
            raise _Again(ErrorCode.CONNECTION_LOST, f"The hub cannot be reached: {error}") from None
        if status == 200:
            return content
        said = content[:200].decode(errors="replace")
        if status == 401 and bearer is not self._token:
            await self._log_in()  # what we show lasts four hours
        if status == 409 and path.endswith("/archive"):
            raise _Over(ErrorCode.SESSION_ENDED, said)
        kind = _Again if status in _AGAIN else HapiError
        raise kind(ErrorCode.HUB_REFUSED, f"The hub answered HTTP {status}: {said}")

    async def _log_in(self) -> None:
        """Raises HapiError(hub_refused) for a token that the hub does not take, or when it cannot be reached."""
        content = msgspec.json.encode({"accessToken": self._token})
        hint = "hapi auth status tells what the hub thinks of it. Without a hub: --local"
        assert self._http is not None  # noqa: S101 - `open` made it
        try:
            async with self._http.post(
                f"{self._url}/api/auth",
                data=content,
                headers={"Content-Type": "application/json"},
                allow_redirects=False,
            ) as response:
                answer = await response.read()
                if response.status != 200:
                    raise HapiError(ErrorCode.HUB_REFUSED, f"The hub {self._url} does not take the token.", hint)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise HapiError(ErrorCode.HUB_REFUSED, f"The hub {self._url} cannot be reached: {error}", hint) from None
        self._bearer = msgspec.json.decode(answer)["token"]

    # ---------------------------------------------------------------------------------------------- events

    async def _follow(self) -> None:
        """Read the stream of events, and take it up again where it broke off."""
        hearing = Hearing(self._heard)
        failures = 0
        while True:
            try:
                await self._stream(hearing)
                self.lost_stream += 1
                failures = 0
            except (aiohttp.ClientError, OSError, HapiError):
                failures += 1
            hearing.restart()
            await asyncio.sleep(_PAUSES_S[min(failures, len(_PAUSES_S) - 1)])

    async def _stream(self, hearing: Hearing) -> None:
        """Events until they break off. Raises HapiError, ClientError, OSError when they did not even begin."""
        assert self._http is not None  # noqa: S101 - `open` made it
        headers = {"Authorization": f"Bearer {self._bearer}", "Accept": "text/event-stream"}
        headers |= {"Last-Event-ID": hearing.last_id} if hearing.last_id else {}
        limits = aiohttp.ClientTimeout(total=None, sock_read=_SILENCE_S)
        url = f"{self._url}/api/events?all=true"
        async with self._http.get(url, headers=headers, timeout=limits, allow_redirects=False) as response:
            if response.status == 401:
                await self._log_in()
            if response.status != 200:
                raise HapiError(ErrorCode.HUB_REFUSED, f"The hub answered HTTP {response.status} to {url}")
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async for chunk in response.content.iter_any():
                    self._streaming.set()
                    hearing.take(chunk)


class _Again(HapiError):
    """What may be well in a moment."""


class _Over(HapiError):
    """The session has ended already."""


async def _tried(request: Callable[[], Awaitable[_Answer]], timeout_s: float, what: str) -> _Answer:
    """The answer to a request, asked again for what may mend itself. Raises HapiError(timeout) when the time is up."""
    deadline = monotonic() + timeout_s
    attempt = 0
    while True:
        try:
            async with asyncio.timeout(max(0.1, deadline - monotonic())):
                return await request()
        except (_Again, TimeoutError) as error:
            pause = _PAUSES_S[min(attempt, len(_PAUSES_S) - 1)]
            attempt += 1
            if monotonic() + pause >= deadline:
                raise HapiError(ErrorCode.TIMEOUT, f"Not within {timeout_s:g} s: {what}: {error}") from None
            await asyncio.sleep(pause)


@contextlib.asynccontextmanager
async def _patience(seconds: float, why: str) -> AsyncIterator[None]:
    """Raises HapiError(timeout) with `why` when the body takes longer."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise HapiError(ErrorCode.TIMEOUT, f"{why} ({seconds:g} s)") from None
