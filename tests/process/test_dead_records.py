"""What a crash leaves behind in numbers: records, sockets, half-made sessions. A start deals with all of it, promptly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from hapi import procs
from hapi.ids import ProcessId
from tests.support.damage import changed, copies, crash_runner, dead_session, put
from tests.support.power import kill_all
from tests.support.runner import Runner, command_line
from tests.support.wait import until

RECORDS = 50


def dead_socket(path: Path) -> None:
    """A socket file that nobody listens on any more."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


def time_of_start(runner: Runner) -> float:
    begun = time.monotonic()
    runner.hapi("runner", "start", check=0)
    passed = time.monotonic() - begun
    runner.hapi("runner", "stop", check=0)
    return passed


def test_trap_13_fifty_dead_records_and_sockets_delay_nothing(runner: Runner) -> None:
    """Half of the dead supervisors' pids are a living process's. Compared with an empty home in the same minute.

    Seen to fail: with 0.3 s spent on every record, and with `is_alive` by pid alone.
    """
    template = dead_session(runner)
    record = json.loads((template / "state.json").read_bytes())
    found = copies(template, [str(number) for number in range(RECORDS)])
    for number, directory in enumerate(found.values()):
        pid = os.getpid() if number % 2 else record["supervisor"]["pid"]
        wrong = record["supervisor"] | {"pid": pid}
        put(directory / "state.json", changed((directory / "state.json").read_bytes(), supervisor=wrong))
        dead_socket(runner.home / "run" / f"session-{number}.sock")
    assert [path.name for path in (runner.home / "run").glob("b*.sock")]  # SIGKILL left ours behind as well
    with Runner(runner.home.parent / "e") as empty:
        compared = time_of_start(empty)
    assert time_of_start(runner) < 3 * compared + 2
    assert "quarantined" not in runner.start()["verdicts"]
    until(lambda: not runner.sessions(), 20, "the reaper has looked after all of them")
    ended = runner.sessions("--ended")
    assert len(ended) == RECORDS + 1
    assert {session["reason"] for session in ended} == {"supervisor lost"}


def spawning(runner: Runner, key: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hapi", "runner", "spawn", str(runner.project), "--agent", "demo", "--id", key],
        env=runner.environment | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def supervisor_of(runner: Runner, key: str) -> ProcessId | None:
    """The supervisor's process by its title, as early as it has one."""
    return next((p for p in runner.processes() if f"session [default] {key[:8]}" in command_line(p.pid)), None)


@pytest.mark.parametrize("moment", ["directory", "record", "agent", "ready", "stopping"])
def test_trap_13_a_supervisor_that_dies_in_create_or_stop(runner: Runner, moment: str) -> None:
    """The next start deals with what it left: the session is listed as ended, nothing of it runs, new ones work.

    Seen to fail: without `CloseRecord` when the reaper has looked (`Core._supervisor_gone`).
    """
    key = str(uuid.uuid4())
    directory = runner.home / "sessions" / key
    runner.start()
    slow = {} if moment in {"ready", "stopping"} else {"HAPI_DEMO_START": "slow:30"}
    with spawning(runner, key, **slow) as process:
        supervisor = until(lambda: supervisor_of(runner, key), 20, "the supervisor is there")
        match moment:
            case "directory":
                until(directory.exists, 20, "its directory is there")
            case "record":
                until((directory / "state.json").exists, 20, "its record is there")
            case "agent":
                until(lambda: procs.children(supervisor.pid), 20, "its agent is there")
            case _:
                process.wait(30)
        if moment == "stopping":
            runner.hapi("send", key, "/ignore-signals", check=0)
            runner.wait_phase(key, "idle")
            stop = subprocess.Popen(
                [sys.executable, "-m", "hapi", "runner", "stop-session", key],
                env=runner.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            until(lambda: b'"stopping"' in (directory / "state.json").read_bytes(), 20, "it is stopping")
        crash_runner(runner)  # first, so that nobody tidies up
        procs.send_signal(supervisor, signal.SIGKILL)
        process.wait(30)
        if moment == "stopping":
            stop.wait(40)
    kill_all(runner) if moment == "record" else None
    runner.start()
    if (directory / "state.json").exists():
        ended = runner.wait_phase(key, "ended")
        assert ended["reason"] == ("stopped by user" if moment == "stopping" else "supervisor lost")
        assert json.loads((directory / "state.json").read_bytes())["phase"] == "ended"
    until(lambda: not any("demo" in command_line(p.pid) for p in runner.processes()), 20, "no agent is left")
    assert sum(runner.status()["verdicts"].values()) == len(list((runner.home / "sessions").iterdir())) == 1
    again = runner.spawn()
    runner.hapi("runner", "stop-session", again["sessionId"], check=0)
