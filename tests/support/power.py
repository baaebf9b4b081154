"""The end of the machine below a runner, and what is then on its disk."""

from __future__ import annotations

import json
import signal
import uuid
from pathlib import Path

from hapi import procs
from hapi.ids import ProcessId
from tests.support.runner import Runner
from tests.support.wait import until


def kill_all(runner: Runner) -> None:
    """SIGKILL every process of the home at once, as a power cut does, and wait until they are gone."""

    def kill() -> bool:
        for victim in runner.processes():
            procs.send_signal(victim, signal.SIGKILL)
        return not runner.processes()

    until(kill, 10, "everything is gone")


def power_cut(runner: Runner) -> None:
    """The machine goes down and comes up: all processes die, and what is on disk is of another boot."""
    kill_all(runner)
    age_records(runner)


def age_records(runner: Runner) -> None:
    """Make all records on disk those of a boot that is over."""
    boot = str(uuid.uuid4())
    for path in (runner.root / "sessions").glob("*/state.json"):
        record = json.loads(path.read_text())
        for key in ("supervisor", "agent_process"):
            if record.get(key):
                record[key]["boot_id"] = boot
        path.write_text(json.dumps(record))


def record(runner: Runner, session_id: str) -> dict[str, object]:
    """What the session's state.json says."""
    found: dict[str, object] = json.loads(directory(runner, session_id).joinpath("state.json").read_text())
    return found


def rewrite(runner: Runner, session_id: str, **changes: object) -> None:
    """Change the session's state.json."""
    directory(runner, session_id).joinpath("state.json").write_text(json.dumps(record(runner, session_id) | changes))


def directory(runner: Runner, session_id: str) -> Path:
    """The session's directory."""
    return runner.root / "sessions" / session_id


def supervisor(session: dict[str, object]) -> ProcessId:
    """Who supervises a session, as `spawn` or `list` told it."""
    found = procs.identity(int(str(session["pid"])))
    assert found is not None, "no supervisor"
    return found
