"""JSON-RPC 2.0 with an agent, as much of it as ACP needs: our requests and notifications, and the agent's requests.

Written for this: the ACP SDK's connection would bring its models (pydantic) into every session's memory. Tests hold what
we send against those models.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from hapi.workers.supervisor.acp_transport import AgentTransport

METHOD_NOT_FOUND = -32601
INTERNAL_ERROR = -32603
MAX_ANSWERING = 200  # requests of the agent that are being answered; more are not read meanwhile
ANSWERING_PATIENCE_S = 5.0

Methods = dict[str, Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]]

logger = logging.getLogger(__name__)


class RequestRefused(Exception):
    """The agent answered a request with an error: its code, its words, and what it adds to them."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class AgentConnection:
    """Requests and notifications over an agent's pipes; reads from the first moment on. Needs a running loop.

    `methods` is what the agent may ask of us; each request runs as a task of its own, at most MAX_ANSWERING at a time:
    one more is refused after ANSWERING_PATIENCE_S. What else it sends is counted in the transport's counters.
    Time-outs are the caller's.
    """

    def __init__(self, transport: AgentTransport, methods: Methods) -> None:
        self._transport = transport
        self._methods = methods
        self._last_id = -1
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._slots = asyncio.Semaphore(MAX_ANSWERING)
        self._answering: set[asyncio.Task[None]] = set()
        self._refusing: asyncio.Task[None] | None = None
        self._closed = False
        self._reading = asyncio.get_running_loop().create_task(self._read(), name="agent")

    async def request(self, method: str, params: dict[str, Any]) -> Any:
        """The agent's answer, however long it takes. Cancel it to stop waiting; a late answer is then passed over.

        Raises RequestRefused with the agent's words, and OSError when its pipes are closed, now or before it answers.
        """
        self._raise_if_closed()
        self._last_id += 1
        number = self._last_id
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        try:
            await self._transport.send({"jsonrpc": "2.0", "id": number, "method": method, "params": params})
            return await answer
        finally:
            del self._waiting[number]
            if answer.done() and not answer.cancelled():
                answer.exception()  # it failed while we could not send: heard

    async def notify(self, method: str, params: dict[str, Any]) -> None:
        """Tell the agent something that it does not answer. Raises OSError when its pipes are closed."""
        self._raise_if_closed()
        await self._transport.send({"jsonrpc": "2.0", "method": method, "params": params})

    async def close(self) -> None:
        """End all that goes on: who waits for an answer gets OSError, the agent's questions are dropped. Never raises."""
        self._end()
        tasks = [self._reading, *self._answering, *filter(None, [self._refusing])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise ConnectionError("Connection closed")

    async def _read(self) -> None:
        try:
            while (message := await self._transport.receive()) is not None:
                await self._take(message)
        except Exception:
            logger.exception("reading from the agent failed")
        finally:
            self._end()

    def _end(self) -> None:
        self._closed = True
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ConnectionError("Connection closed"))

    async def _take(self, message: dict[str, Any]) -> None:
        if message.get("method") is None:
            self._settle(message)
        elif "id" in message:
            await self._start_answering(message)
        else:
            self._transport.counters["unknown_notifications"] += 1

    def _settle(self, message: dict[str, Any]) -> None:
        number = _whole(message.get("id"))
        answer = None if number is None else self._waiting.get(number)
        if answer is None or answer.done():
            self._transport.counters["answers_to_nothing"] += 1
        elif message.get("error") is None:
            answer.set_result(message.get("result"))
        else:
            answer.set_exception(_refused(message["error"]))

    async def _start_answering(self, message: dict[str, Any]) -> None:
        """Answer a request of the agent's. One that asks without reading our answers is waited for, but not for ever."""
        try:
            async with asyncio.timeout(ANSWERING_PATIENCE_S):
                await self._slots.acquire()
        except TimeoutError:
            self._refuse(message)
            return
        task = asyncio.get_running_loop().create_task(self._answer(message))
        self._answering.add(task)
        task.add_done_callback(self._answered)

    def _answered(self, task: asyncio.Task[None]) -> None:
        self._answering.discard(task)
        self._slots.release()

    def _refuse(self, message: dict[str, Any]) -> None:
        """Answer that it is one too many; not even that while the agent has not read the last such answer."""
        self._transport.counters["requests_refused"] += 1
        if self._refusing is None or self._refusing.done():
            refusal = _error(INTERNAL_ERROR, "Too many requests at a time", {"limit": MAX_ANSWERING})
            self._refusing = asyncio.get_running_loop().create_task(self._say(message, refusal))

    async def _answer(self, message: dict[str, Any]) -> None:
        await self._say(message, await self._outcome(message))

    async def _say(self, message: dict[str, Any], outcome: dict[str, Any]) -> None:
        answer = {"jsonrpc": "2.0", "id": message["id"], **outcome}
        try:
            await self._transport.send(answer)
        except OSError as error:
            logger.warning("the agent cannot be answered: %s", error)

    async def _outcome(self, message: dict[str, Any]) -> dict[str, Any]:
        name, params = message["method"], message.get("params")
        method = self._methods.get(name) if isinstance(name, str) else None
        if method is None or not isinstance(params, dict):
            return _error(METHOD_NOT_FOUND, "Method not found", {"method": name})
        try:
            return {"result": await method(params)}
        except Exception as error:  # a question that trips us must not cost the agent its answer
            logger.exception("cannot answer %s", name)
            return _error(INTERNAL_ERROR, "Internal error", {"details": str(error)})


def _error(code: int, message: str, data: dict[str, Any]) -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "data": data}}


def _refused(error: Any) -> RequestRefused:
    """The agent's error, however it is written."""
    if not isinstance(error, dict):
        return RequestRefused(INTERNAL_ERROR, str(error))
    code = _whole(error.get("code"))
    words = error.get("message") or "Error"
    return RequestRefused(INTERNAL_ERROR if code is None else code, str(words), error.get("data"))


def _whole(number: Any) -> int | None:
    """A whole number, also one that an agent whose numbers are all floats says as 1.0; None for anything else."""
    if type(number) is float and number.is_integer():
        return int(number)
    return number if type(number) is int else None
