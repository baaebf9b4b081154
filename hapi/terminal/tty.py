"""The terminal that a person sits at: raw while it shows another one, and as it was before when that is over."""

from __future__ import annotations

import contextlib
import os
import select
import termios
from types import TracebackType
from typing import Any, Self

from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError
from hapi.terminal.guard import Guard
from hapi.terminal.screen_modes import RESTORE

LEAVE_S = 1.0  # what a terminal that takes nothing may hold up the end
_IFLAG, _OFLAG, _CFLAG, _LFLAG, _CC = 0, 1, 2, 3, 6
_DEFAULT_SIZE = (80, 24)
BOTTOM = b"\x1b[999;1H\r\n"  # below whatever is shown
_SAVE_TITLE = b"\x1b[22;2t"
# 1049 also puts the cursor where it was before the alternate screen, in some terminals even if that is not shown: then
# what is written next would stand in the middle of what a program wrote to the main screen
LEAVE = RESTORE.replace(b"\x1b[?1049l", b"\x1b[?1047l") + b"\x1b[23;2t"


class Hungup(Exception):
    """The terminal is gone: its window was closed, its connection dropped."""


class OwnTerminal:
    """Standard input's terminal, in raw mode between `enter` and `leave`.

    Opened anew, so that what we set on it (non-blocking) is not set for the shell too. While it is raw a guard
    watches us: whatever ends this process, the terminal is put back.
    """

    def __init__(self) -> None:
        """Raises HapiError(usage) when standard input is no terminal."""
        try:
            self._before = termios.tcgetattr(0)
            self._fd = _reopened()
        except (termios.error, OSError):
            raise HapiError(ErrorCode.USAGE, "This needs a terminal.") from None
        self._guard: Guard | None = None
        self._out = bytearray()

    def __enter__(self) -> Self:
        self.enter()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        self.leave()
        self.close()

    def fileno(self) -> int:
        """For poll."""
        return self._fd

    @property
    def unshown(self) -> int:
        """How many bytes wait for the terminal."""
        return len(self._out)

    def size(self) -> tuple[int, int]:
        """Columns and rows; those of a standard terminal where it does not say."""
        return window_size(self._fd)

    def enter(self) -> None:
        """Make it raw, guarded; once more, if something else has changed it. Raises Hungup."""
        raw, again = _raw(self._before), self._guard is not None
        try:
            self._guard = self._guard or Guard(self._fd, self._before, LEAVE + BOTTOM)
            termios.tcsetattr(self._fd, termios.TCSADRAIN, raw)
        except (termios.error, OSError):
            raise Hungup from None
        self.write(b"" if again else _SAVE_TITLE)

    def leave(self, *, more: bytes = b"") -> None:
        """Show what waits, put the terminal back as it was, write `more`. Takes LEAVE_S at most, never raises."""
        if self._guard is None:
            return
        self._drain()
        self._out[:] = LEAVE + more
        self._drain()
        self._out.clear()
        with contextlib.suppress(termios.error):
            termios.tcsetattr(self._fd, termios.TCSANOW, self._before)
        self._guard.dismiss()
        self._guard = None

    def close(self) -> None:
        """Let the descriptor go. May be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def forget_input(self) -> None:
        """Throw away what was typed and not read, such as answers to a program that is not there any more."""
        with contextlib.suppress(termios.error):
            termios.tcflush(self._fd, termios.TCIFLUSH)

    def read(self, most: int) -> bytes:
        """What was typed, without waiting; b"" when nothing was. Raises Hungup."""
        try:
            data = os.read(self._fd, most)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError:
            raise Hungup from None
        if not data:
            raise Hungup
        return data

    def write(self, data: bytes) -> None:
        """Show it, now or as soon as the terminal takes it. Raises Hungup."""
        self._out += data
        self.flush()

    def flush(self) -> None:
        """Show what the terminal takes without waiting. Raises Hungup."""
        try:
            while self._out:
                del self._out[: os.write(self._fd, self._out)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            raise Hungup from None

    def _drain(self) -> None:
        """Show all that waits, as far as the terminal takes it within half of LEAVE_S."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        deadline = monotonic() + LEAVE_S / 2
        with contextlib.suppress(Hungup):
            self.flush()
            while self._out and (left := deadline - monotonic()) > 0:
                poll.poll(left * 1000)
                self.flush()


def window_size(fd: int) -> tuple[int, int]:
    """Columns and rows of the terminal; 80 and 24 where it does not say."""
    try:
        cols, rows = os.get_terminal_size(fd)
    except OSError:
        return _DEFAULT_SIZE
    return (cols, rows) if cols and rows else _DEFAULT_SIZE


def is_there() -> bool:
    """Whether a person sits at standard input and output."""
    return os.isatty(0) and os.isatty(1)


def _reopened() -> int:
    """The terminal by its name; where that does not work, a copy of the descriptor (which may then block)."""
    flags = os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        return os.open(os.ttyname(0), flags)
    except OSError:
        return os.dup(0)


def _raw(before: list[Any]) -> list[Any]:
    """As cfmakeraw: every key is a byte or more, nothing is echoed, nothing is changed on its way."""
    raw = [*before[:_CC], list(before[_CC])]
    raw[_IFLAG] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
        | termios.IXOFF
    )
    raw[_OFLAG] &= ~termios.OPOST
    raw[_CFLAG] = raw[_CFLAG] & ~(termios.CSIZE | termios.PARENB) | termios.CS8
    raw[_LFLAG] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    raw[_CC][termios.VMIN], raw[_CC][termios.VTIME] = 1, 0
    return raw
