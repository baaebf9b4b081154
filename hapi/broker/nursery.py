"""The broker's end of the nursery: starts it, orders forks, hears of them. Never blocks for long.

Orders are tiny (a kind and a session id), and `app` bounds how many are under way, so the pipe cannot fill up; what a
session is to do, its supervisor asks the broker itself.
"""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import NamedTuple

import msgspec

from hapi.workers.orders import Fork, FromNursery

LOG_BYTES = 5 * 1024 * 1024
_decoder: msgspec.msgpack.Decoder[FromNursery] = msgspec.msgpack.Decoder(FromNursery)


class Nursery:
    """One nursery process and the pipe to it. What it and its children write to stderr goes to `log`, which is put aside
    (`.1`) when it is longer than LOG_BYTES by then.
    """

    def __init__(self, namespace: str, lifeline: int, log: Path) -> None:
        self._pipe, theirs = Pipe()
        arguments = ["--namespace", namespace, "--fd", str(theirs.fileno()), "--lifeline-fd", str(lifeline)]
        if log.exists() and log.stat().st_size > LOG_BYTES:
            log.replace(log.with_name(f"{log.name}.1"))
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hapi.workers.nursery", *arguments],
                pass_fds=(theirs.fileno(), lifeline),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        theirs.close()
        self.pid = self._process.pid

    @property
    def pipe(self) -> Connection:
        """For polling: readable when the nursery has news, or is gone."""
        return self._pipe

    def order(self, kind: str, name: str = "") -> bool:
        """Ask for a process; False when the nursery is gone."""
        try:
            self._pipe.send_bytes(msgspec.msgpack.encode(Fork(kind, name)))
        except OSError:
            return False
        return True

    def news(self) -> FromNursery | None:
        """One message. Raises EOFError when the nursery is gone; returns None when there is none."""
        if not self._pipe.poll(0):
            return None
        try:
            return _decoder.decode(self._pipe.recv_bytes())
        except OSError as error:
            raise EOFError from error

    def close(self) -> None:
        """Let go: the nursery ends at end-of-file. Its children live on."""
        self._pipe.close()

    def wait(self, timeout_s: float) -> None:
        """Wait for its end, and kill it when it takes longer."""
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout_s)

    def abandon(self) -> None:
        """End it at once, so that it forks nothing more. May be called before `close` and `wait`."""
        self.close()
        self._process.kill()
        self._process.wait()

    def reap(self) -> int | None:
        """The exit code once it has ended, None before; keeps no zombie."""
        return self._process.poll()


class Headstart(NamedTuple):
    """A nursery that loads its modules while the broker still loads its own, and both ends of the workers' lifeline."""

    nursery: Nursery
    lifeline_read: int
    lifeline: int

    @classmethod
    def begin(cls, namespace: str, log: Path) -> Headstart:
        """Start it. It ends when this process does. Raises OSError."""
        lifeline_read, lifeline = os.pipe()
        return cls(Nursery(namespace, lifeline_read, log), lifeline_read, lifeline)
