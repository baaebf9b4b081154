"""Descriptors: sessions come and go and leave none open; an agent gets three and no more."""

from __future__ import annotations

import json
import os

import pytest

from hapi import wire
from hapi.clock import monotonic
from hapi.ids import new_session_id
from tests.support.agents import control, program
from tests.support.runner import Runner
from tests.support.wait import until

SESSIONS, SECONDS = 100, 20.0
LISTS = """
import json, os, sys
found = [int(fd) for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")]
open(PLACE, "w").write(json.dumps(found))
"""


def descriptors(runner: Runner) -> dict[str, int]:
    """How many descriptors each of the runner's processes has open."""
    status = runner.status()
    pids = {"broker": status["pid"]} | {name: worker["pid"] for name, worker in status["workers"].items()}
    return {name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items() if pid}


def come_and_go(runner: Runner) -> None:
    order = wire.Spawn(
        session_id=new_session_id(),
        directory=str(runner.project),
        agent="demo",
        started_by="terminal",
        env=runner.environment,
    )
    control(runner).ask(order, wire.Spawned, 30)
    assert control(runner).ask(wire.StopSession(order.session_id), wire.SessionStopped, 30).status == "stopped"


@pytest.mark.timeout(180)
def test_trap_45_sessions_leave_no_descriptor_behind(runner: Runner) -> None:
    """A hundred at least, more if there is time for them; broker, nursery, hub connector and reaper stay as they were.

    Seen to fail: without the closing of the pidfd in `Reaper._unwatch`.
    """
    runner.start()
    for _ in range(3):
        come_and_go(runner)
    until(lambda: len(descriptors(runner)) == 4 and not runner.sessions(), 10, "all workers are there")
    before = descriptors(runner)
    ends, count = monotonic() + SECONDS, 0
    while count < SESSIONS or monotonic() < ends:
        come_and_go(runner)
        count += 1
    until(lambda: descriptors(runner) == before, 15, f"as few descriptors as before {count} sessions: {before}")


def test_trap_45_agents_hold_stdin_stdout_and_stderr_only(runner: Runner) -> None:
    """Also while others run.

    Seen to fail: with `close_fds=False` for the agent and a descriptor of ours that may be inherited.
    """
    place = program(runner, "lists", LISTS)
    runner.spawn()
    session = runner.spawn(agent="lists")
    assert sorted(json.loads(place.read_text())) == [0, 1, 2]
    assert sorted(os.listdir(f"/proc/{session['agentPid']}/fd")) == ["0", "1", "2"]
