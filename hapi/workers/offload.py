"""Blocking work off a session's event loop: a thread for each piece, gone when it is done.

`asyncio.to_thread` keeps its threads, and touches so much of the interpreter's memory, shared with all other sessions
until then, that it costs each session half a megabyte.
"""

from __future__ import annotations

import _thread
import asyncio
import contextlib
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


async def offload(work: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
    """Call `work` in a thread of its own and return what it returns, or raise what it raises.

    Cancelling stops the waiting, not the thread. How many run at a time is for the caller to bound. Raises RuntimeError
    when the system gives us no thread.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work(*args, **kwargs)
        except BaseException as failure:  # noqa: BLE001 - whatever it is, it belongs to who waits
            error = failure
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, error)

    _thread.start_new_thread(run, ())
    return await done
