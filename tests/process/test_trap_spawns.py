"""Spawns: one process for one id whatever happens on the way; late ones leave nothing; failed ones say why."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import zmq

from hapi import procs, wire
from hapi.ids import SESSION_MARK, ProcessId, new_session_id
from tests.support.agents import control, program
from tests.support.git import git
from tests.support.runner import Runner, command_line, gone, identity
from tests.support.wait import until

WORKS = """
import signal
open("work.txt", "w").write("an hour's work")
signal.pause()
"""


@pytest.fixture
def impatient(runner: Runner) -> Runner:
    """A runner that gives an agent two seconds, in a project under git."""
    return with_patience(runner, 2000)


def with_patience(runner: Runner, milliseconds: int) -> Runner:
    runner.environment["HAPI_RUNNER_WEBHOOK_TIMEOUT_MS"] = str(milliseconds)
    git(runner.project, "init", "-q", "-b", "main")
    git(runner.project, "commit", "-q", "--allow-empty", "-m", "first")
    runner.start()
    return runner


def worktrees(runner: Runner) -> list[Path]:
    """The worktrees that lie beside the project, by the disk and by git."""
    place = runner.project.parent / f"{runner.project.name}-worktrees"
    listed = git(runner.project, "worktree", "list", "--porcelain").split("\n\n")
    assert len(listed) - 1 == len(list(place.glob("*")))
    return list(place.glob("*"))


def order(runner: Runner, **more: Any) -> wire.Spawn:
    environ = runner.environment | more.pop("env", {})
    values = {"directory": str(runner.project), "agent": "demo", "started_by": "terminal", "env": environ} | more
    return wire.Spawn(session_id=new_session_id(), **values)


def spawning(runner: Runner, *words: str, **environ: str) -> subprocess.Popen[str]:
    """`hapi runner spawn`, begun."""
    return subprocess.Popen(
        [*runner.command, "runner", "spawn", str(runner.project), "--json", *words],
        env=runner.environment | environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip


def of_session(session_id: str) -> list[ProcessId]:
    """The agent's processes."""
    return procs.marked(SESSION_MARK, session_id)


def supervisors(runner: Runner) -> list[ProcessId]:
    return [process for process in runner.processes() if command_line(process.pid).startswith("hapi: session")]


def starting(runner: Runner) -> dict[str, Any]:
    """The session that is starting, once its agent runs."""
    found = until(lambda: [s for s in runner.sessions() if of_session(s["sessionId"])], 15, "the agent is starting")
    return found[0]


class TestLate:
    @pytest.mark.parametrize("fault", ["slow:60", "hang"])
    def test_trap_07_an_agent_that_is_late_is_none(self, impatient: Runner, fault: str) -> None:
        """Retried three times: no ghost of any of them, and no worktree.

        Seen to fail: without the end of the agent, or the removal of the worktree, in `Starter.undo`.
        """
        for _ in range(3):
            done = impatient.hapi(
                "runner", "spawn", str(impatient.project), "--agent", "demo", "--worktree", "late", "--json",
                env={"HAPI_DEMO_START": fault}, check=1,
            )  # fmt: skip
            assert done.json["error"]["code"] == "agent_timeout"
        assert impatient.sessions() == []
        until(lambda: not supervisors(impatient), 10, "no supervisor is left")
        for session in impatient.sessions("--ended"):
            assert session["reason"] == "spawn failed"
            assert of_session(session["sessionId"]) == []
        assert worktrees(impatient) == []

    def test_trap_07_a_worktree_with_work_in_it_is_kept_and_said(self, impatient: Runner) -> None:
        """git said so, but its exit status had gone to the collector of children, and success was believed.

        Seen to fail: without `stop_reaping` before git runs; with `worktree remove --force`.
        """
        program(impatient, "works", WORKS, then_demo=False)
        done = impatient.hapi(
            "runner", "spawn", str(impatient.project), "--agent", "works", "--worktree", "late", "--json", check=1
        )
        error = done.json["error"]
        assert error["code"] == "agent_timeout"
        (kept,) = worktrees(impatient)
        assert (kept / "work.txt").read_text() == "an hour's work"
        assert f"Kept the worktree {kept}" in error["hint"]
        (ended,) = impatient.sessions("--ended")
        assert str(kept) in ended["detail"]

    def test_trap_07_a_child_that_wakes_after_it_was_given_up_ends(self, runner: Runner) -> None:
        """Its supervisor sleeps through the deadline of the broker, which tells the asker; then it goes on.

        Seen to fail: without the supervisor's own deadline together with the `refused` of the broker; one net suffices.
        """
        with_patience(runner, 6000)
        asker = spawning(runner, "--agent", "demo", "--worktree", "late", HAPI_DEMO_START="slow:5")
        session = starting(runner)
        supervisor = identity(session["pid"])
        os.kill(supervisor.pid, signal.SIGSTOP)
        out, _ = asker.communicate(timeout=40)
        os.kill(supervisor.pid, signal.SIGCONT)
        assert "agent_timeout" in out
        gone(supervisor, 20)
        assert of_session(session["sessionId"]) == []
        assert runner.sessions() == []
        assert runner.wait_phase(session["sessionId"], "ended")["reason"] == "spawn failed"
        assert worktrees(runner) == []

    def test_trap_07_a_supervisor_killed_while_it_starts(self, impatient: Runner) -> None:
        """Seen to fail: without the reaper's clean-up after the death of a supervisor."""
        asker = spawning(impatient, "--agent", "demo", HAPI_DEMO_START="slow:60")
        session = starting(impatient)
        tree = of_session(session["sessionId"])
        os.kill(session["pid"], signal.SIGKILL)
        out, _ = asker.communicate(timeout=30)
        assert "supervisor lost" in out
        assert [process for process in tree if procs.is_alive(process)] == []
        assert impatient.sessions() == []
        again = impatient.hapi(
            "runner", "spawn", str(impatient.project), "--id", session["sessionId"], "--json", check=1
        )
        assert again.json["error"]["code"] == "session_ended"
        assert of_session(session["sessionId"]) == []

    def test_trap_07_a_nursery_killed_while_a_session_starts(self, runner: Runner) -> None:
        """What the asker is told is so: here, that the session runs, for its supervisor has its order already.

        Seen to fail: with every pending spawn answered as failed when the nursery dies.
        """
        runner.start()
        nursery = until(lambda: runner.status()["workers"]["nursery"]["pid"], 5, "the nursery is up")
        asker = spawning(runner, "--agent", "demo", HAPI_DEMO_START="slow:6")
        session = starting(runner)
        os.kill(nursery, signal.SIGKILL)
        assert runner.wait_phase(session["sessionId"], "starting")
        out, _ = asker.communicate(timeout=40)
        assert asker.returncode == 0, out
        (found,) = runner.sessions()
        assert (found["sessionId"], found["pid"], found["phase"]) == (session["sessionId"], session["pid"], "idle")

    def test_a_stop_while_git_makes_the_worktree_wins_and_leaves_none(self, impatient: Runner) -> None:
        """The thread that made it could not be cancelled, went on, and nobody removed what it made.

        Seen to fail: without the end of git and the wait for its thread in `Starter._prepared`.
        """
        hook = impatient.project / ".git" / "hooks" / "post-checkout"
        hook.write_text(f"#!/bin/sh\ntouch {impatient.home}/hook-runs\nsleep 60\n")
        hook.chmod(0o755)
        asker = spawning(impatient, "--agent", "demo", "--worktree", "stopped")
        until((impatient.home / "hook-runs").exists, 15, "git is at it")
        (session,) = impatient.sessions()
        done = impatient.hapi("runner", "stop-session", session["sessionId"], "--json", check=0)
        assert done.json["status"] == "stopped"
        assert "stopped_during_start" in asker.communicate(timeout=30)[0]
        assert of_session(session["sessionId"]) == []
        assert worktrees(impatient) == []


class TestRetries:
    def test_trap_08_a_lost_reply_and_ten_retries_are_one_process(self, runner: Runner) -> None:
        """The first asker is gone before the answer. Five ask again one after another, and five at once.

        Seen to fail: without the memory of pending and of live sessions in `Core._spawn`.
        """
        runner.start()
        wanted, other = order(runner, env={"HAPI_DEMO_START": "slow:1"}), order(runner)
        send_and_leave(runner, wanted)
        until(lambda: of_session(wanted.session_id), 15, "the agent is starting")
        answers: list[wire.Spawned] = []

        def ask() -> None:
            answers.append(control(runner).ask(wanted, wire.Spawned, 30))

        for _ in range(5):
            ask()
        askers = [threading.Thread(target=ask) for _ in range(5)]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(40)
        assert len({(a.info.session_id, a.info.supervisor, a.info.agent_process) for a in answers}) == 1
        assert [answer.existing for answer in answers] == [True] * 10
        assert [answer.info.phase for answer in answers] == ["idle"] * 10
        different = control(runner).ask(other, wire.Spawned, 30)
        assert different.existing is False
        assert different.info.agent_process != answers[0].info.agent_process
        assert len(supervisors(runner)) == len(runner.sessions()) == 2

    def test_trap_08_five_at_once_from_the_first(self, runner: Runner) -> None:
        """Exactly one of them is told that it started something.

        Seen to fail: with `existing` false for all who waited for the start.
        """
        runner.start()
        wanted = order(runner)
        answers: list[wire.Spawned] = []
        askers = [
            threading.Thread(target=lambda: answers.append(control(runner).ask(wanted, wire.Spawned, 30)))
            for _ in range(5)
        ]
        for asker in askers:
            asker.start()
        for asker in askers:
            asker.join(40)
        assert sorted(answer.existing for answer in answers) == [False, True, True, True, True]
        assert len({answer.info.agent_process for answer in answers}) == 1
        assert len(supervisors(runner)) == 1

    def test_trap_08_a_retry_after_the_brokers_death_joins_the_start(self, runner: Runner) -> None:
        """The reply was lost with the broker. The retry waits for the start under way, and is told the truth of it.

        Seen to fail: with an answer at once for every live session, ready or not.
        """
        runner.start()
        key = new_session_id()
        asker = spawning(runner, "--agent", "demo", "--id", key, HAPI_DEMO_START="slow:8")
        session = starting(runner)
        broker = identity(runner.status()["pid"])
        procs.send_signal(broker, signal.SIGKILL)
        gone(broker)
        again = runner.spawn("--id", key)
        assert (again["existing"], again["phase"], again["pid"]) == (True, "idle", session["pid"])
        asker.communicate(timeout=60)
        assert len(supervisors(runner)) == 1


FAILURES = {
    "missing": ({"command": ["/nowhere/at/all/agent"]}, "agent_unavailable", "/nowhere/at/all/agent"),
    "not on the PATH": ({"command": ["no-such-agent-4711"]}, "agent_unavailable", "/searched/here"),
    "not executable": ({"command": ["{home}/plain"]}, "agent_unavailable", "{home}/plain"),
    "no program": ({"command": ["{home}/nonsense"]}, "agent_unavailable", "{home}/nonsense"),
    "exits": ({"command": ["/bin/sh", "-c", "echo why it is >&2; exit 3"]}, "agent_failed", "why it is"),
    "exits, the code": ({"command": ["/bin/sh", "-c", "exit 3"]}, "agent_failed", "exit code 3"),
    "SIGILL": ({"command": ["/bin/sh", "-c", "echo bad cpu >&2; kill -ILL $$"]}, "agent_failed", "SIGILL"),
    "garbage": ({"command": ["/bin/sh", "-c", "echo Please log in first."]}, "agent_failed", "Please log in first."),
}


class TestReasons:
    @pytest.mark.parametrize("kind", FAILURES)
    def test_trap_35_a_spawn_that_fails_says_why_at_once(self, runner: Runner, kind: str) -> None:
        """A code for programs, words for people, the agent's last words, and the same on record.

        Seen to fail: without the hint in the failure; without the record that `_failed` writes.
        """
        (runner.home / "plain").write_text("#!/bin/sh\n")
        (runner.home / "nonsense").write_bytes(b"\x7fELF nonsense")
        (runner.home / "nonsense").chmod(0o700)
        agent, code, words = FAILURES[kind]
        command = [word.replace("{home}", str(runner.home)) for word in agent["command"]]
        runner.settings(agents={"broken": {"command": command}})
        runner.start()
        began = time.monotonic()
        done = runner.hapi(
            "runner", "spawn", str(runner.project), "--agent", "broken", "--json",
            env={"PATH": f"/searched/here:{os.defpath}"}, check=1,
        )  # fmt: skip
        assert time.monotonic() - began < 10
        error = done.json["error"]
        assert error["code"] == code
        assert words.replace("{home}", str(runner.home)) in error["message"] + error["hint"]
        assert error["hint"]
        (session,) = until(lambda: runner.sessions("--ended"), 5, "the record")
        assert (session["phase"], session["reason"]) == ("ended", "spawn failed")
        assert error["message"] in session["detail"]

    def test_trap_35_a_directory_that_goes_away(self, runner: Runner) -> None:
        """The broker is asked directly: the command would have seen it.

        Seen to fail: without the check of the directory before the agent starts.
        """
        runner.start()
        reply = control(runner).request
        for place in (runner.home / "none" / "at" / "all", runner.home / "settings.json" / "below"):
            runner.settings(createDirectories=False)
            with pytest.raises(Exception, match=r"does not exist|Not a directory") as caught:
                reply(order(runner, directory=str(place)), 30)
            assert caught.value.code in {"directory_approval_required", "bad_directory"}  # type: ignore[attr-defined]
            assert caught.value.hint or caught.value.message  # type: ignore[attr-defined]
        assert {session["reason"] for session in runner.sessions("--ended")} == {"spawn failed"}


def send_and_leave(runner: Runner, body: wire.Spawn) -> None:
    """Send a request, see it under way, and be gone before the reply."""
    context: zmq.Context[Any] = zmq.Context()
    socket = context.socket(zmq.DEALER)
    socket.connect(f"ipc://{runner.home}/run/broker.sock")
    socket.send_multipart([b"", wire.encode(wire.Header(wire.BROKER, wire.CLI, 1)), wire.encode(body)])
    until(lambda: [s for s in runner.sessions() if s["sessionId"] == body.session_id], 15, "the request has arrived")
    socket.close(linger=0)
    context.term()


def test_a_session_that_came_too_late_is_recorded_as_that(runner: Runner) -> None:
    """Nobody stopped it: it was recorded as stopped from the hub."""
    runner.start()
    session = runner.spawn()["sessionId"]
    order = wire.StopSession(session, "hub", "It came too late.")
    assert control(runner).ask(order, wire.SessionStopped, 30).status == "stopped"
    ended = runner.ended(session)
    assert (ended.reason, ended.detail) == ("spawn failed", "It came too late.")
