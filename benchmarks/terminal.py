"""A terminal that can be left, beside a bare one and beside tmux and dtach: echo of a keystroke, and `cat` of much text.

The paths take turns, keystroke by keystroke and file by file, so that what the machine does besides strikes all alike.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import random
import re
import select
import shutil
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.figures import Result, Row
from benchmarks.harness import Home, private_home

FULL = {"keystrokes": 500, "megabytes": 100, "rounds": 3}
QUICK = {"keystrokes": 20, "megabytes": 2, "rounds": 1}
_SIZE = struct.pack("4H", 24, 80, 0, 0)
_ESCAPES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)|\x1b[()][0-9A-B]|\x1b[=>78]")
_KEYS = b"abcdefghijklmnopqrstuvwxyz"
_DEADLINE_S, _READY, _POLL_S = 120.0, b"READY", 0.001
_ECHO = "stty raw -echo; printf READY; exec cat"
_PAUSE_S = (0.005, 0.03)  # between keystrokes: somebody who types fast
_WHAT_IS_SHOWN = (
    "Until the program has written it all. A bare terminal and dtach show every byte and hold the program up meanwhile; "
    "tmux and hapi need not: hapi leaves out what a terminal is too slow for, then draws the screen."
)
_places = itertools.count(1)


class Way:
    """A way to a program in a terminal: our end of a pseudo-terminal with a command in it."""

    def __init__(self, name: str, command: list[str], home: Home) -> None:
        self.name = name
        self.seconds: list[float] = []
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, _SIZE)
        environment = home.environment | {"TERM": "xterm-256color"}
        environment.pop("TMUX", None)
        self._process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, cwd=home.project,
            start_new_session=True, preexec_fn=_take_terminal,  # noqa: PLW1509 - there is one thread
        )  # fmt: skip
        os.close(slave)
        self._seen = b""

    def close(self) -> None:
        """Hang up."""
        os.close(self._master)
        self._process.terminate()
        self._process.wait(10)

    def types(self, data: bytes) -> None:
        os.write(self._master, data)

    def sees(self, text: bytes) -> None:
        """Read until `text` has come, besides escape sequences. Raises TimeoutError."""
        end = time.monotonic() + _DEADLINE_S
        while text not in _ESCAPES.sub(b"", self._seen):
            self._read(end, text)
        self._seen = b""

    def drains(self, until: Path) -> None:
        """Read whatever comes until that file is there. Raises TimeoutError."""
        end = time.monotonic() + _DEADLINE_S
        while not until.exists():
            if select.select([self._master], [], [], _POLL_S)[0]:
                os.read(self._master, 1 << 20)
            elif time.monotonic() > end:
                raise TimeoutError(f"{self.name}: {until.name} did not come")

    def quiet(self) -> None:
        """Read until nothing has come for a tenth of a second."""
        while select.select([self._master], [], [], 0.1)[0]:
            os.read(self._master, 1 << 20)
        self._seen = b""

    def _read(self, end: float, wanted: bytes) -> None:
        left = end - time.monotonic()
        if left <= 0 or not select.select([self._master], [], [], left)[0]:
            raise TimeoutError(f"{self.name}: {wanted!r} did not come; {self._seen[-300:]!r}")
        self._seen += os.read(self._master, 1 << 20)


def _take_terminal() -> None:
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


@contextmanager
def paths(home: Home, script: str) -> Iterator[list[Way]]:
    """The same shell script behind each path that this machine has. What outlives its client ends with the home."""
    place = home.path / f"sockets-{next(_places)}"
    place.mkdir()
    program = ["sh", "-c", script]
    tmux = ["tmux", "-f", "/dev/null", "-S", str(place / "tmux")]
    commands = {
        "a bare pseudo-terminal": program,
        "dtach": ["dtach", "-c", str(place / "dtach"), "-E", "-z", "-r", "none", *program],
        "tmux": [*tmux, "new-session", script, ";", "set", "-g", "status", "off"],
        "hapi": [sys.executable, "-m", "hapi", "run", "--", *program],
    }
    with ExitStack() as stack:
        found = []
        for name, command in commands.items():
            if shutil.which(command[0]) is None:
                print(f"{name} is not installed", flush=True)
                continue
            path = Way(name, command, home)
            stack.callback(path.close)
            path.sees(_READY)
            path.quiet()
            found.append(path)
        yield found
        if shutil.which("tmux"):
            subprocess.run([*tmux, "kill-server"], check=False, capture_output=True)


def echo(home: Home, keystrokes: int) -> list[Way]:
    """The seconds from a key to its echo, for every path."""
    dice = random.Random(1)
    with paths(home, _ECHO) as found:
        for _ in range(keystrokes):
            for path in dice.sample(found, len(found)):
                key = bytes([dice.choice(_KEYS)])
                time.sleep(dice.uniform(*_PAUSE_S))
                start = time.perf_counter()
                path.types(key)
                path.sees(key)
                path.seconds.append(time.perf_counter() - start)
        return found


def flood(home: Home, megabytes: int, rounds: int) -> list[Way]:
    """The seconds that a `cat` of so many megabytes takes its program, for every path."""
    text = home.path / "text"
    line = b"The quick brown fox jumps over the lazy dog, again and again, until it is 80.\r\n"
    text.write_bytes(line * (megabytes * 1_000_000 // len(line)))
    done = home.path / "done"
    script = f"printf READY; while read -r x; do cat {text}; touch {done}; done"
    with paths(home, script) as found:
        for _ in range(rounds):
            for path in found:
                start = time.perf_counter()
                path.types(b"go\r")
                path.drains(done)
                path.seconds.append(time.perf_counter() - start)
                path.quiet()
                done.unlink()
        return found


def measure(keystrokes: int, megabytes: int, rounds: int) -> list[Result]:
    """Both measurements."""
    with private_home() as home:
        home.hapi("runner", "start")
        echoes = [Row(path.name, path.seconds) for path in echo(home, keystrokes)]
        floods = [Row(path.name, path.seconds) for path in flood(home, megabytes, rounds)]
    title = f"`cat` of {megabytes} MB to somebody who looks"
    return [
        Result(title="Echo of a keystroke", rows=echoes, notes=[f"{keystrokes} keystrokes each, taking turns"]),
        Result(title=title, rows=floods, notes=[_WHAT_IS_SHOWN]),
    ]
