"""A stand-in service manager: what systemd does for deploy/hapi-runner.service, where no real one can be asked.

Restart=on-failure (an exit status other than 0 or a signal starts the unit again, 0 never does), KillMode=process
(a stop signals the main process only), StartLimitBurst. tests/support/systemd.py runs the real one.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

from hapi import procs, unitfile
from tests.support.runner import Runner

_START_LIMIT = 5
_STOP_S = 15


class ServiceManager:
    """Keeps one `hapi runner start-sync ARGUMENTS` alive, in a thread. `command` and `environment` count at each start.

    with ServiceManager(runner, "--workspace-root", "/srv") as manager:
        os.kill(manager.pid, signal.SIGKILL)
        manager.wait_starts(2)
    """

    def __init__(self, runner: Runner, *arguments: str) -> None:
        namespace = [] if runner.namespace == "default" else ["--namespace", runner.namespace]
        self.command = [sys.executable, "-m", "hapi", *namespace, "runner", "start-sync", *arguments]
        self.environment = runner.environment | {"HAPI_RUNNER_SUPERVISED": "1"}
        self.kill_mode = "process"
        self.pause_s = 0.0
        self.exits: list[int] = []
        self.starts = 0
        self._runner = runner
        self._changed = threading.Condition()
        self._main: subprocess.Popen[bytes] | None = None
        self._keep = False
        self._thread: threading.Thread | None = None

    @classmethod
    def of_unit(cls, runner: Runner, unit: Path) -> Self:
        """What an installed unit file asks for: its command, environment, KillMode and RestartSec."""
        text = unit.read_text()
        manager = cls(runner)
        manager.command = unitfile.command_of_unit(text, runner.environment["HOME"])
        assignments = [shlex.split(value)[0].replace("%%", "%") for value in values(text, "Environment")]
        manager.environment = {"HOME": runner.environment["HOME"]}  # as service managers do
        manager.environment |= dict(assignment.split("=", 1) for assignment in assignments)
        manager.kill_mode = "".join(values(text, "KillMode")) or "control-group"
        manager.pause_s = float("".join(values(text, "RestartSec")) or 0.1)
        return manager

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The main process. Fails when the unit is down."""
        assert self._main is not None, f"the unit is down; exit statuses so far: {self.exits}"
        return self._main.pid

    @property
    def active(self) -> bool:
        """Whether the unit is up, or about to be started again."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """`systemctl start`: returns when the main process exists. Does nothing when the unit is up."""
        if self.active:
            return
        self._keep = True
        before = self.starts
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()
        self.wait_starts(before + 1)

    def stop(self) -> None:
        """`systemctl stop`: SIGTERM to the main process, SIGKILL if it will not end.

        Only with another KillMode than process the signals go to all that the unit has started.
        """
        with self._changed:
            self._keep = False
            self._changed.notify_all()
            if self.kill_mode != "process":
                for process in self._runner.processes():
                    procs.send_signal(process, signal.SIGTERM)
            elif self._main is not None:
                self._main.send_signal(signal.SIGTERM)
        if self._thread is not None:
            self._thread.join(_STOP_S)
            if self._thread.is_alive() and self._main is not None:
                self._main.kill()
                self._thread.join(_STOP_S)

    def restart(self) -> None:
        """`systemctl restart`: a stop, then a start."""
        self.stop()
        self.start()

    def wait_starts(self, count: int, deadline_s: float = 20) -> int:
        """Wait until the unit has been started `count` times in all; the main process's pid."""
        with self._changed:
            came = self._changed.wait_for(lambda: self.starts >= count, deadline_s)
            assert came, f"started {self.starts} times, not {count}; exit statuses: {self.exits}"
        return self.pid

    def wait_down(self, deadline_s: float = 20) -> int:
        """Wait until the unit is down for good; the last exit status."""
        assert self._thread is not None, "the unit was never started"
        self._thread.join(deadline_s)
        assert not self._thread.is_alive(), f"the unit is still up; exit statuses: {self.exits}"
        return self.exits[-1]

    def _supervise(self) -> None:
        for _ in range(_START_LIMIT):
            if self._once() == 0:
                return
            with self._changed:
                if self._changed.wait_for(lambda: not self._keep, self.pause_s):
                    return

    def _once(self) -> int:
        """Run the main process to its end; its exit status, a signal's number negated."""
        with self._changed:
            if not self._keep:
                return 0
            self._main = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self._runner.project,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
            self.starts += 1
            self._changed.notify_all()
        status = self._main.wait()
        with self._changed:
            self._main = None
            self.exits.append(status)
            self._changed.notify_all()
        return status


def values(text: str, key: str) -> list[str]:
    """What a unit file says for a key, line by line."""
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]
