"""A program in a pseudo-terminal whose screen is ours, and all that it wrote."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Sequence
from typing import Self

from hapi.terminal.screen import Screen

_END_S = 10


class PtyProgram:
    """Runs until `end`, or the end of the with statement. What it asks its terminal, our screen answers."""

    def __init__(self, command: Sequence[str], cols: int = 80, rows: int = 24) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
        variables = {
            "PATH": os.environ["PATH"],
            "TERM": "xterm-256color",
            "LC_ALL": "C.UTF-8",
            "HOME": "/nonexistent",
            "PYTHONUTF8": "1",
        }
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=variables, start_new_session=True
        )
        os.close(slave)
        self.screen = Screen(cols, rows)
        self.written = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def type(self, data: bytes) -> None:
        """As if somebody typed it."""
        os.write(self._master, data)

    def until(self, seen: Callable[[Screen], bool], what: str, deadline_s: float = 20) -> None:
        """Read on until the screen is so. Raises AssertionError with what is on it."""
        end = time.monotonic() + deadline_s
        while not seen(self.screen):
            if time.monotonic() > end or not self._read(end - time.monotonic()):
                raise AssertionError(f"not seen: {what}\n{self.screen.text()}")

    def end(self) -> None:
        """Kill it; what it has written until then is taken. May be called again."""
        if self._master < 0:
            return
        self._process.kill()
        self._process.wait(_END_S)
        while self._read(0):
            pass
        os.close(self._master)
        self._master = -1

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._master], [], [], max(timeout_s, 0))[0]:
            return False
        try:
            data = os.read(self._master, 65536)
        except OSError:  # Linux: nobody has the other end open
            return False
        self.written += data
        self.screen.feed(data)
        if answers := self.screen.answers():
            self.type(answers)
        return bool(data)
