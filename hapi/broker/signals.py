"""Signals as a descriptor that the broker's loop polls. Handlers do nothing: the numbers come through a pipe."""

from __future__ import annotations

import os
import signal

QUIT_SIGNALS = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


class Signals:
    """From now on QUIT_SIGNALS and SIGCHLD no longer end or interrupt this process; `fd` becomes readable instead."""

    def __init__(self) -> None:
        self.fd, self._write = os.pipe()
        for fd in (self.fd, self._write):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in (*QUIT_SIGNALS, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

    def close(self) -> None:
        """Let go of the descriptors; signals that come from now on are passed over."""
        signal.set_wakeup_fd(-1)
        for fd in (self.fd, self._write):
            os.close(fd)

    def received(self) -> frozenset[int]:
        """The signals that came since the last call; empty when `fd` is not readable."""
        try:
            return frozenset(os.read(self.fd, 4096))
        except BlockingIOError:
            return frozenset()
