"""Whatever an agent has started is gone when its session is, whichever way that ended; and no zombie stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psutil
import pytest

from hapi import procs
from hapi.ids import ProcessId
from tests.support.agents import family, members, program
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until

CHILDREN = 2_000
MANY = f"""
import os, sys
if os.fork() == 0:
    null = os.open("/dev/null", os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for batch in range({CHILDREN} // 50):
        for child in range(50):
            if (pid := os.fork()) == 0:
                if os.fork():
                    os._exit(0)
                os._exit(0)  # an orphan, of the supervisor as soon as its parent has ended
            os.waitpid(pid, 0)
    open(PLACE, "w").write("done")
    os._exit(0)
"""


def alive(tree: list[ProcessId]) -> list[ProcessId]:
    return [process for process in tree if procs.is_alive(process)]


def kill(*processes: ProcessId) -> None:
    for process in processes:
        procs.send_signal(process, signal.SIGKILL)
    for process in processes:
        gone(process)


def workers(runner: Runner, *names: str) -> list[ProcessId]:
    def found() -> list[ProcessId]:
        known = runner.status()["workers"]
        return [who for name in names if (who := procs.identity(known[name]["pid"])) is not None]

    return until(lambda: len(there := found()) == len(names) and there, 10, f"{names} are there")


def stop(runner: Runner, session: str, _: ProcessId) -> None:
    done = runner.hapi("runner", "stop-session", session, "--json", check=0).json
    assert (done["status"], done["rung"]) == ("stopped", "kill")


def exit_of_agent(runner: Runner, session: str, _: ProcessId) -> None:
    runner.hapi("send", session, "/crash exit 0", check=0)


def supervisor_killed(_runner: Runner, _session: str, supervisor: ProcessId) -> None:
    kill(supervisor)


def supervisor_and_reaper_killed(runner: Runner, _: str, supervisor: ProcessId) -> None:
    kill(supervisor, *workers(runner, "reaper"))


def all_of_ours_killed(runner: Runner, _: str, supervisor: ProcessId) -> None:
    ours = workers(runner, "reaper", "nursery", "hub")
    kill(identity(runner.status()["pid"]), supervisor, *ours)
    runner.start()


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (stop, "stopped by user"),
        (exit_of_agent, "agent exited"),
        (supervisor_killed, "supervisor lost"),
        (supervisor_and_reaper_killed, "supervisor lost"),
        (all_of_ours_killed, "supervisor lost"),
    ],
)
def test_trap_04_nothing_survives(runner: Runner, end: Callable[[Runner, str, ProcessId], None], reason: str) -> None:
    """Children deaf to SIGTERM: plain, detached, detached without environment, stopped, stopped and detached, with a zombie.

    Seen to fail: without the subreaper (stop, exit); without the stamp (the deaths of the supervisor).
    """
    place = family(runner)
    session = runner.spawn(agent="family")
    tree = [*members(place), identity(session["agentPid"])]
    bystander = runner.spawn()
    end(runner, session["sessionId"], identity(session["pid"]))
    if end is not all_of_ours_killed:  # there the record is closed first: nobody else could have ended the session
        assert runner.wait_phase(session["sessionId"], "ended")["reason"] == reason
        assert alive(tree) == []
    until(lambda: not alive(tree), 15, "the tree is gone")
    assert runner.wait_phase(session["sessionId"], "ended")["reason"] == reason
    assert runner.wait_phase(bystander["sessionId"], "idle")["agentPid"] == bystander["agentPid"]
    assert procs.identity(bystander["agentPid"])


def zombies(pid: int) -> list[int]:
    return [p.pid for p in psutil.Process(pid).children() if p.status() == psutil.STATUS_ZOMBIE]


def test_trap_44_two_thousand_short_children_leave_no_zombie(runner: Runner) -> None:
    """Orphans, that is, whom only the supervisor can collect.

    Seen to fail: with a `reap` that collects the agent alone.
    """
    place = program(runner, "many", MANY)
    session = runner.spawn(agent="many")
    until(place.exists, 60, "all children have come and gone")
    until(lambda: not zombies(session["pid"]), 10, "all are collected")
    assert [process.pid for process in procs.descendants(session["pid"])] == [session["agentPid"]]
    runner.hapi("send", session["sessionId"], "hello", check=0)
    runner.wait_phase(session["sessionId"], "idle")
    assert runner.hapi("runner", "stop-session", session["sessionId"], "--json", check=0).json["rung"] == "eof"


def test_trap_44_zombies_count_as_dead(runner: Runner) -> None:
    """The family's zombie, whose parent never waits, is in nobody's list and holds up no stop.

    Seen to fail: with zombies among the living in `procs`.
    """
    place = family(runner)
    session = runner.spawn(agent="family")
    tree = members(place)
    (zombie,) = [pid for process in tree for pid in zombies(process.pid)]
    assert procs.identity(zombie) is None
    assert zombie not in [process.pid for process in procs.descendants(session["pid"])]
    os.kill(session["agentPid"], signal.SIGKILL)
    assert runner.wait_phase(session["sessionId"], "ended")["reason"] == "agent crashed"
    assert alive(tree) == []
