"""Pseudo-terminals: a pair of descriptors, what makes a child live in it, its size, its hang-up."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Mapping
from typing import Any

from hapi.errors import ErrorCode, HapiError
from hapi.terminal.protocol import fitting

_IUTF8 = 0o40000  # Linux: erasing in a line takes a whole character; `termios` names it from Python 3.13 on
_FOREIGN = frozenset(  # what tells of the terminal that our caller sat at, which is not the one that the child gets
    {"COLUMNS", "LINES", "STY", "TERMCAP", "TERM_PROGRAM", "TERM_PROGRAM_VERSION", "TERM_SESSION_ID", "TMUX",
     "TMUX_PANE", "VTE_VERSION", "WINDOW", "WINDOWID", "WT_SESSION", "KITTY_WINDOW_ID", "KONSOLE_VERSION"}
)  # fmt: skip


class Pty:
    """A pseudo-terminal of a size. We keep both ends: the child may close its own for a while and is still heard.

    `master` does not block. Its owner closes it once, with `close`.
    """

    def __init__(self, cols: int, rows: int) -> None:
        """Raises HapiError(at_capacity) when the system has no terminal, or no descriptor, left."""
        try:
            self.master, self._slave = os.openpty()
        except OSError as error:
            hint = "Close terminals that nobody needs."
            raise HapiError(ErrorCode.AT_CAPACITY, f"Cannot open a terminal: {error.strerror}.", hint) from None
        os.set_blocking(self.master, False)
        self.cols, self.rows = cols, rows
        self.resize(cols, rows)
        self._handle_utf8()

    def child(self) -> dict[str, Any]:
        """Arguments for `subprocess.Popen`: the child leads a session of its own, in this terminal."""
        streams = dict.fromkeys(("stdin", "stdout", "stderr"), self._slave)
        return {**streams, "start_new_session": True, "preexec_fn": take_terminal}

    def resize(self, cols: int, rows: int) -> None:
        """Set the size, at least 1 by 1, at most the protocol's largest; the programs in the terminal get SIGWINCH."""
        self.cols, self.rows = fitting(cols, rows)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", self.rows, self.cols, 0, 0))

    def hang_up(self, leader: int) -> None:
        """What happens when a terminal is gone, while we still hear: SIGHUP for the session's leader and the program in
        the foreground, and SIGCONT, for whoever is stopped. `leader` must be a child that nobody has waited for yet.
        """
        groups = {leader}
        with contextlib.suppress(OSError):
            groups.add(os.tcgetpgrp(self.master))
        for group in groups - {0, os.getpgrp()}:
            for number in (signal.SIGHUP, signal.SIGCONT):
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(group, number)

    def close(self) -> None:
        """Give the terminal back; the kernel hangs up whoever is still in it."""
        os.close(self.master)
        os.close(self._slave)

    def _handle_utf8(self) -> None:
        with contextlib.suppress(termios.error):
            attributes = termios.tcgetattr(self._slave)
            attributes[0] |= _IUTF8
            termios.tcsetattr(self._slave, termios.TCSANOW, attributes)


def take_terminal() -> None:
    """For a child, after `setsid` and before it becomes its program: its standard input is its terminal."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def terminal_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a program in a terminal of ours, which can do what xterm can, in 24-bit colour. Pure."""
    kept = {key: value for key, value in environment.items() if key not in _FOREIGN}
    return kept | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
