"""The one place where tests poll. Prefer an event where there is one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")
_PAUSE_S = 0.02


def until(probe: Callable[[], T], deadline_s: float, what: str) -> T:
    """Call `probe` until it answers something true, and return that.

    Raises AssertionError with `what` and the last answer when `deadline_s` seconds have gone by.
    """
    end = time.monotonic() + deadline_s
    while not (value := probe()):
        if time.monotonic() >= end:
            raise AssertionError(_late(what, deadline_s, value))
        time.sleep(_PAUSE_S)
    return value


async def until_async(probe: Callable[[], T | Awaitable[T]], deadline_s: float, what: str) -> T:
    """As `until`, for a probe that may be a coroutine function; the event loop goes on meanwhile."""
    end = time.monotonic() + deadline_s
    while not (value := await _answer(probe)):
        if time.monotonic() >= end:
            raise AssertionError(_late(what, deadline_s, value))
        await asyncio.sleep(_PAUSE_S)
    return value


async def _answer(probe: Callable[[], T | Awaitable[T]]) -> T:
    value = probe()
    return await value if isinstance(value, Awaitable) else value


def _late(what: str, deadline_s: float, value: object) -> str:
    return f"not within {deadline_s} s: {what}; the last answer was {value!r}"
