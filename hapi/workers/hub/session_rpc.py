"""What the hub may ask of a session (§5.10); about its files: `directory_rpc`."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Protocol

from hapi import wire
from hapi.crashpoints import crash_point
from hapi.errors import HapiError
from hapi.workers.hub import models, params, switching
from hapi.workers.hub.context import Context
from hapi.workers.hub.directory_rpc import DirectoryRpc
from hapi.workers.hub.door import NoAnswer
from hapi.workers.hub.generated_images import GeneratedImages
from hapi.workers.hub.rpc import Rpc
from hapi.workers.hub.skills import Skills
from hapi.workers.hub.stopping import stop_session

REQUEST_TIMEOUT_S = 20.0

_log = logging.getLogger("hapi.hub")


class Subject(Protocol):
    """The session that the methods are about; a SessionLink."""

    def snapshot(self) -> wire.Snapshot:
        """Its newest state."""

    def expect_handoff(self, *, expected: bool) -> None:
        """Whether its end, if it comes now, is a handoff."""

    async def say_end(self) -> bool:
        """Tell the hub that it is gone; whether the hub knows."""

    async def remark(self, words: str) -> None:
        """Say something in the chat that is an error to people, if there is a connection."""


class SessionRpc:
    """The session's methods."""

    def __init__(self, context: Context, session_id: str, subject: Subject) -> None:
        self._context = context
        self._session_id = session_id
        self._subject = subject
        self._switching: asyncio.Task[None] | None = None

    def methods(self) -> dict[str, Rpc]:
        """Name → handler."""
        return {
            "killSession": self._kill,
            "permission": self._permission,
            "abort": self._abort,
            "switch": self._switch,
            "set-session-config": self._configure,
            "handoff-local": self._hand_off,
            "fork-conversation": self._fork,
            "listSlashCommands": self._slash_commands,
            **dict.fromkeys(("listOpencodeModels", "listGrokModels", "listCopilotModels"), self._models),
            **dict.fromkeys(("listCursorModels", "listPiModels"), self._models),
            "listCodexModels": self._codex_models,
            **DirectoryRpc(self._context, self._session_id, lambda: self._subject.snapshot().info.directory).methods(),
            **dict.fromkeys(("listOpencodeReasoningEffortOptions", "listGrokReasoningEffortOptions"), self._efforts),
            "steer-queued-message": self._steer,
            **GeneratedImages(self._context, self._session_id).methods(),
            **Skills(self._context, lambda: self._subject.snapshot().info).methods(),
        }

    async def _kill(self, _: Any) -> Any:
        """Any answer at all counts as success at the hub, so there is none before the session is proven gone."""
        stopped = await stop_session(self._context, self._session_id)
        crash_point("connector.stop.gone")
        if stopped is None or stopped.status == "still_alive" or not await self._subject.say_end():
            self._context.counters["kills_unanswered"] += 1
            raise NoAnswer
        return {"success": True, "message": f"Session {stopped.status.replace('_', ' ')}"}

    async def _hand_off(self, _: Any) -> Any:
        self._subject.expect_handoff(expected=True)
        stopped = await stop_session(self._context, self._session_id, handoff=True)
        if stopped is None or stopped.status == "still_alive" or not await self._subject.say_end():
            self._subject.expect_handoff(expected=False)
            return {"error": "The session could not be stopped."}
        return {"ok": True}

    async def _fork(self, raw: Any) -> Any:
        """The hub makes a session of the copy; one that ends before some message is nothing that ACP offers."""
        if isinstance(raw, dict) and raw.get("messageLocalId"):
            return {"error": "This agent can only copy the whole conversation."}
        reply = await self._ask(wire.ForkConversation())
        return {"nativeSessionId": reply.native_id} if isinstance(reply, wire.Forked) else {"error": "Not copied."}

    async def _permission(self, raw: Any) -> Any:
        await self._ask(params.permission(raw))
        crash_point("connector.permission.answered")
        return {"ok": True}

    async def _abort(self, _: Any) -> Any:
        await self._ask(wire.AbortTurn())
        return {"ok": True}

    async def _switch(self, _: Any) -> Any:
        """To the hub "remote" is the chat. Nobody reads this answer: what does not work is told in the chat."""
        info = self._subject.snapshot().info
        if info.driver == "pty" and (self._switching is None or self._switching.done()):
            self._switching = self._context.start(self._switch_to_chat(info), "switch to chat")
        return {"ok": True}

    async def _switch_to_chat(self, info: wire.SessionInfo) -> None:
        try:
            await switching.to_chat(self._context, info)
        except HapiError as error:
            _log.warning("session %s does not go on as a chat: %s", self._session_id, error.words)
            await self._subject.remark(f"This session does not go on as a chat: {error.words}")

    async def _steer(self, _: Any) -> Any:
        """ACP has no way to add to a running turn; the message stays in the queue and runs next."""
        return {"steered": False, "error": "This agent takes messages between turns only; it stays queued."}

    async def _configure(self, raw: Any) -> Any:
        reply = await self._ask(params.configure(raw))
        return params.applied(raw, reply) if isinstance(reply, wire.Configured) else {"error": "Not applied."}

    async def _slash_commands(self, _: Any) -> Any:
        found = self._subject.snapshot().commands
        commands = [{"name": c.name, "description": c.description or "", "source": "builtin"} for c in found]
        return {"success": True, "commands": commands}

    async def _models(self, _: Any) -> Any:
        return models.listing(self._choosable())

    async def _codex_models(self, _: Any) -> Any:
        return models.codex(self._choosable())

    async def _efforts(self, _: Any) -> Any:
        return models.efforts(self._choosable())

    def _choosable(self) -> models.Choosable:
        snapshot = self._subject.snapshot()
        info = snapshot.info
        return models.Choosable(info.agent, snapshot.models, info.model, snapshot.efforts, info.effort)

    async def _ask(self, body: Any) -> Any:
        return await self._context.bus.request(wire.session_peer(self._session_id), body, REQUEST_TIMEOUT_S)
