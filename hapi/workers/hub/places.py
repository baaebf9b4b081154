"""A bounded number of things at once: whoever finds no place waits a while, then is told so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from hapi.errors import ErrorCode, HapiError

PATIENCE_S = 5.0
THREAD_TIMEOUT_S = 15.0

_Given = ParamSpec("_Given")
_T = TypeVar("_T")


class Places:
    """`count` places, and as many threads for those who need one. One for all sessions of a connector."""

    def __init__(self, count: int, name: str) -> None:
        self._free = asyncio.Semaphore(count)
        self._threads = ThreadPoolExecutor(count, f"hapi-{name}")  # starts none before it is needed
        self._name = name

    @contextlib.asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Hold a place. Raises HapiError(timeout) when none is free within PATIENCE_S."""
        await self._take()
        try:
            yield
        finally:
            self._free.release()

    async def run(self, function: Callable[_Given, _T], *args: _Given.args, **kwargs: _Given.kwargs) -> _T:
        """The function's result, from a thread. A thread that is late keeps its place until it is done.

        Raises HapiError(timeout): no place in PATIENCE_S, or no result in THREAD_TIMEOUT_S; and what it raises.
        """
        await self._take()
        work = self._threads.submit(function, *args, **kwargs)
        loop = asyncio.get_running_loop()
        work.add_done_callback(lambda _: _tell(loop, self._free.release))
        try:
            async with asyncio.timeout(THREAD_TIMEOUT_S):
                return await asyncio.wrap_future(work)
        except TimeoutError:
            raise HapiError(ErrorCode.TIMEOUT, f"The disk did not answer within {THREAD_TIMEOUT_S:g} s.") from None

    async def _take(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._free.acquire()
        except TimeoutError:
            raise HapiError(ErrorCode.TIMEOUT, f"Too many requests for {self._name} at once; try again.") from None


def _tell(loop: asyncio.AbstractEventLoop, release: Callable[[], None]) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(release)


class Workshop:
    """The connector's places, apart from each other: hung programs do not keep files from being read."""

    def __init__(self) -> None:
        self.programs = Places(8, "git and search")
        self.files = Places(8, "files")
        self.transfers = Places(4, "transfers")
