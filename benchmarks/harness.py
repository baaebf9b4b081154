"""What every benchmark needs: a private home, real processes, medians, a table, and the floor beside each figure."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import psutil

import hapi
from hapi import config, procs, wire
from hapi.control import Control
from hapi.ids import ProcessId

RESULTS = Path(__file__).parent / "RESULTS.md"
_POLL_S = 0.002


class Home:
    """A runner's home of its own, with the real command line and a direct line to the broker."""

    def __init__(self, path: Path) -> None:
        self.path = path / "h"
        self.project = path / "project"
        for directory in (self.path, self.project):
            directory.mkdir(mode=0o700, parents=True)
        own = {key: value for key, value in os.environ.items() if not key.startswith(("HAPI_", "CLI_API_"))}
        self.environment = own | {"HAPI_HOME": str(self.path)}
        os.environ["HAPI_HOME"] = str(self.path)
        self.control = Control(config.load("default"))

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


def timed(work: Callable[[], Any]) -> float:
    """Seconds that `work` takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


class Row(msgspec.Struct, frozen=True):
    """One line of a table: seconds per round, and beside which floor they stand."""

    name: str
    seconds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def table(title: str, floor: Row, rows: list[Row]) -> str:
    """Medians with their ratio to the floor of the same run, as Markdown."""
    lines = [f"### {title}", "", "| | median | rounds | times the floor |", "|---|---|---|---|"]
    for row in [floor, *rows]:
        rounds = " ".join(f"{second:.2f}" for second in row.seconds)
        lines.append(f"| {row.name} | {row.median:.2f} s | {rounds} | {row.median / floor.median:.1f} |")
    return "\n".join(lines)


def machine() -> str:
    """What the figures were taken on."""
    memory = psutil.virtual_memory().total / 2**30
    python = platform.python_version()
    return f"hapi {hapi.__version__}, Python {python}, {os.cpu_count()} cores, {memory:.0f} GB, {platform.system()}"


def options(description: str, **numbers: int) -> argparse.Namespace:
    """The options of a benchmark: its numbers with their defaults, and `--record`."""
    parser = argparse.ArgumentParser(description=description)
    for name, default in numbers.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--record", action="store_true", help=f"append the results to {RESULTS.name}")
    return parser.parse_args()


def report(text: str, *, record: bool) -> None:
    """Print the results, and keep them where that is asked for."""
    print(f"\n{text}\n\n{machine()}, load {os.getloadavg()[0]:.1f}")
    if record:
        day = time.strftime("%Y-%m-%d")
        with RESULTS.open("a") as file:
            file.write(f"{text}\n\n{day}, {machine()}\n\n")
