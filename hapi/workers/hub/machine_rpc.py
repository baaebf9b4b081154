"""What the hub may ask of the machine (§4.6): spawn, stop, look around."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import msgspec

from hapi import wire
from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub import browse, cursor_store, params
from hapi.workers.hub.context import Context
from hapi.workers.hub.machine import Machine
from hapi.workers.hub.model_lists import ModelLists
from hapi.workers.hub.rpc import Rpc
from hapi.workers.hub.sessions import Sessions

SPAWN_TIMEOUT_S = 27.0  # `rpc` ends all at 29 s, and the hub may take a second to know the session
STOP_TIMEOUT_S = 20.0
STOP_RUNNER_TIMEOUT_S = 5.0
TOO_SLOW = "The session was not ready in time, and the web was told that it failed; it was stopped."
NOT_SHOWN = "The session started, but did not reach the hub in time; it was stopped."

_log = logging.getLogger("hapi.hub")


class _Paths(msgspec.Struct):
    paths: list[str]


class _Listing(msgspec.Struct, rename="camel"):
    path: str
    include_hidden: bool = False


class _Chat(msgspec.Struct, rename="camel"):
    cursor_session_id: str


class _SessionParams(msgspec.Struct, rename="camel"):
    session_id: str


class MachineRpc:
    """The machine's methods."""

    def __init__(self, context: Context, machine: Machine, sessions: Sessions) -> None:
        self._context = context
        self._machine = machine
        self._sessions = sessions

    def methods(self) -> dict[str, Rpc]:
        """Name → handler."""
        return {
            "spawn-happy-session": self._spawn,
            "stop-session": self._stop_session,
            "stop-runner": self._stop_runner,
            "agent-availability": self._availability,
            "path-exists": self._path_exists,
            "list-directory": self._list_directory,
            **ModelLists(self._context).methods(),
            "cursor-chat-store-status": self._cursor_store,
        }

    async def _spawn(self, raw: Any) -> Any:
        try:
            session_id = await self._start(params.spawn(raw))
        except (HapiError, msgspec.ValidationError) as error:
            failed = error if isinstance(error, HapiError) else _malformed(error)
            self._machine.spawn_failed(failed)
            self._context.counters["spawns_failed"] += 1
            return spawn_error(failed, raw)
        self._machine.spawn_succeeded()
        self._context.counters["spawns"] += 1
        return {"type": "success", "sessionId": session_id}

    async def _start(self, order: wire.Spawn) -> str:
        roots = self._context.runner.workspace_roots
        await asyncio.to_thread(browse.confine, order.directory, roots)
        deadline = monotonic() + SPAWN_TIMEOUT_S
        try:
            reply = await self._context.bus.request(wire.BROKER, order, SPAWN_TIMEOUT_S)
        except HapiError as error:
            if error.code is ErrorCode.TIMEOUT:
                self._context.start(self._kill_late(order.session_id, TOO_SLOW), "late spawn")
            raise
        if not isinstance(reply, wire.Spawned):
            raise HapiError(ErrorCode.INTERNAL, "The runner gave no sensible answer to the spawn.")
        session_id = reply.info.session_id
        if not await self._sessions.established(session_id, max(1.0, deadline - monotonic())):
            if reply.existing:  # it lives, and is not ours to stop for that
                raise HapiError(ErrorCode.TIMEOUT, "The session runs, but did not reach the hub in time.")
            self._context.start(self._kill_late(session_id, NOT_SHOWN), "late spawn")
            raise HapiError(ErrorCode.TIMEOUT, NOT_SHOWN)
        return session_id

    async def _kill_late(self, session_id: str, why: str) -> None:
        """The web was told that the spawn failed: a session that comes up now would be a ghost."""
        order = wire.StopSession(session_id, by="hub", why=why)
        try:
            await self._context.bus.request(wire.BROKER, order, STOP_TIMEOUT_S)
        except HapiError as error:
            _log.error("the late session %s was not stopped: %s", session_id, error.message)

    async def _stop_session(self, raw: Any) -> Any:
        session_id = msgspec.convert(raw, _SessionParams).session_id
        order = wire.StopSession(session_id, by="hub")
        try:
            reply = await self._context.bus.request(wire.BROKER, order, STOP_TIMEOUT_S)
        except HapiError as error:
            gone = error.code in {ErrorCode.UNKNOWN_SESSION, ErrorCode.SESSION_ENDED}
            return {"status": "already_gone" if gone else "still_alive"}
        return {"status": reply.status if isinstance(reply, wire.SessionStopped) else "still_alive"}

    async def _stop_runner(self, _: Any) -> Any:
        """The broker shuts us down before it could answer, so the order is sent and not waited for."""
        self._context.start(self._order_stop(), "stop runner")
        return {"message": "The runner stops; its sessions live on."}

    async def _order_stop(self) -> None:
        try:
            await self._context.bus.request(wire.BROKER, wire.StopRunner("hapi-app"), STOP_RUNNER_TIMEOUT_S)
        except HapiError as error:
            _log.warning("the runner did not confirm that it stops: %s", error.message)

    async def _availability(self, _: Any) -> Any:
        from hapi.agents.table import availability

        found = await asyncio.to_thread(availability, self._context.config)
        return {"agents": [_agent(flavor, available, reason) for flavor, available, reason in found]}

    async def _path_exists(self, raw: Any) -> Any:
        paths = msgspec.convert(raw, _Paths).paths
        return await asyncio.to_thread(browse.path_exists, paths, self._context.runner.workspace_roots)

    async def _list_directory(self, raw: Any) -> Any:
        asked = msgspec.convert(raw, _Listing)
        roots = self._context.runner.workspace_roots
        return await asyncio.to_thread(browse.list_directory, asked.path, roots, hidden=asked.include_hidden)

    async def _cursor_store(self, raw: Any) -> Any:
        """Whatever home the hub names: this machine's chats lie in the runner's own."""
        chat = msgspec.convert(raw, _Chat).cursor_session_id
        return await asyncio.to_thread(cursor_store.status, Path(self._context.host.home), chat)


def _malformed(error: msgspec.ValidationError) -> HapiError:
    return HapiError(ErrorCode.BAD_REQUEST, f"The hub's order to start a session makes no sense to us: {error}")


def spawn_error(error: HapiError, raw: Any) -> dict[str, Any]:
    """A failed spawn in the hub's words."""
    if error.code is ErrorCode.DIRECTORY_APPROVAL_REQUIRED:
        return {"type": "requestToApproveDirectoryCreation", "directory": raw.get("directory", "")}
    message = error.words
    answer = {"type": "error", "errorMessage": message}
    if error.code is ErrorCode.AGENT_UNAVAILABLE:
        return {**answer, "code": "agent_unavailable", "agent": raw.get("agent", "claude")}
    if error.code is ErrorCode.OUTSIDE_WORKSPACE_ROOTS:
        return {**answer, "code": "outside_workspace_roots"}
    return answer


def _agent(flavor: str, available: bool, reason: str | None) -> dict[str, Any]:  # noqa: FBT001 - a row of a table
    entry = {"agent": flavor, "available": available}
    return entry if reason is None else {**entry, "reason": reason}
