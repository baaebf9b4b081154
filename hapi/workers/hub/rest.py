"""The hub's REST calls for our side, with typed errors. The token goes into one header and nowhere else."""

from __future__ import annotations

from typing import Any, TypeVar

import aiohttp
import msgspec

from hapi.workers.hub import incoming
from hapi.workers.hub.door import Site
from hapi.workers.hub.hub_clock import HubClock
from hapi.workers.hub.problems import Conflict, Denied, HubProblem, NotFound, Refused

PROTOCOL_VERSION = "1"
TIMEOUT_S = 15.0
PAGE = 200
MAX_PAGES = 50

_T = TypeVar("_T")
_ERRORS: dict[int, type[HubProblem]] = {401: Refused, 403: Denied, 404: NotFound, 409: Conflict}


class _Machine(msgspec.Struct):
    machine: incoming.MachineRow


class _Session(msgspec.Struct):
    session: incoming.SessionRow


class _Messages(msgspec.Struct):
    messages: list[incoming.ChatRow]


class Rest:
    """Calls of `/cli/*`. Every method raises Refused, Denied, NotFound, Conflict, or a plain HubProblem to retry."""

    def __init__(self, site: Site, clock: HubClock) -> None:
        self._site = site
        self._clock = clock

    async def register_machine(
        self, machine_id: str, metadata: dict[str, Any], state: dict[str, Any]
    ) -> incoming.MachineRow:
        """Create the machine or merge `metadata` into what the hub has; the answer has the versions."""
        body = {"id": machine_id, "metadata": metadata, "runnerState": state}
        return (await self._ask("POST", "/cli/machines", _Machine, body)).machine

    async def machine(self, machine_id: str) -> incoming.MachineRow:
        """The machine as it is stored."""
        return (await self._ask("GET", f"/cli/machines/{machine_id}", _Machine)).machine

    async def create_session(self, session_id: str, body: dict[str, Any]) -> incoming.SessionRow:
        """Create the session under its own id, which is also its tag; an existing one comes back unchanged."""
        whole = {"id": session_id, "tag": session_id, **body}
        return (await self._ask("POST", "/cli/sessions", _Session, whole)).session

    async def session(self, session_id: str) -> incoming.SessionRow:
        """The session as it is stored."""
        return (await self._ask("GET", f"/cli/sessions/{session_id}", _Session)).session

    async def messages_after(self, session_id: str, seq: int) -> list[incoming.ChatRow]:
        """The chat's rows behind `seq`, ascending; at most MAX_PAGES pages."""
        rows: list[incoming.ChatRow] = []
        for _ in range(MAX_PAGES):
            path = f"/cli/sessions/{session_id}/messages?afterSeq={seq}&limit={PAGE}"
            page = (await self._ask("GET", path, _Messages)).messages
            rows += page
            if len(page) < PAGE:
                break
            seq = page[-1].seq
        return rows

    async def _ask(self, verb: str, path: str, kind: type[_T], body: Any = None) -> _T:
        headers = {**self._site.headers, "Authorization": f"Bearer {self._site.token}"}
        data = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = msgspec.json.encode(body)
        try:
            async with self._site.http.request(
                verb, self._site.url + path, data=data, headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S)
            ) as response:
                content = await response.read()
                version = response.headers.get("X-Hapi-Protocol-Version")
                status = response.status
                self._clock.heard(response.headers.get("Date"))
        except TimeoutError:
            raise HubProblem(f"The hub did not answer within {TIMEOUT_S:g} s.") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise HubProblem(f"The hub cannot be reached: {error}") from None
        return _result(status, version, content, kind)


def _result(status: int, version: str | None, content: bytes, kind: type[_T]) -> _T:
    if version is None:
        raise HubProblem(f"That address does not answer as a hapi hub (HTTP {status}).")
    if status != 200:
        problem = _ERRORS.get(status, HubProblem)
        raise problem(f"The hub answered HTTP {status}: {_reason(content)}{_other(version)}")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise HubProblem(f"The hub's answer makes no sense to us: {error}{_other(version)}") from None


def _reason(content: bytes) -> str:
    try:
        value = msgspec.json.decode(content)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return "no reason given"
    return str(value.get("error", "no reason given")) if isinstance(value, dict) else "no reason given"


def _other(version: str) -> str:
    return "" if version == PROTOCOL_VERSION else f" (hub protocol {version}, ours {PROTOCOL_VERSION})"
