"""Real faults for a runner's processes, and what to look at afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hapi import procs
from hapi.ids import ProcessId
from tests.support.runner import Runner, identity
from tests.support.wait import until

WORKERS = ("hub", "reaper", "nursery")
TURN_OVER = "the turn is over"


def own_processes(runner: Runner) -> dict[str, ProcessId]:
    """The broker and its three workers, by name, once all of them are up."""

    def look() -> dict[str, ProcessId] | None:
        status = runner.status()
        if not status["running"]:
            return None
        pids = {"broker": status["pid"]} | {name: status["workers"][name]["pid"] for name in WORKERS}
        found = {name: who for name, pid in pids.items() if pid and (who := procs.identity(pid)) is not None}
        return found if len(found) == len(pids) else None

    found = until(look, 20, "broker and workers are up")
    assert found is not None
    return found


def kill(processes: Iterable[ProcessId]) -> None:
    """SIGKILL them all as close together as can be, and wait until they are gone."""
    victims = list(processes)
    for process in victims:
        procs.send_signal(process, signal.SIGKILL)
    until(lambda: not any(map(procs.is_alive, victims)), 10, "the killed processes are gone")


@contextlib.contextmanager
def stopped(process: ProcessId) -> Iterator[None]:
    """Hold a process with SIGSTOP; it goes on afterwards, whatever happens."""
    assert procs.send_signal(process, signal.SIGSTOP)
    try:
        yield
    finally:
        procs.send_signal(process, signal.SIGCONT)


def pids(sessions: Iterable[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Session id → pid of supervisor and agent."""
    return {session["sessionId"]: (session["pid"], session["agentPid"]) for session in sessions}


def session_processes(session: dict[str, Any]) -> list[ProcessId]:
    """Supervisor, agent and whatever the agent started."""
    return [identity(session["pid"]), *procs.descendants(session["pid"])]


def said(runner: Runner, session_id: str) -> list[str]:
    """What the agent said, in order, as far as the hub has not confirmed it."""
    return [event.text for event in runner.events(session_id) if type(event).__name__ == "AgentText"]


def file_facts(runner: Runner, *names: str) -> dict[str, tuple[int, int, bytes]]:
    """Inode, time of change and content of files of the runner's directory: equal only if nobody touched them."""
    paths = [runner.root / name for name in names]
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in paths}


def boot_mixed(runner: Runner, idle: int = 1, working: int = 1, waiting: int = 1) -> dict[str, list[str]]:
    """Sessions of every live phase: phase → ids. The working ones stay busy until `let_finish`."""
    count = {"idle": idle, "working": working, "waiting": waiting}
    made = {phase: [runner.spawn()["sessionId"] for _ in range(number)] for phase, number in count.items()}
    for session_id in made["working"]:
        os.mkfifo(_gate(runner, session_id))
        runner.hapi("send", session_id, f"/edit {_gate(runner, session_id).name} x ; /say {TURN_OVER}", check=0)
    for session_id in made["waiting"]:
        runner.hapi("send", session_id, "/ask Bash", check=0)
    for phase, ids in made.items():
        for session_id in ids:
            runner.wait_phase(session_id, phase)
    return made


def let_finish(runner: Runner, session_ids: Iterable[str]) -> None:
    """Let the turns of these working sessions go on to their end; the agent then says TURN_OVER."""
    for session_id in session_ids:
        with _gate(runner, session_id).open("w") as gate:  # opens once the agent reads
            gate.write("go on")
        _gate(runner, session_id).read_text()  # and once it writes


def _gate(runner: Runner, session_id: str) -> Path:
    """A named pipe that the agent edits: that blocks until we read and write it."""
    return runner.project / f"gate-{session_id[:8]}"
