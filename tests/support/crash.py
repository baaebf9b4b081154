"""Crash points from a test's side: arm one, wait until a process died (or stopped) there, let that one go on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil

from hapi.crashpoints import POINTS, VARIABLE
from tests.support.wait import until

FIRES_S = 15


class CrashPoints:
    """A directory of armed points. Processes know it that were started with `environment`, and their children."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self.environment = {VARIABLE: str(directory)}

    def arm(self, point: str, words: str = "") -> None:
        """The next process that comes by dies there; `words` as in hapi.crashpoints."""
        assert point in POINTS, point
        (self._directory / f"{point}.fired").unlink(missing_ok=True)
        fresh = self._directory / f"{point}.new"
        fresh.write_text(words)
        fresh.rename(self._directory / point)

    def killed(self, point: str) -> int:
        """Wait until a process has died there; its pid."""
        return self._fired(point, {psutil.STATUS_ZOMBIE})

    def stopped(self, point: str) -> int:
        """Wait until a process stands still there; its pid, for `go_on`."""
        return self._fired(point, {psutil.STATUS_STOPPED})

    def clear(self) -> None:
        """Disarm all, and let go on what stands still."""
        for path in self._directory.iterdir():
            if path.name.endswith(".fired"):
                go_on(int(path.read_text()))
            path.unlink(missing_ok=True)

    def _fired(self, point: str, statuses: set[str]) -> int:
        path = self._directory / f"{point}.fired"
        until(path.exists, FIRES_S, f"a process comes to {point}")
        pid = int(path.read_text())
        until(lambda: _status(pid) in {*statuses, ""}, 5, f"process {pid} ends or stops at {point}")
        return pid


def go_on(pid: int) -> None:
    """SIGCONT, if the process is there and stands still."""
    if _status(pid) == psutil.STATUS_STOPPED:
        os.kill(pid, signal.SIGCONT)


def _status(pid: int) -> str:
    """What the kernel says of the process; "" when there is none."""
    try:
        return psutil.Process(pid).status()
    except psutil.NoSuchProcess:
        return ""
