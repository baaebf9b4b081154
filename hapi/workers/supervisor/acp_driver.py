"""Drives an agent over ACP: strict in what we send, tolerant in what we take.

The connection has no time-outs: every call here has one, or ends with the agent's process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, TypeVar

import msgspec

import hapi
from hapi.agents.offers import MODE, Offers
from hapi.errors import ErrorCode, HapiError
from hapi.workers.supervisor.acp_connection import METHOD_NOT_FOUND, AgentConnection, RequestRefused
from hapi.workers.supervisor.acp_transport import AgentTransport
from hapi.workers.supervisor.piped_agent import PipedAgent

CALL_TIMEOUT_S = 10.0
EXIT_GRACE_S = 2.0
PROTOCOL_VERSION = 1
_CAN_DO: dict[str, Any] = {
    "fs": {"readTextFile": False, "writeTextFile": False},
    "terminal": False,
    "auth": {"terminal": False},
    "elicitation": {"form": {}},
}
_QUESTIONS = ("session/request_permission", "elicitation/create")

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


class Opened(msgspec.Struct):
    """An open conversation: the agent's own id for it, whether it is an old one, and what can be chosen in it."""

    native_id: str
    resumed: bool
    offers: Offers


class AcpDriver:
    """One ACP conversation with one agent process. `closed`: the agent does not listen or speak any more."""

    def __init__(
        self,
        agent: PipedAgent,
        on_update: Callable[[dict[str, Any]], None],
        on_permission: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
    ) -> None:
        self._agent = agent
        self._on_update = on_update
        self.transport = AgentTransport(agent.reader, agent.writer, self._updated)
        self._connection = AgentConnection(self.transport, dict.fromkeys(_QUESTIONS, on_permission))
        self.closed = False
        self.offers = Offers()
        self.takes: dict[str, Any] = {}  # the agent's promptCapabilities
        self._native_id = ""
        self._missing: set[str] = set()
        self._capabilities: dict[str, Any] = {}

    @property
    def ended(self) -> bool:
        """Whether the agent's process is gone."""
        return self._agent.exit is not None

    async def open(self, directory: str, resume: str | None, timeout_s: float) -> Opened:
        """Initialize, then load the conversation `resume` or begin a new one.

        Raises HapiError: agent_timeout, or agent_failed with the agent's words, its exit and its last words.
        """
        try:
            async with asyncio.timeout(timeout_s):
                opened = await self._or_exit(self._open(directory, resume))
        except TimeoutError:
            message = f"The agent was not ready within {timeout_s:g} s."
            raise HapiError(ErrorCode.AGENT_TIMEOUT, message, await self._last_words(0)) from None
        return opened

    async def prompt(self, blocks: list[dict[str, Any]], on_sent: Callable[[], None]) -> dict[str, Any]:
        """Run one turn and return the agent's answer; takes as long as it takes.

        `on_sent` is called when the agent's pipe has the prompt. Raises HapiError(agent_failed) with the agent's words
        when it refuses, or when its process ends.
        """
        self.transport.on_prompt_sent = on_sent
        params = {"sessionId": self._native_id, "prompt": blocks}
        return await self._or_exit(self._request("session/prompt", params))

    async def cancel(self) -> None:
        """Ask the agent to end the running turn; its prompt then answers `cancelled`."""
        await self._connection.notify("session/cancel", {"sessionId": self._native_id})

    async def set_mode(self, mode: str, patience_s: float = CALL_TIMEOUT_S) -> bool:
        """Switch the agent to a mode of its own; False when it has no way to. Raises HapiError as `set_option` does."""
        if self.offers.modes or self.offers.find(MODE) is None:
            params = {"sessionId": self._native_id, "modeId": mode}
            if not await self._try("session/set_mode", params, patience_s):
                return False
            self.offers.mode = mode
            return True
        return await self.set_option((MODE,), mode, patience_s)

    async def set_model(self, model: str, option: str, patience_s: float = CALL_TIMEOUT_S) -> bool:
        """Switch the agent's model; False when it has no way to. Raises HapiError as `set_option` does."""
        if await self.set_option((option,), model, patience_s):
            return True
        if not await self._try("session/set_model", {"sessionId": self._native_id, "modelId": model}, patience_s):
            return False
        self.offers.model = model
        return True

    async def set_option(self, names: Sequence[str], value: str, patience_s: float = CALL_TIMEOUT_S) -> bool:
        """Set the config option of one of these categories or ids; False when the agent offers none.

        Raises HapiError: agent_failed in the agent's words when it refuses, agent_timeout after `patience_s`.
        """
        option = self.offers.find(*names)
        if option is None:
            return False
        params = {"sessionId": self._native_id, "configId": option.id, "value": value}
        answer = await self._call("session/set_config_option", params, patience_s)
        self.offers.take_options(answer.get("configOptions"))
        return True

    @property
    def can_fork(self) -> bool:
        """Whether the agent can copy its conversation."""
        return self._can("fork")

    async def fork(self, directory: str) -> str:
        """Copy the conversation as it stands; the copy's id. Raises HapiError: agent_failed, agent_timeout."""
        params = {"sessionId": self._native_id, "cwd": directory, "mcpServers": []}
        self.transport.only = self._native_id  # what is said in the copy is not said here
        native_id = (await self._call("session/fork", params, CALL_TIMEOUT_S)).get("sessionId")
        if not isinstance(native_id, str) or native_id in {"", self._native_id}:
            raise HapiError(ErrorCode.AGENT_FAILED, "The agent copied its conversation without giving the copy an id.")
        return native_id

    async def close(self) -> None:
        """End the connection's tasks, and log what was passed over; the agent's process must have ended before."""
        await self._connection.close()
        if self.transport.counters:
            counts = self.transport.counters.items()
            logger.info(
                "passed over of what the agent said: %s", ", ".join(f"{name} {count}" for name, count in counts)
            )

    def _updated(self, update: dict[str, Any]) -> None:
        self.offers.take_update(update)
        self._on_update(update)

    async def _open(self, directory: str, resume: str | None) -> Opened:
        request = {
            "protocolVersion": PROTOCOL_VERSION,
            "clientCapabilities": _CAN_DO,
            "clientInfo": {"name": "hapi", "version": hapi.__version__},
        }
        answer = await self._request("initialize", request)
        self._capabilities = _object(answer.get("agentCapabilities"))
        self.takes = _object(self._capabilities.get("promptCapabilities"))
        how = self._way_to_resume()
        if resume and how is not None:
            params = {"sessionId": resume, "cwd": directory, "mcpServers": []}
            try:
                return self._read(await self._request(how, params), resume, resumed=True)
            except HapiError as error:
                logger.warning("resume of %s failed, beginning anew: %s", resume, error.message)
        answer = await self._request("session/new", {"cwd": directory, "mcpServers": []})
        native_id = answer.get("sessionId")
        if not isinstance(native_id, str) or not native_id:
            raise HapiError(ErrorCode.AGENT_FAILED, "The agent opened a conversation without an id.")
        return self._read(answer, native_id, resumed=False)

    def _way_to_resume(self) -> str | None:
        """How the agent takes up an old conversation: with its history told again, which is dropped, or without."""
        if self._capabilities.get("loadSession"):
            return "session/load"
        return "session/resume" if self._can("resume") else None

    def _can(self, what: str) -> bool:
        """Whether the agent announces that capability of its sessions (ACP: an object, empty or not)."""
        session = self._capabilities.get("sessionCapabilities")
        return isinstance(session, dict) and session.get(what) not in (None, False)

    def _read(self, answer: dict[str, Any], native_id: str, *, resumed: bool) -> Opened:
        self._native_id = native_id
        self.offers = Offers(answer)
        return Opened(native_id, resumed, self.offers)

    async def _try(self, method: str, params: dict[str, Any], patience_s: float) -> bool:
        """Call a method that not every agent has; False when this one does not, and it is not asked again."""
        if method in self._missing:
            return False
        try:
            answer = await self._call(method, params, patience_s)
        except HapiError as error:
            if error.hint != str(METHOD_NOT_FOUND):
                raise
            self._missing.add(method)
            return False
        self.offers.take_options(answer.get("configOptions"))
        return True

    async def _call(self, method: str, params: dict[str, Any], patience_s: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout(patience_s):
                return await self._or_exit(self._request(method, params))
        except TimeoutError:
            raise HapiError(ErrorCode.AGENT_TIMEOUT, f"The agent does not answer {method}.") from None

    async def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = await self._connection.request(method, params)
        except RequestRefused as error:
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
        said = [await self._agent.tail(wait_s)]
        if self.transport.first_garbage:
            said.append(f"It printed, instead of a message: {self.transport.first_garbage}")
        return "\n".join(said).strip() or "It said nothing. Run it by hand to see why."


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _words(error: RequestRefused) -> str:
    details = error.data.get("details") or error.data.get("message") if isinstance(error.data, dict) else error.data
    return f"{error}: {details}" if details and str(details) not in str(error) else str(error)
