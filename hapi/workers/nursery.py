"""The nursery: a preloaded, frozen image that all other workers are forked from. Single-threaded, without ZeroMQ context.

A fork of it is ready in milliseconds and shares its memory. It ends when the broker's end of the pipe closes; its
children live on: supervisors by design, the others until their lifeline to the broker breaks.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import os
import select
import signal
import struct
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import popen_fork, process
from multiprocessing.context import ForkProcess

import msgspec
import setproctitle

from hapi.crashpoints import crash_point
from hapi.workers import settled
from hapi.workers.orders import Exited, Fork, Forked, ForkFailed

_TARGETS = {
    "hub": "hapi.workers.hub.main",
    "reaper": "hapi.workers.reaper",
    "session": "hapi.workers.supervisor.main",
}
_PRELOADED = (
    "hapi.workers.reaper",
    "hapi.workers.supervisor.main",
    "concurrent.futures.thread",  # these two are imported late by those who need them
    "encodings.utf_16_le",
)
_REHEARSALS = 10  # the interpreter has settled how to run a function after eight calls
_LENGTH = struct.Struct("!i")  # before each message: what multiprocessing's pipes, the broker's end, have there


class _Launched(popen_fork.Popen):
    """The fork itself, without multiprocessing's pipes by which both sides watch each other: nobody does here, and it
    leaves them open when the system refuses a fork.
    """

    sentinel = -1

    def _launch(self, process_obj: process.BaseProcess) -> None:
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                code = process_obj._bootstrap()  # type: ignore[attr-defined]  # noqa: SLF001
            finally:
                os._exit(code)


class _Worker(ForkProcess):
    """A process that begins and ends with its work, and of which the nursery keeps nothing.

    What else multiprocessing does (a new stdin, names, finalizers in the child; a list of all children in the parent,
    each of whom is asked for at every start) would cost a session half a megabyte of shared pages, and more with each
    session that is there before it.
    """

    def __init__(self, work: Callable[[Fork], None], order: Fork) -> None:
        super().__init__(name=f"hapi-{order.kind}-{order.name}")
        self._work = work
        self._order = order

    _Popen = staticmethod(_Launched)

    def start(self) -> None:
        """Fork. Raises OSError. Whoever calls this reaps the child, by its pid."""
        super().start()
        process._children.discard(self)  # type: ignore[attr-defined]  # noqa: SLF001

    def _bootstrap(self) -> int:
        """Called in the child, which ends with the result."""
        try:
            self._work(self._order)
        except SystemExit as ending:
            return ending.code if isinstance(ending.code, int) else 1
        except BaseException:  # noqa: BLE001 - a child must not return into the nursery's loop
            traceback.print_exc()  # to nursery.log
            return 1
        return 0


class Nursery:
    """Forks on order, reaps, reports. One per broker.

    What runs here between two forks unshares pages of the child before: it is little, and most of it in C.
    """

    def __init__(self, namespace: str, pipe: int, lifeline: int) -> None:
        self._namespace = namespace
        self._pipe = pipe
        self._lifeline = lifeline
        self._children: dict[int, Fork] = {}

    def run(self) -> None:
        """Serve until the broker is gone."""
        _preload(self._namespace)
        wakeup = _child_signals()
        waiting = select.poll()
        waiting.register(self._pipe, select.POLLIN)
        waiting.register(wakeup, select.POLLIN)
        while True:
            for fd, _ in waiting.poll():
                if fd == wakeup:
                    _empty(wakeup)
                    self._reap()
                elif not self._serve():
                    return

    def _serve(self) -> bool:
        length = _read(self._pipe, _LENGTH.size)
        data = _read(self._pipe, *_LENGTH.unpack(length)) if length else b""
        if not data:
            return False
        order = msgspec.msgpack.decode(data, type=Fork)
        worker = _Worker(self._work, order)
        try:
            worker.start()
        except OSError as error:
            return self._say(ForkFailed(order.kind, order.name, str(error)))
        crash_point("nursery.forked")
        pid = worker.pid or 0
        self._children[pid] = order
        return self._say(Forked(order.kind, order.name, pid))

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            order = self._children.pop(pid)
            self._say(Exited(order.kind, order.name, pid, os.waitstatus_to_exitcode(status)))

    def _say(self, message: Forked | ForkFailed | Exited) -> bool:
        try:
            data = msgspec.msgpack.encode(message)
            os.write(self._pipe, _LENGTH.pack(len(data)) + data)
        except OSError:
            return False
        return True

    def _work(self, order: Fork) -> None:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # else asyncio.run takes it, at a price in memory
        lifeline = None if order.kind == "session" else self._lifeline
        _close_inherited(keep=lifeline)
        os.setsid()
        gc.enable()
        main = importlib.import_module(_TARGETS[order.kind]).main
        main(self._namespace, order.name) if lifeline is None else main(self._namespace, lifeline)


def _preload(namespace: str) -> None:
    for name in _PRELOADED:
        importlib.import_module(name)
    settled.remember(namespace)
    for _ in range(_REHEARSALS):
        asyncio.run(asyncio.sleep(0))
    gc.collect()
    gc.freeze()  # the garbage collector would touch, and so unshare, every page


def _read(fd: int, length: int) -> bytes:
    """That many bytes; b"" at the end of the pipe, also in the middle of a message."""
    data = b""
    while len(data) < length:
        try:
            more = os.read(fd, length - len(data))
        except OSError:
            return b""
        if not more:
            return b""
        data += more
    return data


def _child_signals() -> int:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC) if hasattr(os, "pipe2") else os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    return reader


def _empty(fd: int) -> None:
    try:
        while os.read(fd, 4096):
            pass
    except BlockingIOError:
        return


def _close_inherited(keep: int | None) -> None:
    """Close all descriptors but 0 to 2 and `keep`: the nursery's ends of its other children, and its pipe."""
    if keep is None:
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        return
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))


def main() -> None:
    """Entry point of the nursery's process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--namespace", required=True)
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--lifeline-fd", type=int, required=True)
    options = parser.parse_args()
    setproctitle.setproctitle(f"hapi: nursery [{options.namespace}]")
    gc.disable()
    warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on a fork takes the blanks of our title for threads
    Nursery(options.namespace, options.fd, options.lifeline_fd).run()
    os._exit(0)  # a plain exit would wait for the sessions


if __name__ == "__main__":
    main()
