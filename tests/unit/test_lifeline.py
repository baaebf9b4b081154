"""A worker does not outlive its broker: not when a task will not end, not when it fails while it is cancelled."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from hapi.workers.hub.session import SessionLink

STUBBORN = """
import asyncio, contextlib, sys
from hapi.workers import lifeline

async def never_ends():
    while True:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

async def main():
    work = asyncio.create_task(asyncio.Event().wait())
    other = asyncio.create_task(never_ends())
    await asyncio.sleep(0)
    lifeline.LEAVE_S = 1
    lifeline.follow(int(sys.argv[1]), work)
    print("ready", flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await work
    print("cancelled", flush=True)

asyncio.run(main())
"""


def test_the_kernel_ends_a_worker_that_will_not_end_when_its_broker_is_gone() -> None:
    """Seen to fail: without the alarm (a connector was found that still said that it was online)."""
    ours, brokers = os.pipe()
    command = [sys.executable, "-c", STUBBORN, str(ours)]
    with subprocess.Popen(command, pass_fds=[ours], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        assert worker.poll() is None
        os.close(ours)
        os.close(brokers)
        assert worker.stdout.readline() == "cancelled\n"
        assert worker.wait(20) == -signal.SIGALRM


async def test_a_link_that_fails_while_it_is_cancelled_does_not_begin_anew() -> None:
    """Seen to fail: without the look at whether the task is cancelled (it lived on and connected again)."""
    begun = asyncio.Event()

    async def fails() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise OSError("the socket is closed")

    async def once() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            begun.set()
            await asyncio.Event().wait()

    link: Any = SimpleNamespace(_once=once, _context=SimpleNamespace(counters=Counter()), session_id="s", _greeted=True)
    living = asyncio.create_task(SessionLink._live_on(link))
    await begun.wait()
    await asyncio.sleep(0)
    living.cancel()
    with pytest.raises(BaseExceptionGroup):
        await asyncio.wait_for(living, 10)
