"""A process that puts a terminal back when the one that made it raw was killed and could not."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
from typing import Any, NoReturn

from setproctitle import setproctitle

TITLE = "hapi: terminal guard"
_WRITE_S = 1.0
_DEAF_TO = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGTSTP, signal.SIGPIPE)


class Guard:
    """Watches this process from the moment it is made until `dismiss`.

    It sits in a session of its own, so that no signal for our group reaches it, and holds nothing of ours but the
    terminal and the end of a pipe.
    """

    def __init__(self, fd: int, before: list[Any], restore: bytes) -> None:
        """`before`: the attributes to set again; `restore`: what to write. To be called while there is one thread."""
        watched, self._alive = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _watch(watched, fd, before, restore)
        os.close(watched)

    def dismiss(self) -> None:
        """The terminal is as it was: the guard has nothing to do any more."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, 0)
        os.close(self._alive)


def _watch(watched: int, fd: int, before: list[Any], restore: bytes) -> NoReturn:
    """The guard's life: until the other end of the pipe is closed, which only the end of that process does."""
    try:
        os.setsid()
        for number in _DEAF_TO:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGWINCH, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)
        _keep_only({watched, fd})
        setproctitle(TITLE)
        while os.read(watched, 1):
            pass
        _put_back(fd, before, restore)
    finally:
        os._exit(0)


def _put_back(fd: int, before: list[Any], restore: bytes) -> None:
    """Restore the screen's modes, and the attributes unless somebody else (a shell) has set others by now."""
    if not termios.tcgetattr(fd)[3] & termios.ICANON and not termios.tcgetattr(fd)[1] & termios.OPOST:
        termios.tcsetattr(fd, termios.TCSANOW, before)
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    data = restore
    while data and poll.poll(_WRITE_S * 1000):
        data = data[os.write(fd, data) :]


def _keep_only(wanted: set[int]) -> None:
    last = -1
    for fd in (*sorted(wanted), os.sysconf("SC_OPEN_MAX")):
        os.closerange(last + 1, fd)
        last = fd
