"""Answering the hub's RPCs: one table per machine or session, JSON text in, JSON text out."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub import incoming
from hapi.workers.hub.door import NoAnswer
from hapi.workers.hub.schema import RpcRegister, RpcUnregister

DEADLINE_S = 29.0  # the hub gives up after 30 s

Rpc = Callable[[Any], Awaitable[Any]]
_log = logging.getLogger("hapi.hub")


class RpcTable:
    """The methods that the machine or session `owner` offers."""

    def __init__(self, owner: str, methods: dict[str, Rpc], counters: Counter[str]) -> None:
        self._owner = owner
        self._methods = methods
        self._counters = counters

    def registrations(self) -> list[RpcRegister]:
        """What to send after every connect; the hub forgets."""
        return [RpcRegister(method=f"{self._owner}:{name}") for name in self._methods]

    def withdrawals(self) -> list[RpcUnregister]:
        """What to send before a connection is closed on purpose: a request on its way into it would never be answered."""
        return [RpcUnregister(method=f"{self._owner}:{name}") for name in self._methods]

    async def answer(self, data: Any) -> str:
        """The answer to an `rpc-request` event, always JSON text. Raises NoAnswer when a method wants silence."""
        try:
            result = await self._run(data)
        except HapiError as error:
            result = {"error": error.message}
        except (ValueError, msgspec.ValidationError) as error:
            self._counters["rpc_malformed"] += 1
            result = {"error": f"Invalid parameters: {error}"}
        except TimeoutError:
            result = {"error": "It took too long."}
        return msgspec.json.encode(result).decode()

    async def _run(self, data: Any) -> Any:
        request = incoming.read(data, incoming.RpcRequest)
        name = request.method.removeprefix(f"{self._owner}:")
        method = self._methods.get(name)
        if method is None:
            return {"error": "Method not found"}
        self._counters["rpc_calls"] += 1
        try:
            async with asyncio.timeout(DEADLINE_S):
                return await method(incoming.read_params(request.params))
        except (HapiError, NoAnswer, ValueError, TimeoutError):
            raise
        except Exception:  # noqa: BLE001 - a bug of ours must cost one answer, not the connection
            _log.exception("RPC %s failed", name)
            self._counters["rpc_bugs"] += 1
            raise HapiError(ErrorCode.INTERNAL, f"Internal error in {name}; the runner's log has it.") from None


def told(handler: Rpc) -> Rpc:
    """The handler with its failures in the form that the hub's routes pass on to the web."""

    async def answer(raw: Any) -> Any:
        try:
            return await handler({} if raw is None else raw)
        except HapiError as error:
            return {"success": False, "error": error.words}
        except OSError as error:
            return {"success": False, "error": f"{error.strerror}."}
        except (ValueError, msgspec.ValidationError) as error:
            return {"success": False, "error": f"Invalid parameters: {error}"}

    return answer
