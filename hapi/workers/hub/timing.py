"""Waiting, in the two forms that are allowed here: a pause between tries, and an event with a deadline."""

from __future__ import annotations

import asyncio
import contextlib


async def pause(delay_s: float) -> None:
    """Let time pass before a further try. Not a way to wait for something: that is `within`."""
    await within(asyncio.Event(), delay_s)


async def within(event: asyncio.Event, timeout_s: float) -> bool:
    """Whether the event is set, now or within `timeout_s`."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


def cancelled() -> bool:
    """Whether somebody has asked the running task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
