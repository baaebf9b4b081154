"""Drives an agent over ACP with the `agent-client-protocol` SDK: strict in what we send, tolerant in what we take.

The SDK has no time-outs: every call here has one, or ends with the agent's process. It is imported late by design
(half a second of pydantic): the nursery loads this module when nobody waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

import msgspec
from acp.connection import Connection
from acp.exceptions import RequestError
from acp.meta import AGENT_METHODS, CLIENT_METHODS, PROTOCOL_VERSION
from acp.schema import ClientCapabilities, Implementation, InitializeRequest, NewSessionRequest

import hapi
from hapi.errors import ErrorCode, HapiError
from hapi.wire import Choice
from hapi.workers.supervisor.acp_transport import AgentTransport
from hapi.workers.supervisor.agent_process import AgentProcess

CALL_TIMEOUT_S = 10.0
EXIT_GRACE_S = 2.0
_METHOD_NOT_FOUND = -32601

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Opened(msgspec.Struct):
    """An open conversation: the agent's own id for it, and what can be chosen in it."""

    native_id: str
    resumed: bool
    mode: str | None = None
    modes: list[Choice] = []
    model: str | None = None
    models: list[Choice] = []
    options: list[Any] = []


class AcpDriver:
    """One ACP conversation with one agent process. `closed`: the agent does not listen or speak any more."""

    def __init__(
        self,
        agent: AgentProcess,
        on_update: Callable[[dict[str, Any]], None],
        on_permission: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
    ) -> None:
        self._agent = agent
        self._on_permission = on_permission
        self.transport = AgentTransport(agent.reader, agent.writer, on_update)
        self._connection = Connection(self._handle, self.transport)
        self.closed = False
        self._native_id = ""
        self._opened: Opened | None = None
        self._capabilities: dict[str, Any] = {}

    async def open(self, directory: str, resume: str | None, timeout_s: float) -> Opened:
        """Initialize, then load the conversation `resume` or begin a new one.

        Raises HapiError: agent_timeout, or agent_failed with the agent's words, its exit and its last words.
        """
        try:
            async with asyncio.timeout(timeout_s):
                self._opened = await self._or_exit(self._open(directory, resume))
        except TimeoutError:
            message = f"The agent was not ready within {timeout_s:g} s."
            raise HapiError(ErrorCode.AGENT_TIMEOUT, message, await self._last_words(0)) from None
        return self._opened

    async def prompt(self, blocks: list[dict[str, Any]], on_sent: Callable[[], None]) -> dict[str, Any]:
        """Run one turn and return the agent's answer; takes as long as it takes.

        `on_sent` is called when the agent's pipe has the prompt. Raises HapiError(agent_failed) with the agent's words
        when it refuses, or when its process ends.
        """
        self.transport.on_prompt_sent = on_sent
        params = {"sessionId": self._native_id, "prompt": blocks}
        return await self._or_exit(self._request(AGENT_METHODS["session_prompt"], params))

    async def cancel(self) -> None:
        """Ask the agent to end the running turn; its prompt then answers `cancelled`."""
        await self._connection.send_notification(AGENT_METHODS["session_cancel"], {"sessionId": self._native_id})

    async def set_mode(self, mode: str) -> bool:
        """Switch the agent's mode; False when it has no such mode of its own."""
        opened = self._opened
        if opened is None or mode not in {choice.value for choice in opened.modes}:
            return await self._set_option("mode", mode)
        await self._call(AGENT_METHODS["session_set_mode"], {"sessionId": self._native_id, "modeId": mode})
        return True

    async def set_model(self, model: str, option: str) -> bool:
        """Switch the agent's model; False when it offers no way to. Raises HapiError(agent_failed) on refusal."""
        if await self._set_option(option, model):
            return True
        return await self._try("session/set_model", {"sessionId": self._native_id, "modelId": model})

    async def set_effort(self, effort: str, option: str) -> bool:
        """Switch how hard the agent thinks; False when it offers no way to."""
        return await self._set_option(option, effort)

    @property
    def can_fork(self) -> bool:
        """Whether the agent can copy its conversation."""
        return self._can("fork")

    async def fork(self, directory: str) -> str:
        """Copy the conversation as it stands; the copy's id. Raises HapiError: agent_failed, agent_timeout."""
        params = {"sessionId": self._native_id, "cwd": directory, "mcpServers": []}
        self.transport.only = self._native_id  # what is said in the copy is not said here
        native_id = (await self._call(AGENT_METHODS["session_fork"], params)).get("sessionId")
        if not isinstance(native_id, str) or native_id in {"", self._native_id}:
            raise HapiError(ErrorCode.AGENT_FAILED, "The agent copied its conversation without giving the copy an id.")
        return native_id

    async def close(self) -> None:
        """End the SDK's tasks. The agent's process must have ended before: its pipes are awaited."""
        await self._connection.close()

    async def _open(self, directory: str, resume: str | None) -> Opened:
        request = InitializeRequest(
            protocol_version=PROTOCOL_VERSION,
            client_capabilities=ClientCapabilities(),
            client_info=Implementation(name="hapi", version=hapi.__version__),
        )
        answer = await self._request(AGENT_METHODS["initialize"], _dump(request))
        self._capabilities = answer.get("agentCapabilities") or {}
        how = self._way_to_resume()
        if resume and how is not None:
            params = {"sessionId": resume, "cwd": directory, "mcpServers": []}
            try:
                return self._read(await self._request(AGENT_METHODS[how], params), resume, resumed=True)
            except HapiError as error:
                logger.warning("resume of %s failed, beginning anew: %s", resume, error.message)
        new = NewSessionRequest(cwd=directory, mcp_servers=[])
        answer = await self._request(AGENT_METHODS["session_new"], _dump(new))
        native_id = answer.get("sessionId")
        if not isinstance(native_id, str) or not native_id:
            raise HapiError(ErrorCode.AGENT_FAILED, "The agent opened a conversation without an id.")
        return self._read(answer, native_id, resumed=False)

    def _way_to_resume(self) -> str | None:
        """How the agent takes up an old conversation: with its history told again, which is dropped, or without."""
        if self._capabilities.get("loadSession"):
            return "session_load"
        return "session_resume" if self._can("resume") else None

    def _can(self, what: str) -> bool:
        """Whether the agent announces that capability of its sessions (ACP: an object, empty or not)."""
        session = self._capabilities.get("sessionCapabilities")
        return isinstance(session, dict) and session.get(what) not in (None, False)

    def _read(self, answer: dict[str, Any], native_id: str, *, resumed: bool) -> Opened:
        self._native_id = native_id
        modes = answer.get("modes") or {}
        models = answer.get("models") or {}
        options = answer.get("configOptions") or []
        return Opened(
            native_id,
            resumed,
            mode=modes.get("currentModeId"),
            modes=_choices(modes.get("availableModes"), "id"),
            model=models.get("currentModelId") or _current(options, "model"),
            models=_choices(models.get("availableModels"), "modelId") or _option_choices(options, "model"),
            options=options,
        )

    async def _set_option(self, category: str, value: str) -> bool:
        for option in self._opened.options if self._opened is not None else ():
            if isinstance(option, dict) and category in {option.get("category"), option.get("id")}:
                params = {"sessionId": self._native_id, "configId": option["id"], "value": value}
                answer = await self._call(AGENT_METHODS["session_set_config_option"], params)
                if self._opened is not None and answer.get("configOptions"):
                    self._opened.options = answer["configOptions"]
                return True
        return False

    async def _try(self, method: str, params: dict[str, Any]) -> bool:
        try:
            await self._call(method, params)
        except HapiError as error:
            if error.hint == str(_METHOD_NOT_FOUND):
                return False
            raise
        return True

    async def _call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                return await self._or_exit(self._request(method, params))
        except TimeoutError:
            raise HapiError(ErrorCode.AGENT_TIMEOUT, f"The agent does not answer {method}.") from None

    async def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = await self._connection.send_request(method, params)
        except RequestError as error:
            raise HapiError(ErrorCode.AGENT_FAILED, _words(error), str(error.code)) from None
        except OSError as error:
            self.closed = True
            with contextlib.suppress(TimeoutError):  # its end shows here first, mostly; how it ended is what counts
                await asyncio.wait_for(self._agent.exited(), EXIT_GRACE_S)
            raise HapiError(ErrorCode.AGENT_FAILED, f"The agent's pipes are closed: {error}") from None
        return answer if isinstance(answer, dict) else {}

    async def _or_exit(self, call: Coroutine[Any, Any, _T]) -> _T:
        """The call's result, or HapiError(agent_failed) as soon as the agent's process ends."""
        work = asyncio.ensure_future(call)
        end = asyncio.ensure_future(self._agent.exited())
        try:
            await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
            if work.done() and (not end.done() or work.exception() is None):
                return work.result()
            how = (await self._agent.exited()).words()
            raise HapiError(ErrorCode.AGENT_FAILED, f"The agent ended: {how}.", await self._last_words())
        finally:
            for task in (work, end):
                task.cancel()
            await asyncio.gather(work, end, return_exceptions=True)

    async def _last_words(self, wait_s: float = 0.2) -> str:
        """The end of the agent's stderr, and the first line on stdout that was no message: often that says it all."""
        said = [await self._agent.stderr_tail(wait_s)]
        if self.transport.first_garbage:
            said.append(f"It printed, instead of a message: {self.transport.first_garbage}")
        return "\n".join(said).strip() or "It said nothing. Run it by hand to see why."

    async def _handle(self, method: str, params: Any, is_notification: bool) -> Any:  # noqa: FBT001 - the SDK's call
        if method == CLIENT_METHODS["session_request_permission"] and isinstance(params, dict):
            return await self._on_permission(params)
        if is_notification:
            self.transport.counters[f"unknown {method}"] += 1
            return None
        raise RequestError.method_not_found(method)


def _dump(model: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped


def _words(error: RequestError) -> str:
    details = error.data.get("details") or error.data.get("message") if isinstance(error.data, dict) else error.data
    return f"{error}: {details}" if details and str(details) not in str(error) else str(error)


def _choices(found: Any, key: str) -> list[Choice]:
    items = [item for item in found if isinstance(item, dict) and item.get(key)] if isinstance(found, list) else []
    return [Choice(str(i[key]), str(i.get("name") or i[key]), i.get("description")) for i in items]


def _current(options: Any, category: str) -> str | None:
    for option in options if isinstance(options, list) else ():
        if isinstance(option, dict) and category in {option.get("category"), option.get("id")}:
            value = option.get("currentValue")
            return value if isinstance(value, str) else None
    return None


def _option_choices(options: Any, category: str) -> list[Choice]:
    for option in options if isinstance(options, list) else ():
        if isinstance(option, dict) and category in {option.get("category"), option.get("id")}:
            return _choices(option.get("options"), "value")
    return []
