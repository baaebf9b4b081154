"""The floor under a session: children forked from a warm image, each with an asyncio loop and a ZeroMQ socket that has said hello.

`Forked(n)` runs this module as a program: the image. It needs nothing of ours.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self

import zmq
import zmq.asyncio


class Forked:
    """An image with `count` such children, one forked after the other. `pids`: theirs; `seconds`: from fork to hello, of each."""

    def __init__(self, count: int) -> None:
        words = [sys.executable, "-m", "benchmarks.floor", str(count)]
        self._image = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._image.stdout is not None
        lines = [self._image.stdout.readline().split() for _ in range(count)]
        self.pids = [int(pid) for pid, _ in lines]
        self.seconds = [float(seconds) for _, seconds in lines]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End of its stdin is the end of the image and of its children."""
        self._image.communicate(timeout=30)


def _main(count: int) -> None:
    gc.disable()
    gc.freeze()
    ready, tell = os.pipe()
    place = f"ipc://@hapi-floor-{os.getpid()}"  # abstract: leaves no file
    children = [_forked(_router, place)]
    for _ in range(count):
        start = time.perf_counter()
        child = _forked(_dealer, place, tell)
        os.read(ready, 1)
        print(child, time.perf_counter() - start, flush=True)
        children.append(child)
    sys.stdin.read()
    for child in children:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _forked(work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> int:
    child = os.fork()
    if child == 0:
        gc.enable()
        asyncio.run(work(*arguments))
    return child


async def _router(place: str) -> None:
    """Whom they say hello to: answers everything."""
    socket = zmq.asyncio.Context().socket(zmq.ROUTER)
    socket.bind(place)
    while True:
        await socket.send_multipart(await socket.recv_multipart())


async def _dealer(place: str, tell: int) -> None:
    socket = zmq.asyncio.Context().socket(zmq.DEALER)
    socket.connect(place)
    await socket.send(b"hello")
    await socket.recv()
    os.write(tell, b".")
    await asyncio.Event().wait()


if __name__ == "__main__":
    _main(int(sys.argv[1]))
