"""Blocking work in a thread of its own: its result, its error, and an event loop that goes on meanwhile."""

import _thread
import asyncio
import sys
import threading

import pytest

from hapi.workers.offload import offload
from tests.support.wait import until

WAIT = 10


async def test_the_result_comes_from_another_thread():
    found = await offload(lambda a, *, b: (a, b, threading.get_ident()), 1, b=2)
    assert found[:2] == (1, 2)
    assert found[2] != threading.get_ident()


async def test_an_error_is_raised_where_it_is_awaited():
    with pytest.raises(ZeroDivisionError):
        await offload(lambda: 1 / 0)


async def test_the_loop_goes_on_meanwhile():
    """Seen to fail: with `work` called in the loop."""
    go_on = threading.Event()
    working = asyncio.ensure_future(offload(go_on.wait, WAIT))
    await asyncio.sleep(0)
    assert not working.done()
    go_on.set()
    assert await asyncio.wait_for(working, WAIT)


async def test_who_is_cancelled_waits_no_longer_and_the_work_goes_on():
    go_on, done = threading.Event(), threading.Event()

    def work():
        go_on.wait(WAIT)
        done.set()

    working = asyncio.ensure_future(offload(work))
    await asyncio.sleep(0)
    working.cancel()
    with pytest.raises(asyncio.CancelledError):
        await working
    go_on.set()
    assert await asyncio.to_thread(done.wait, WAIT)


def test_a_loop_that_is_closed_is_no_error_for_the_thread(monkeypatch):
    """Seen to fail: without the RuntimeError suppressed in `offload`."""
    go_on, over, troubles = threading.Event(), threading.Event(), []
    monkeypatch.setattr(sys, "unraisablehook", troubles.append)
    loop = asyncio.new_event_loop()
    real = loop.call_soon_threadsafe

    def told(*args):
        try:
            return real(*args)
        finally:
            over.set()

    loop.call_soon_threadsafe = told
    task = loop.create_task(offload(go_on.wait, WAIT))
    loop.run_until_complete(asyncio.sleep(0))
    task.cancel()
    loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
    loop.close()
    go_on.set()
    assert over.wait(WAIT)
    until(lambda: threading.active_count() >= 1 and _thread._count() <= threading.active_count(), WAIT, "it has ended")
    assert not troubles
