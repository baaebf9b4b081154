"""Time that jumps, and processes that stand still: nobody is declared dead, nothing is doubled, all go on at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from hapi import procs
from hapi.journal import Journal
from tests.support.clock import WallClock
from tests.support.faults import boot_mixed, file_facts, let_finish, own_processes, pids, said, stopped
from tests.support.runner import Runner, command_line, identity
from tests.support.wait import until

STOPPED_S = 30.0
KINDS = ("broker", "hub", "reaper", "nursery", "supervisor", "agent")


def event_times(runner: Runner, session_id: str) -> list[int]:
    copy = runner.home / "journal-times"
    copy.write_bytes((runner.root / "sessions" / session_id / "journal").read_bytes())
    journal = Journal(copy)
    journal.close()
    return [numbered.at for numbered in journal.state.unconfirmed.values()]


def phases(runner: Runner) -> dict[str, str]:
    return {session["sessionId"]: session["phase"] for session in runner.sessions()}


class TestClock:
    @pytest.mark.timeout(120)
    def test_trap_27_the_wall_clock_decides_nothing(self, runner: Runner, clock: WallClock) -> None:
        """The clock is set to and fro under a whole runner, its agents and its commands; then the runner is restarted.

        Seen to fail: with `clock.monotonic` answering the wall clock's seconds.
        """
        runner.environment |= clock.environment | {"HAPI_RUNNER_HEARTBEAT_INTERVAL": "300"}
        runner.start()
        made = boot_mixed(runner)
        before, own = pids(runner.sessions()), own_processes(runner)
        told: list[str] = []
        for number, offset in enumerate(("+8h", "-8h", "+10y", "+0")):
            with spawning(runner) as spawned:
                clock.set(offset)
            runner.hapi("runner", "stop-session", spawned[0]["sessionId"], check=0)
            beat = heartbeat(runner)
            until(lambda beat=beat: heartbeat(runner) != beat, 10, "a heartbeat by the new clock")
            told.append(f"now {offset}")
            runner.hapi("send", made["idle"][0], f"/say {told[-1]}", check=0)
            until(lambda: said(runner, made["idle"][0]) == told, 15, "all that was said, in order")
            self._same(runner, made, before)
            assert own_processes(runner) == own, "no process of the runner was replaced"
            self._sane_words(runner, offset)
            if number % 2:
                runner.hapi("runner", "restart", check=0)
            else:
                runner.hapi("runner", "stop", check=0)
                runner.hapi("runner", "start", check=0)
            until(lambda: runner.status()["verdicts"].get("adopted") == 3, 10, "the new runner adopted all")
            self._same(runner, made, before)
            own = own_processes(runner)
        times = event_times(runner, made["idle"][0])
        assert times == sorted(set(times)), "the hub would show them in another order"

    @staticmethod
    def _same(runner: Runner, made: dict[str, list[str]], before: dict[str, tuple[int, int]]) -> None:
        assert pids(runner.sessions()) == before
        wanted = {key: phase for phase in made for key in made[phase]}
        until(lambda: phases(runner) == wanted, 10, "phases are right")
        status = runner.status()
        assert not status["counters"].get("supervisors_lost")
        assert all(worker["restarts"] == 0 for worker in status["workers"].values())

    @staticmethod
    def _sane_words(runner: Runner, offset: str) -> None:
        assert "overdue" not in runner.hapi("runner", "status", check=0).out
        listed = runner.hapi("runner", "list", check=0).out.splitlines()[1:]
        shown = {"+8h": " 8h 0m ", "-8h": " 0s ", "+10y": "d 0h ", "+0": "s "}[offset]
        assert [line for line in listed if line.strip() and shown not in line] == []

    def test_trap_27_a_heartbeat_is_not_late_because_the_clock_was_set(self, runner: Runner, clock: WallClock) -> None:
        """The last beat is 8 hours old by the wall clock, and a moment old in truth.

        Seen to fail: with its age taken from the wall clock, as it was.
        """
        runner.environment |= clock.environment
        runner.start()
        until(lambda: heartbeat(runner), 10, "the first heartbeat")
        clock.set("+8h")
        shown = runner.hapi("runner", "status", check=0).out
        assert "heartbeat" in shown
        assert "overdue" not in shown


@contextmanager
def spawning(runner: Runner) -> Iterator[list[dict[str, Any]]]:
    """Inside, a session is starting; afterwards it is ready, and in the list."""
    spawned: list[dict[str, Any]] = []
    command = [sys.executable, "-m", "hapi", "runner", "spawn", str(runner.project), "--agent", "demo", "--json"]
    environment = runner.environment | {"HAPI_DEMO_START": "slow:1.5"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        until(lambda: "starting" in phases(runner).values(), 15, "the session is starting")
        yield spawned
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, (out, err)
        spawned.append(json.loads(out))


def heartbeat(runner: Runner) -> datetime | None:
    found = runner.status()["lastHeartbeat"]
    return None if found is None else datetime.fromisoformat(found)


class Standstill:
    """One runner of which one process stands still, with a session in every phase."""

    def __init__(self, home: Path, kind: str) -> None:
        self.runner = Runner(home)
        self.kind = kind
        self.runner.environment["HAPI_RUNNER_HEARTBEAT_INTERVAL"] = "500"
        self.runner.environment["HAPI_RUNNER_WEBHOOK_TIMEOUT_MS"] = "8000"

    def prepare(self) -> None:
        self.runner.start()
        self.made = boot_mixed(self.runner)
        self.idle, self.working, self.waiting = (self.made[phase][0] for phase in ("idle", "working", "waiting"))
        self.chatting = [self.runner.spawn()["sessionId"] for _ in range(8 if self.kind == "broker" else 0)]
        self.own = own_processes(self.runner)
        self.before = pids(self.runner.sessions())
        supervisor, agent = self.before[self.working]
        others = {"supervisor": identity(supervisor), "agent": identity(agent)}
        self.victim = (self.own | others)[self.kind]

    def stand_still(self) -> None:
        """The fault, and what a user may try meanwhile."""
        for session_id in self.chatting:
            self.runner.hapi("send", session_id, f"/slow {STOPPED_S:g} 3000", check=0)
        over = threading.Event()
        files = file_facts(self.runner, "runner.state.json.lock")
        timer = threading.Timer(STOPPED_S, over.set)
        with stopped(self.victim):
            timer.start()
            self.meanwhile()
            assert over.wait(STOPPED_S)
            assert file_facts(self.runner, "runner.state.json.lock") == files
            brokers = [p for p in self.runner.processes() if "hapi: broker" in command_line(p.pid)]
            assert brokers == [self.own["broker"]]
            assert all(procs.identity(pid) for pair in self.before.values() for pid in pair), "somebody was ended"

    def meanwhile(self) -> None:
        runner = self.runner
        if self.kind == "broker":
            state = file_facts(runner, "runner.state.json")
            for command in ("start", "list", "status"):
                done = runner.hapi("runner", command, "--json")
                assert done.code == 1, done
                assert done.json["error"]["code"] == "timeout"
                assert "holds its lock" in done.json["error"]["message"]
            assert file_facts(runner, "runner.state.json") == state
            return
        assert "already" in runner.hapi("runner", "start", check=0).out
        if self.kind == "nursery":
            refused = runner.hapi("runner", "spawn", str(runner.project), "--agent", "demo", "--json", check=1)
            assert refused.json["error"]["code"] == "agent_timeout"
        answered = {key: runner.hapi("send", key, "/say meanwhile").code == 0 for key in (self.idle, self.working)}
        assert answered == {self.idle: True, self.working: self.kind != "supervisor"}

    def recover(self) -> None:
        runner = self.runner
        expected = 0 if self.kind == "broker" else 1
        let_finish(runner, [self.working])
        for session_id in (self.idle, self.working):
            until(lambda key=session_id: said(runner, key).count("meanwhile") >= expected, 30, "sent while it stood")
        for session_id in (self.idle, self.working, *self.chatting):
            runner.hapi("send", session_id, "/say afterwards", check=0)
        runner.wait_phase(self.working, "idle", deadline_s=STOPPED_S)
        for session_id in (self.idle, self.working):
            until(lambda key=session_id: "afterwards" in said(runner, key), 30, "it answers")
            assert said(runner, session_id).count("meanwhile") == expected
        assert runner.session(self.waiting)["phase"] == "waiting"  # type: ignore[index]
        assert own_processes(runner) == self.own
        until(lambda: pids(runner.sessions()) == self.before, 15, "the same sessions, the same processes")
        self.status_is_well()

    def status_is_well(self) -> None:
        beat = heartbeat(self.runner)
        until(lambda: heartbeat(self.runner) != beat, 15, "the heart beats")
        status = self.runner.status()
        assert status["verdicts"] == {}
        assert not status["counters"].get("supervisors_lost")
        assert {name: worker["restarts"] for name, worker in status["workers"].items()} == dict.fromkeys(
            status["workers"], 0
        )
        shown = self.runner.hapi("runner", "status", check=0).out
        assert "overdue" not in shown


@pytest.mark.timeout(240)
def test_trap_09_a_process_that_stands_still_for_half_a_minute_is_not_dead(scratch: Path) -> None:
    """Each kind of process, in a runner of its own, all at the same time; the broker's has 8 sessions talking.

    Seen to fail: with a `runner start` that takes over from a broker that does not answer.
    """
    with ExitStack() as stack, ThreadPoolExecutor(len(KINDS)) as pool:
        cases = [Standstill(scratch / kind / "h", kind) for kind in KINDS]
        for case in cases:
            stack.enter_context(case.runner)
        steps: list[Callable[[Standstill], Any]] = [Standstill.prepare, Standstill.stand_still, Standstill.recover]
        for step in steps:
            for case, done in [(case, pool.submit(step, case)) for case in cases]:
                failure = done.exception()
                assert failure is None, f"{case.kind}: {step.__name__}: {failure!r}"
