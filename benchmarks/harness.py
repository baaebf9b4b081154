"""What every benchmark needs: a private home with a real runner, patience, a stopwatch, works that take turns.

A benchmark is a module of this package with a docstring that says what it measures, `FULL` and `QUICK` (its numbers at full size, and at
the smallest that still measures something) and `measure(**numbers) -> list[Result]`. `python -m benchmarks NAME` runs it (benchmarks.run).
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import hapi
from benchmarks.figures import Row
from hapi import config, procs, wire
from hapi.control import Control
from hapi.ids import ProcessId, new_session_id

_NOT_OURS = ("HAPI_", "CLI_API_", "PYTHONDONTWRITEBYTECODE")  # without bytecode on disk each process compiles it all
AT_ONCE = 8  # sessions that start at the same time
_POLL_S = 0.002


def own_environment() -> dict[str, str]:
    """The caller's environment without what would make the figures another configuration's."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_NOT_OURS)}


class Home:
    """A runner's home of its own, with the real command line and a direct line to the broker."""

    def __init__(self, path: Path) -> None:
        self.path = path / "h"
        self.project = path / "project"
        for directory in (self.path, self.project):
            directory.mkdir(mode=0o700, parents=True)
        self.use(own_environment() | {"HAPI_HOME": str(self.path)})

    def use(self, environment: dict[str, str]) -> None:
        """Run commands in that environment from now on: with a hub, its token, a PATH."""
        self.environment = environment
        self.control = Control(config.load(environ=environment))

    def hapi(self, *words: str) -> str:
        """Run a command; its output. Raises CalledProcessError."""
        command = [sys.executable, "-m", "hapi", *words]
        done = subprocess.run(
            command, env=self.environment, cwd=self.project, capture_output=True, check=True, timeout=120
        )
        return done.stdout.decode()

    def status(self) -> wire.Status:
        return self.control.ask(wire.GetStatus(), wire.Status, 30.0)

    def sessions(self) -> list[wire.SessionInfo]:
        return self.control.ask(wire.ListSessions(), wire.SessionList, 30.0).sessions

    def kill_broker(self) -> None:
        """SIGKILL, and wait for it and its workers to be gone."""
        status = self.status()
        pids = [status.pid, *(worker.pid for worker in status.workers.values())]
        victims = [who for pid in pids if (who := procs.identity(pid)) is not None]
        os.kill(status.pid, signal.SIGKILL)
        wait(lambda: not any(map(procs.is_alive, victims)), 30, "the old runner is gone")

    def clean(self) -> list[ProcessId]:
        """End all that was started here; what could not be ended."""
        self.hapi("doctor", "clean", "--yes")
        left = procs.marked("HAPI_HOME", str(self.path))
        for process in left:
            procs.send_signal(process, signal.SIGKILL)
        return left


@contextmanager
def private_home() -> Iterator[Home]:
    """A home that is cleaned up and removed at the end, whatever happens."""
    path = Path(tempfile.mkdtemp(prefix="hapi-b-", dir="/tmp"))
    home = Home(path)
    try:
        yield home
    finally:
        home.clean()
        shutil.rmtree(path, ignore_errors=True)


def wait(probe: Callable[[], Any], deadline_s: float, what: str) -> Any:
    """Poll until `probe` answers something true, and return that. Raises TimeoutError with `what`."""
    end = time.monotonic() + deadline_s
    while not (value := probe()):
        if time.monotonic() > end:
            raise TimeoutError(f"not within {deadline_s:g} s: {what}")
        time.sleep(_POLL_S)
    return value


def settled(probe: Callable[[], float], share: float, window_s: float = 0.5, deadline_s: float = 20.0) -> float:
    """Look until two looks, `window_s` apart, differ by less than `share`; the last one. Raises TimeoutError."""
    end, last = time.monotonic() + deadline_s, probe()
    while True:
        time.sleep(window_s)
        value = probe()
        if abs(value - last) <= share * last:
            return value
        if time.monotonic() > end:
            raise TimeoutError(f"not settled within {deadline_s:g} s: {last:g}, {value:g}")
        last = value


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def interleave(rounds: int, works: dict[str, Callable[[], float]]) -> list[Row]:
    """A row of seconds for each work, taking turns (A B A B; the order is turned round every second time)."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds):
        for name in list(works) if number % 2 == 0 else reversed(works):
            taken[name].append(works[name]())
    return [Row(name, seconds) for name, seconds in taken.items()]


def populate(home: Home, count: int, at_once: int = AT_ONCE) -> list[float]:
    """Spawn idle demo sessions over the control socket, so many at a time; the seconds of each. Raises what a spawn raises."""

    def spawn(_: int) -> float:
        order = wire.Spawn(
            session_id=new_session_id(), directory=str(home.project), agent="demo", started_by="terminal"
        )
        return timed(lambda: home.control.ask(order, wire.Spawned, 60.0))

    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(spawn, range(count)))


def machine() -> str:
    """What the figures were taken on."""
    memory = psutil.virtual_memory().total / 2**30
    python = platform.python_version()
    return f"hapi {hapi.__version__}, Python {python}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}"
