"""A person at a terminal: a command in a pseudo-terminal, its output drawn by pyte, or in a window of tmux."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any, Self

import psutil
import pyte

from tests.support.hub import unique
from tests.support.runner import Runner
from tests.support.wait import until

SEES_S = 20
_READ_BYTES = 65536


class Person:
    """Somebody who runs `hapi WORDS` in a terminal window. Leave it (`with`) to close the window.

    The terminal stays open when the command ends, as under a shell: `attributes` are then what a shell would find.
    """

    def __init__(self, runner: Runner, *words: str, size: tuple[int, int] = (80, 24), **environment: str) -> None:
        self.raw = bytearray()
        self.screen = pyte.Screen(*size)
        self._stream = pyte.ByteStream(self.screen)
        self._master, self._slave = pty.openpty()
        os.set_blocking(self._master, False)
        self._set_size(*size)
        self.before = self.attributes()
        self._unsent = b""
        self.blind = False  # the terminal takes no output
        self.draws = True  # pyte draws what comes; it takes a second for each megabyte
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hapi", *words],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env=runner.environment | {"TERM": "xterm-256color"} | environment,
            cwd=runner.project,
            start_new_session=True,
            preexec_fn=self._take_terminal,  # noqa: PLW1509 - there is one thread
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(SEES_S)
        for fd in (self._master, self._slave):
            os.close(fd)

    def _take_terminal(self) -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    def _set_size(self, cols: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, cols, 0, 0))

    def resize(self, cols: int, rows: int) -> None:
        """Drag the window's corner; the kernel tells the command."""
        self.screen.resize(rows, cols)
        self._set_size(cols, rows)

    def attributes(self) -> list[Any]:
        """What `stty -a` would show."""
        return termios.tcgetattr(self._slave)

    def types(self, data: bytes | str) -> None:
        """Press keys; what does not go now goes while we look."""
        self._unsent += data.encode() if isinstance(data, str) else data
        self._pump()

    def sees(self, text: str, deadline_s: float = SEES_S) -> None:
        """Wait until the text stands on the screen."""
        try:
            until(lambda: text in self.text(), deadline_s, f"{text!r} is on the screen")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.text()}\n{bytes(self.raw[-500:])!r}") from None

    def misses(self, text: str) -> None:
        """Wait until the text does not stand there any more."""
        until(lambda: text not in self.text(), SEES_S, f"{text!r} is gone")

    def writes(self, data: bytes) -> None:
        """Wait until these bytes have come, whatever they look like."""
        until(lambda: self._pump() or data in self.raw, SEES_S, f"{data!r} was written")

    def waiting(self) -> int:
        """How many bytes stand in a terminal that takes none."""
        return struct.unpack("i", fcntl.ioctl(self._master, termios.FIONREAD, bytes(4)))[0]

    def text(self) -> str:
        """The screen now."""
        self._pump()
        return "\n".join(line.rstrip() for line in self.screen.display)

    def ends(self, deadline_s: float = SEES_S) -> int:
        """Wait until the command has ended, reading on; its exit status, -n for a signal."""
        until(lambda: self._pump() or self.process.poll() is not None, deadline_s, "the command ends")
        self._pump()
        return self.process.returncode

    def stopped(self) -> bool:
        """Whether the command is stopped, as by Ctrl-Z."""
        self._pump()
        return psutil.Process(self.process.pid).status() == psutil.STATUS_STOPPED

    def kills(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def _pump(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[os.write(self._master, self._unsent[:4096]) :]
        with contextlib.suppress(BlockingIOError):
            while not self.blind and (data := os.read(self._master, _READ_BYTES)):
                self.raw += data
                if self.draws:
                    self._stream.feed(data)


class Tmux:
    """A tmux server of one's own, with a window per command. Leave it to close them all."""

    def __init__(self, runner: Runner, scratch: Path, size: tuple[int, int] = (80, 24)) -> None:
        self._name = unique("hapi").replace(".", "-")
        self._runner = runner
        self._scratch = scratch
        self._size = size
        self._windows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.tmux("kill-server", check=False)

    def tmux(self, *words: str, check: bool = True) -> str:
        """A tmux command at this server; what it prints."""
        place = self._runner.environment | {"TMUX_TMPDIR": str(self._scratch), "PS1": "$ "}
        place.pop("TMUX", None)
        done = subprocess.run(
            ["tmux", "-f", "/dev/null", "-L", self._name, *words],
            env=place,
            cwd=self._runner.project,
            capture_output=True,
            text=True,
            check=False,
            timeout=20,
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def shell(self) -> str:
        """A new window with a shell in which `hapi` is the command; its target."""
        cols, rows = self._size
        self._windows += 1
        name = f"w{self._windows}"
        size = ("-x", str(cols), "-y", str(rows))
        self.tmux("new-session", "-d", "-s", name, *size, "bash", "--norc", "--noprofile")
        self.tmux("send-keys", "-t", name, f'hapi() {{ {sys.executable} -m hapi "$@"; }}; clear', "Enter")
        return name

    def types(self, window: str, *keys: str) -> None:
        """Press keys, by tmux's names."""
        self.tmux("send-keys", "-t", window, *keys)

    def capture(self, window: str, *flags: str) -> str:
        """What the window shows; with `-e` its colours too."""
        return self.tmux("capture-pane", "-p", "-t", window, *flags)

    def sees(self, window: str, *texts: str) -> str:
        """Wait until all of them stand there; what does."""

        def shown() -> str:
            now = self.capture(window)
            return now if all(text in now for text in texts) else ""

        try:
            return until(shown, SEES_S, f"{texts} in {window}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.capture(window)}") from None
