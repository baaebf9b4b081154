"""The commands of `hapi runner`, each run for real: what the user types, what runs afterwards, what the files say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

import hapi
from hapi import procs
from tests.support.git import git
from tests.support.runner import Runner, command_line, gone, identity
from tests.support.wait import until


class TestStart:
    def test_is_detached_confirms_and_prints_where(self, runner: Runner) -> None:
        done = runner.hapi("runner", "start", check=0)
        status = runner.status()
        assert str(status["pid"]) in done.out
        assert status["endpoint"] in done.out
        assert status["logPath"] in done.out
        broker = psutil.Process(status["pid"])
        assert os.getsid(broker.pid) == broker.pid != os.getsid(0)
        assert {os.readlink(f"/proc/{broker.pid}/fd/{fd}") for fd in (0, 1, 2)} == {"/dev/null"}

    def test_again_changes_nothing(self, runner: Runner) -> None:
        first = runner.start()
        done = runner.hapi("runner", "start", check=0)
        assert "already" in done.out.lower()
        second = runner.status()
        assert (second["pid"], second["workers"]) == (first["pid"], first["workers"]) or second["pid"] == first["pid"]

    def test_many_at_once_start_one(self, runner: Runner) -> None:
        results: list[Any] = []
        threads = [threading.Thread(target=lambda: results.append(runner.hapi("runner", "start"))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [done.code for done in results] == [0] * 4, results
        brokers = [p for p in runner.processes() if "hapi: broker" in command_line(p.pid)]
        assert len(brokers) == 1

    def test_bad_configuration_is_a_reason_and_exit_1(self, runner: Runner) -> None:
        done = runner.hapi("runner", "start", env={"HAPI_RUNNER_HEARTBEAT_INTERVAL": "soon"}, check=1)
        assert "HAPI_RUNNER_HEARTBEAT_INTERVAL" in done.err

    def test_a_home_that_cannot_be_written_is_a_reason(self, runner: Runner) -> None:
        runner.home.joinpath("sessions").write_text("in the way")
        done = runner.hapi("runner", "start", check=1)
        assert "sessions" in done.err
        runner.home.joinpath("sessions").unlink()

    def test_workspace_roots_must_exist_and_are_shown(self, runner: Runner) -> None:
        assert "nowhere" in runner.hapi("runner", "start", "--workspace-root", "/nowhere/at/all").err
        runner.hapi("runner", "start", "--workspace-root", str(runner.project), check=0)
        outside = runner.hapi("runner", "spawn", "/usr", "--agent", "demo", "--json", check=1)
        assert outside.json["error"]["code"] == "outside_workspace_roots"
        assert runner.spawn()["phase"] == "idle"

    def test_writes_the_documented_state_file(self, runner: Runner) -> None:
        runner.start()
        until(lambda: state(runner).get("lastHeartbeat"), 5, "the first heartbeat")
        found = state(runner)
        assert set(found) >= {
            "pid",
            "controlEndpoint",
            "startTime",
            "startedWithCliVersion",
            "lastHeartbeat",
            "runnerLogPath",
            "namespace",
            "workers",
            "status",
        }
        assert found["startedWithCliVersion"] == hapi.__version__
        assert datetime.fromisoformat(found["startTime"]).tzinfo is not None
        assert Path(found["runnerLogPath"]).exists()
        assert found["pid"] == runner.status()["pid"]

    def test_damaged_state_file_is_set_aside_and_said(self, runner: Runner) -> None:
        (runner.home / "runner.state.json").write_text('{"pid": 12')
        runner.start()
        assert list(runner.home.glob("runner.state.json.bad-*"))
        assert "damaged" in runner.hapi("runner", "status").out

    @pytest.mark.parametrize("content", [b"", b"garbage\n", b"999999\n", b"1\n"])
    def test_a_lock_file_left_behind_stops_nobody(self, runner: Runner, content: bytes) -> None:
        (runner.home / "runner.state.json.lock").write_bytes(content)
        assert runner.start()["running"]

    def test_start_sync_stays_in_the_foreground_until_sigterm(self, runner: Runner) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "hapi", "runner", "start-sync"], env=runner.environment, stdin=subprocess.DEVNULL
        )
        try:
            until(lambda: runner.status().get("running"), 10, "the runner answers")
            assert runner.status()["pid"] == process.pid
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()

    def test_start_sync_says_in_json_when_it_answers(self, runner: Runner) -> None:
        process = subprocess.Popen(
            [sys.executable, "-m", "hapi", "runner", "start-sync", "--json"],
            env=runner.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        with process.stdout:
            said = json.loads(process.stdout.readline())
            assert said["pid"] == process.pid == runner.status()["pid"]
            again = runner.hapi("runner", "start-sync", "--json", check=1)
            assert again.json["error"]["code"] == "already_running"
            process.terminate()
            assert process.wait(10) == 0


class TestStop:
    def test_sessions_live_on_and_are_found_again(self, runner: Runner) -> None:
        runner.start()
        before = runner.spawn()
        broker = identity(runner.status()["pid"])
        done = runner.hapi("runner", "stop", check=0)
        assert "1 session lives on" in done.out
        assert not procs.is_alive(broker)
        assert procs.is_alive(identity(before["pid"]))
        assert state(runner)["status"] == "stopped"
        runner.hapi("runner", "start", check=0)
        after = until(runner.sessions, 5, "the session is back")[0]
        assert (after["pid"], after["agentPid"]) == (before["pid"], before["agentPid"])
        assert runner.status()["verdicts"] == {"adopted": 1}
        assert runner.hapi("runner", "stop-session", before["sessionId"], check=0)

    def test_when_not_running_says_so(self, runner: Runner) -> None:
        assert "not running" in runner.hapi("runner", "stop", check=0).out.lower()

    def test_leaves_no_worker_behind(self, runner: Runner) -> None:
        status = runner.start()
        until(lambda: all(w["pid"] for w in runner.status()["workers"].values()), 5, "all workers are up")
        workers = [identity(worker["pid"]) for worker in runner.status()["workers"].values()]
        assert len(workers) == 3
        runner.hapi("runner", "stop", check=0)
        for process in workers:
            gone(process)
        assert status["running"]

    def test_restart_keeps_arguments_and_sessions(self, runner: Runner) -> None:
        runner.start("--workspace-root", str(runner.project))
        session = runner.spawn()
        old = runner.status()["pid"]
        runner.hapi("runner", "restart", check=0)
        assert runner.status()["pid"] != old
        assert until(runner.sessions, 5, "sessions")[0]["pid"] == session["pid"]
        refused = runner.hapi("runner", "spawn", "/usr", "--agent", "demo", "--json", check=1)
        assert refused.json["error"]["code"] == "outside_workspace_roots"


class TestHeartbeat:
    def test_every_interval_the_state_file_is_renewed(self, runner: Runner) -> None:
        runner.environment["HAPI_RUNNER_HEARTBEAT_INTERVAL"] = "150"
        runner.start()
        first = until(lambda: state(runner).get("lastHeartbeat"), 5, "a heartbeat")
        until(lambda: state(runner)["lastHeartbeat"] > first, 5, "the next heartbeat")

    @pytest.mark.parametrize("worker", ["hub", "reaper", "nursery"])
    def test_a_worker_that_dies_is_started_again_while_sessions_go_on(self, runner: Runner, worker: str) -> None:
        session = runner.spawn()
        pid = until(lambda: runner.status()["workers"][worker]["pid"], 5, f"{worker} is up")
        os.kill(pid, signal.SIGKILL)
        renewed = until(
            lambda: (w := runner.status()["workers"][worker])["restarts"] and w["pid"] and w, 10, f"{worker} is back"
        )
        assert renewed["pid"] != pid
        assert runner.sessions()[0]["agentPid"] == session["agentPid"]
        assert runner.spawn()["phase"] == "idle"


class TestStatusAndList:
    def test_not_running(self, runner: Runner) -> None:
        assert runner.hapi("runner", "status").code == 3
        assert runner.status()["running"] is False
        done = runner.hapi("runner", "list", check=3)
        assert "not running" in done.err
        assert runner.hapi("runner", "list", "--json", check=3).json["error"]["code"] == "not_running"

    def test_none(self, runner: Runner) -> None:
        runner.start()
        assert "No active sessions" in runner.hapi("runner", "list", check=0).out
        assert runner.sessions() == []

    def test_status_json_has_the_contract(self, runner: Runner) -> None:
        runner.start()
        until(lambda: all(w["pid"] for w in runner.status()["workers"].values()), 5, "all workers are up")
        status = runner.status()
        assert set(status) >= {
            "running",
            "pid",
            "version",
            "installedVersion",
            "namespace",
            "endpoint",
            "startedAt",
            "lastHeartbeat",
            "logPath",
            "hub",
            "workers",
            "sessions",
            "verdicts",
            "counters",
        }
        assert set(status["workers"]) == {"nursery", "hub", "reaper"}
        for worker in status["workers"].values():
            assert set(worker) >= {"pid", "restarts", "memoryBytes"}
            assert worker["memoryBytes"] > 1_000_000
        assert {"url", "online"} <= set(status["hub"])

    def test_list_json_has_the_contract(self, runner: Runner) -> None:
        spawned = runner.spawn()
        (session,) = runner.sessions()
        assert {
            key: session[key] for key in ("sessionId", "agent", "directory", "phase", "startedBy", "namespace")
        } == {
            "sessionId": spawned["sessionId"],
            "agent": "demo",
            "directory": str(runner.project),
            "phase": "idle",
            "startedBy": "terminal",
            "namespace": "default",
        }
        assert procs.identity(session["agentPid"])
        assert psutil.Process(session["agentPid"]).ppid() == session["pid"]
        assert session["memoryBytes"] > 1_000_000
        datetime.fromisoformat(session["startedAt"])
        human = runner.hapi("runner", "list", check=0).out
        assert spawned["sessionId"] in human

    def test_ended_sessions_are_shown_on_request_with_their_reason(self, runner: Runner) -> None:
        session = runner.spawn()["sessionId"]
        runner.hapi("runner", "stop-session", session, check=0)
        assert runner.sessions() == []
        (ended,) = runner.sessions("--ended")
        assert (ended["phase"], ended["reason"]) == ("ended", "stopped by user")

    def test_two_namespaces_side_by_side(self, runner: Runner) -> None:
        runner.start()
        runner.spawn()
        runner.hapi("--namespace", "work", "runner", "start", check=0)
        other = runner.hapi("--namespace", "work", "runner", "status", "--json", check=0).json
        assert other["namespace"] == "work"
        assert other["pid"] != runner.status()["pid"]
        assert runner.hapi("--namespace", "work", "runner", "list", "--json", check=0).json == []
        everything = runner.hapi("runner", "list", "--all", "--json", check=0).json
        assert [session["namespace"] for session in everything] == ["default"]
        by_variable = runner.hapi("runner", "status", "--json", env={"HAPI_NAMESPACE": "work"}).json
        assert by_variable["pid"] == other["pid"]
        assert "hapi: broker [work]" in command_line(other["pid"])
        runner.hapi("--namespace", "work", "runner", "stop", check=0)
        assert runner.status()["running"]


class TestSpawn:
    def test_starts_the_runner_when_it_is_not_running(self, runner: Runner) -> None:
        done = runner.hapi("runner", "spawn", str(runner.project), "--agent", "demo", check=0)
        assert uuid.UUID(done.out.split()[-1])
        assert len(runner.sessions()) == 1

    def test_titles_show_what_runs(self, runner: Runner) -> None:
        session = runner.spawn()
        title = command_line(session["pid"])
        assert title == f"hapi: session [default] {session['sessionId'][:8]} demo {runner.project} idle"
        status = runner.status()
        assert command_line(status["pid"]) == "hapi: broker [default]"
        runner.hapi("send", session["sessionId"], "/slow 30", check=0)
        until(lambda: command_line(session["pid"]).endswith(" working"), 5, "the title says working")

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["{project}", "--agent", "nobody"], "unknown_agent", "nobody"),
            (["/nowhere/at/all", "--agent", "demo"], "bad_directory", "/nowhere/at/all"),
            (["{project}", "--agent", "codex"], "agent_unavailable", "PATH"),
            (["{file}", "--agent", "demo"], "bad_directory", "not a directory"),
            (["{project}", "--agent", "demo", "--permission-mode", "yolo"], "bad_request", "permission mode"),
            (["{project}", "--agent", "demo", "--worktree", "x"], "worktree_failed", "not a Git repository"),
        ],
    )
    def test_failures_say_why(self, runner: Runner, arguments: list[str], code: str, words: str) -> None:
        runner.start()
        file = runner.home / "a-file"
        file.write_text("")
        filled = [a.replace("{project}", str(runner.project)).replace("{file}", str(file)) for a in arguments]
        done = runner.hapi("runner", "spawn", *filled, "--json", env={"PATH": os.defpath})
        assert done.code == 1
        error = done.json["error"]
        assert error["code"] == code
        assert words in error["message"] + error["hint"]
        assert runner.sessions() == []

    @pytest.mark.parametrize(
        ("start", "words"),
        [("stderr:boo,exit:3", "exit code 3"), ("exit:0", "exit code 0"), ("hang", "not ready within")],
    )
    def test_an_agent_that_does_not_start(self, runner: Runner, start: str, words: str) -> None:
        runner.environment["HAPI_RUNNER_WEBHOOK_TIMEOUT_MS"] = "1500"
        done = runner.hapi(
            "runner", "spawn", str(runner.project), "--agent", "demo", "--json", env={"HAPI_DEMO_START": start}
        )
        assert done.code == 1
        error = done.json["error"]
        assert words in error["message"]
        assert ("boo" in error["hint"]) == ("boo" in start)
        until(lambda: not any("demo.py" in command_line(p.pid) for p in runner.processes()), 5, "no agent is left")

    def test_model_and_permission_mode(self, runner: Runner) -> None:
        chosen = runner.spawn("--model", "demo-slow", "--permission-mode", "plan")["sessionId"]
        record = json.loads((runner.home / "sessions" / chosen / "state.json").read_text())
        assert (record["model"], record["permission_mode"]) == ("demo-slow", "plan")
        yolo = runner.spawn("--yolo")["sessionId"]
        record = json.loads((runner.home / "sessions" / yolo / "state.json").read_text())
        assert record["permission_mode"] == "bypassPermissions"
        runner.hapi("send", yolo, "/ask Bash", check=0)
        until(lambda: any(type(e).__name__ == "TurnEnded" for e in runner.events(yolo)), 10, "nobody was asked")

    def test_same_id_is_one_session(self, runner: Runner) -> None:
        key = str(uuid.uuid4())
        first = runner.spawn("--id", key)
        second = runner.spawn("--id", key)
        assert first["pid"] == second["pid"]
        assert len(runner.sessions()) == 1

    def test_worktree(self, runner: Runner) -> None:
        git(runner.project, "init", "-q", "-b", "main")
        git(runner.project, "commit", "-q", "--allow-empty", "-m", "first")
        session = runner.spawn("--worktree", "My Feature!")
        assert session["directory"] == str(runner.project.parent / "project-worktrees" / "my-feature")
        assert git(Path(session["directory"]), "branch", "--show-current") == "hapi-my-feature"

    def test_agent_environment_and_arguments(self, runner: Runner) -> None:
        runner.start()
        script = runner.home / "agent.sh"
        script.write_text(f'#!/bin/sh\necho "args: $@" >&2\nexec {sys.executable} -m hapi.agents.demo\n')
        script.chmod(0o700)
        runner.settings(agents={"mine": {"command": [str(script)], "env": {"COLOUR": "green"}}})
        env = {"CLI_API_TOKEN": "canary-4711", "MY_TERMINAL": "yes", "PYTHONPATH": os.getcwd()}
        done = runner.hapi(
            *("runner", "spawn", str(runner.project), "--agent", "mine", "--json", "--", "--flag", "x"),
            env=env,
            check=0,
        )
        session = done.json
        environ = Path(f"/proc/{session['agentPid']}/environ").read_text().split("\0")
        assert "MY_TERMINAL=yes" in environ
        assert "COLOUR=green" in environ
        assert f"HAPI_SESSION_ID={session['sessionId']}" in environ
        assert not any("canary-4711" in variable for variable in environ)
        assert "args: --flag x" in (runner.home / "sessions" / session["sessionId"] / "agent.log").read_text()
        assert os.readlink(f"/proc/{session['agentPid']}/cwd") == str(runner.project)

    def test_agents_hold_only_their_own_descriptors(self, runner: Runner) -> None:
        for _ in range(3):
            runner.spawn()
        agent = runner.sessions()[-1]["agentPid"]
        assert {int(fd) for fd in os.listdir(f"/proc/{agent}/fd")} <= {0, 1, 2}


class TestStopSession:
    def test_by_prefix_and_by_pid_and_again(self, runner: Runner) -> None:
        first, second = runner.spawn(), runner.spawn()
        done = runner.hapi("runner", "stop-session", first["sessionId"][:8], "--json", check=0)
        assert done.json == {"status": "stopped", "rung": "eof"} | {
            k: v for k, v in done.json.items() if k not in ("status", "rung")
        }
        gone(identity_or_skip(first["agentPid"]))
        assert (
            runner.hapi("runner", "stop-session", first["sessionId"], "--json", check=0).json["status"]
            == "already_gone"
        )
        by_pid = runner.hapi("runner", "stop-session", f"PID-{second['pid']}", "--json", check=0)
        assert by_pid.json["status"] == "stopped"
        assert "stopped" in by_pid.out

    def test_unknown_and_ambiguous(self, runner: Runner) -> None:
        runner.start()
        error = runner.hapi("runner", "stop-session", "no-such-session", "--json", check=1).json["error"]
        assert error["code"] == "unknown_session"

    def test_reaches_sessions_while_the_runner_is_stopped(self, runner: Runner) -> None:
        session = runner.spawn()
        runner.hapi("runner", "stop", check=0)
        assert runner.hapi("runner", "stop-session", session["sessionId"], check=0).out.startswith("stopped")
        assert procs.identity(session["agentPid"]) is None

    def test_an_agent_that_ignores_everything_takes_the_last_rung(self, runner: Runner) -> None:
        session = runner.spawn()
        runner.hapi("send", session["sessionId"], "/child setsid ignore ; /ignore-signals", check=0)
        runner.wait_phase(session["sessionId"], "idle")
        tree = until(lambda: in_tree(session["pid"], 2), 5, "the agent has a child")
        done = runner.hapi("runner", "stop-session", session["sessionId"], "--json", check=0)
        assert (done.json["status"], done.json["rung"]) == ("stopped", "kill")
        assert not [process.pid for process in tree if procs.is_alive(process)]

    def test_while_it_starts_wins(self, runner: Runner) -> None:
        runner.start()
        key = str(uuid.uuid4())
        spawning = subprocess.Popen(
            [sys.executable, "-m", "hapi", "runner", "spawn", str(runner.project), "--agent", "demo", "--id", key],
            env=runner.environment | {"HAPI_DEMO_START": "slow:30"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        until(lambda: [s for s in runner.sessions() if s["sessionId"] == key], 10, "the session is starting")
        assert runner.hapi("runner", "stop-session", key, "--json", check=0).json["status"] == "stopped"
        _, err = spawning.communicate(timeout=20)
        assert spawning.returncode == 1
        assert "stopped while it was starting" in err
        assert runner.sessions() == []


class TestLogs:
    def test_prints_a_path_that_tail_can_follow(self, runner: Runner) -> None:
        assert "No runner logs found" in runner.hapi("runner", "logs", check=1).err
        runner.start()
        path = Path(runner.hapi("runner", "logs", check=0).out.strip())
        assert "started for namespace default" in path.read_text()
        session = runner.spawn()["sessionId"]
        assert Path(runner.hapi("runner", "logs", "--session", session[:8], check=0).out.strip()).exists()


class TestEnds:
    @pytest.mark.parametrize(
        ("words", "reason", "detail"),
        [
            ("/crash exit 7", "agent exited", "exit code 7"),
            ("/crash signal SEGV", "agent crashed", "SIGSEGV"),
        ],
    )
    def test_an_agent_that_ends_by_itself(self, runner: Runner, words: str, reason: str, detail: str) -> None:
        session = runner.spawn()["sessionId"]
        runner.hapi("send", session, words, check=0)
        ended = runner.wait_phase(session, "ended")
        assert ended["reason"] == reason
        record = json.loads((runner.home / "sessions" / session / "state.json").read_text())
        assert detail in record["detail"]

    def test_a_supervisor_that_is_killed_takes_its_agent_along(self, runner: Runner) -> None:
        session = runner.spawn()
        runner.hapi("send", session["sessionId"], "/child setsid ignore", check=0)
        tree = until(lambda: in_tree(session["pid"], 2), 5, "the agent has a child")
        os.kill(session["pid"], signal.SIGKILL)
        ended = runner.wait_phase(session["sessionId"], "ended")
        assert ended["reason"] == "supervisor lost"
        for process in tree:
            gone(process)
        status = runner.status()
        assert status["counters"]["supervisors_lost"] == 1

    def test_chat_events_are_on_record(self, runner: Runner) -> None:
        session = runner.spawn()["sessionId"]
        runner.hapi("send", session, "hello ; /think hm ; /plan a | b ; /tool Bash", check=0)
        until(lambda: any(type(e).__name__ == "TurnEnded" for e in runner.events(session)), 10, "the turn ended")
        kinds = {type(event).__name__ for event in runner.events(session)}
        assert kinds >= {"UserText", "AgentText", "Reasoning", "Plan", "ToolCall", "ToolResult", "Usage", "TurnEnded"}


class TestDoctor:
    def test_reports_and_cleans(self, runner: Runner) -> None:
        session = runner.spawn()
        report = runner.hapi("doctor", check=0).out
        for word in ("Versions", "Configuration", "Processes", "Agents", "broker.sock"):
            assert word in report
        done = runner.hapi("doctor", "clean", "--yes", check=0)
        assert session["sessionId"] in done.out
        assert runner.processes() == []

    def test_clean_asks_first(self, runner: Runner) -> None:
        runner.start()
        runner.hapi("doctor", "clean", input="n\n")
        assert runner.status()["running"]


class TestPrivacy:
    def test_files_are_the_users_only_whatever_the_umask(self, runner: Runner) -> None:
        previous = os.umask(0)
        try:
            session = runner.spawn()["sessionId"]
        finally:
            os.umask(previous)
        for directory in (runner.home / "run", runner.home / "sessions", runner.home / "sessions" / session):
            assert directory.stat().st_mode & 0o077 == 0, directory
        for file in (runner.home / "sessions" / session).iterdir():
            assert file.stat().st_mode & 0o077 == 0, file

    def test_nothing_listens_on_tcp(self, runner: Runner) -> None:
        runner.spawn()
        for process in runner.processes():
            listening = [c for c in psutil.Process(process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
            assert not listening, command_line(process.pid)

    def test_the_token_is_in_no_argv_no_environment_of_agents_and_no_log(self, runner: Runner) -> None:
        canary = "canary-0815-token"
        runner.settings(cliApiToken=canary, apiUrl="http://127.0.0.1:9")
        session = runner.spawn()
        runner.hapi("send", session["sessionId"], "/env CLI_API_TOKEN", check=0)
        runner.hapi("doctor")
        for process in runner.processes():
            assert canary not in command_line(process.pid)
        assert canary not in Path(f"/proc/{session['agentPid']}/environ").read_text()
        for path in runner.home.rglob("*"):
            if path.is_file() and path.name != "settings.json":
                assert canary.encode() not in path.read_bytes(), path


def state(runner: Runner) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((runner.root / "runner.state.json").read_text())
    return found


def in_tree(pid: int, at_least: int) -> list[Any]:
    found = procs.descendants(pid)
    return found if len(found) >= at_least else []


def identity_or_skip(pid: int) -> Any:
    return procs.identity(pid) or procs.ProcessId(pid, 0, "")
