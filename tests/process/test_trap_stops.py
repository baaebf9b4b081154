"""Stops that tell the truth: what is said, when, and what remains true afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading

import pytest

from hapi import procs, wire
from hapi.ids import ProcessId
from tests.support.agents import control, family, members, program
from tests.support.power import kill_all
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until

BUSY = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
if os.fork() == 0:
    if os.fork() == 0:
        os.setsid()
    for fd in (0, 1, 2):
        os.close(fd)
    with open(PLACE, "a") as file:
        file.write(f"{os.getpid()}\\n")
    while True:
        pass
"""

HEARS = """
signal.signal(signal.SIGTERM, lambda *_: open(PLACE + ".term", "w").close())
open(PLACE, "a").write(f"{os.getpid()}\\n")
while True:
    signal.pause()
"""


def test_trap_03_stopped_is_said_when_the_tree_is_gone_and_not_before(runner: Runner) -> None:
    """An agent deaf to cancel, end of input and SIGTERM, with two children that never sleep, asked by three at once.

    Seen to fail: without the wait for the tree in `AgentProcess.stop`.
    """
    place = program(runner, "busy", BUSY)
    place.write_text("")
    session = runner.spawn(agent="busy")
    runner.hapi("send", session["sessionId"], "/ignore-signals ; /hang", check=0)
    tree = [*members(place, 2), identity(session["agentPid"])]
    until(lambda: "ignore SIGTERM" in str(runner.events(session["sessionId"])), 10, "the agent is deaf")
    answers: list[tuple[str, str | None, list[ProcessId]]] = []

    def ask() -> None:
        reply = control(runner).ask(wire.StopSession(session["sessionId"]), wire.SessionStopped, 30)
        answers.append((reply.status, reply.rung, [process for process in tree if procs.is_alive(process)]))

    askers = [threading.Thread(target=ask) for _ in range(3)]
    for asker in askers:
        asker.start()
    while any(asker.is_alive() for asker in askers):
        (found,) = control(runner).ask(wire.ListSessions(ended=True), wire.SessionList).sessions
        if found.phase == "ended":
            assert not [process for process in tree if procs.is_alive(process)]
        askers[0].join(0.1)
    assert answers == [("stopped", "kill", [])] * 3


@pytest.mark.timeout(180)
def test_trap_03_a_supervisor_that_does_not_answer_is_still_alive(runner: Runner) -> None:
    """Stopped by a signal it can do nothing, and the answer within the deadline says so with its pids.

    Seen to fail: with `stopped` for `still_alive` where the broker gives a stop up.
    """
    session = runner.spawn()
    supervisor, agent = identity(session["pid"]), identity(session["agentPid"])
    os.kill(supervisor.pid, signal.SIGSTOP)
    try:
        done = runner.hapi("runner", "stop-session", session["sessionId"], "--json", check=1)
        assert done.json["status"] == "still_alive"
        assert set(done.json["survivors"]) == {supervisor.pid, agent.pid}
        assert procs.is_alive(agent)
    finally:
        os.kill(supervisor.pid, signal.SIGCONT)
    again = runner.hapi("runner", "stop-session", session["sessionId"], "--json", check=0)
    assert again.json["status"] in {"stopped", "already_gone"}
    assert not procs.is_alive(agent)
    assert runner.wait_phase(session["sessionId"], "ended")["reason"] == "stopped by user"


def test_trap_03_a_stop_of_a_start_waits_for_its_end_whatever_comes_meanwhile(runner: Runner) -> None:
    """A second order to end, a SIGTERM here, cut short what the first had begun: `stopped`, and the agent lived.

    Seen to fail: with a cancellation of the start for every order, and an undoing that can be cancelled.
    """
    runner.start()
    place = program(runner, "deaf", BUSY + HEARS, then_demo=False)
    place.write_text("")
    heard, key = runner.home / "deaf.said.term", "0b5d2b8e-0000-4000-8000-000000000003"
    starting = subprocess.Popen(
        [*runner.command, "runner", "spawn", str(runner.project), "--agent", "deaf", "--id", key],
        env=runner.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    tree = members(place, 3)
    (session,) = runner.sessions()
    supervisor = identity(session["pid"])
    answers: list[tuple[str, list[ProcessId]]] = []

    def ask() -> None:
        reply = control(runner).ask(wire.StopSession(key), wire.SessionStopped, 30)
        answers.append((reply.status, [process for process in tree if procs.is_alive(process)]))

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    until(heard.exists, 10, "the agent hears SIGTERM")
    procs.send_signal(supervisor, signal.SIGTERM)
    for asker in askers:
        asker.join(40)
    assert answers == [("stopped", [])] * 2
    assert "stopped while it was starting" in starting.communicate(timeout=20)[1]
    gone(supervisor)
    assert runner.wait_phase(key, "ended")["reason"] == "stopped by user"


@pytest.mark.parametrize("named", ["another start time", "the stranger's own identity"])
def test_trap_05_a_stranger_under_a_recorded_pid_is_left_alone(runner: Runner, named: str) -> None:
    """The record names a living process that is none of ours: nobody signals it, and the record is healed.

    Seen to fail: with identities compared by pid alone, and without the proof that `doctor clean` asks for.
    """
    session = runner.spawn()
    kill_all(runner)
    path = runner.home / "sessions" / session["sessionId"] / "state.json"
    with subprocess.Popen(["sleep", "600"]) as stranger:
        try:
            who = identity(stranger.pid)
            exact = named == "the stranger's own identity"
            recorded = {"pid": who.pid, "start_ticks": who.start_ticks - (not exact), "boot_id": who.boot_id}
            record = json.loads(path.read_text()) | {"supervisor": recorded}
            path.write_text(json.dumps(record | ({} if exact else {"agent_process": recorded})))
            assert runner.hapi("doctor", "clean", "--yes", check=0).out == "Nothing is running.\n"
            runner.start()
            found = runner.hapi("runner", "stop-session", session["sessionId"], "--json", check=0)
            assert found.json["status"] == "already_gone"
            assert runner.wait_phase(session["sessionId"], "ended")["reason"] == "supervisor lost"
            assert runner.spawn()["phase"] == "idle"
            runner.hapi("doctor", "clean", "--yes", check=0)
            assert stranger.poll() is None
        finally:
            stranger.kill()


@pytest.mark.timeout(180)
def test_trap_40_a_stopped_session_stays_stopped(runner: Runner) -> None:
    """Five times all of ours is killed and started again; also for a session whose stop was never finished.

    Seen to fail: without the reason on record before the first signal.
    """
    place = family(runner)
    done, cut = runner.spawn()["sessionId"], runner.spawn(agent="family")
    members(place)
    runner.hapi("runner", "stop-session", done, check=0)
    stopping = subprocess.Popen(
        [*runner.command, "runner", "stop-session", cut["sessionId"]],
        env=runner.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    runner.wait_phase(cut["sessionId"], "stopping")
    kill_all(runner)
    stopping.wait(40)
    for _ in range(5):
        runner.start()
        until(lambda: runner.sessions() == [], 15, "what was being stopped is proven gone")
        for session in (done, cut["sessionId"]):
            answer = runner.hapi("runner", "stop-session", session, "--json", check=0)
            assert answer.json["status"] == "already_gone"
            ended = runner.session(session)
            assert ended is not None
            assert ended["reason"] == "stopped by user"
        kill_all(runner)


def test_clean_without_a_runner_says_who_stopped_the_sessions(runner: Runner) -> None:
    """It waited 5 s for a ladder of 9, killed the supervisor, and the record said `supervisor lost`."""
    place = family(runner)
    session = runner.spawn(agent="family")
    tree = members(place)
    runner.hapi("runner", "stop", check=0)
    (result,) = runner.hapi("doctor", "clean", "--yes", "--json", check=0).json
    assert (result["name"], result["outcome"]) == (session["sessionId"], "stopped (SIGTERM)")
    assert not [process for process in tree if procs.is_alive(process)]
    runner.start()
    ended = runner.session(session["sessionId"])
    assert ended is not None
    assert ended["reason"] == "stopped by user"
