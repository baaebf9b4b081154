"""What is installed changes under a running runner: it hands over by itself, once, and only to code that works."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hapi import config, ids, procs, wire
from hapi.control import Control
from tests.support.install import Install
from tests.support.manager import ServiceManager
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until

pytestmark = pytest.mark.timeout(180)  # many handoffs, each of which starts a dozen processes
OLD, NEW = "0.0.8", "0.0.9"
HEARTBEAT_MS = 200
PATIENCE_S = 40  # a pre-flight takes seconds on a loaded machine


@pytest.fixture
def install(runner: Runner) -> Install:
    """`runner` runs version OLD from an installation of its own, with a quick heartbeat."""
    runner.environment["HAPI_RUNNER_HEARTBEAT_INTERVAL"] = str(HEARTBEAT_MS)
    return Install(runner.home.parent / "site", OLD).used_by(runner)


def version(runner: Runner) -> str:
    found: str = runner.status().get("version", "none")
    return found


def handoffs(runner: Runner) -> list[dict[str, Any]]:
    path = runner.root / "handoffs.json"
    found: list[dict[str, Any]] = json.loads(path.read_text())["handoffs"] if path.exists() else []
    return found


def log(runner: Runner) -> str:
    return (runner.root / "logs" / "runner.log").read_text()


def log_says(runner: Runner, words: str, deadline_s: float = PATIENCE_S) -> None:
    until(lambda: words in log(runner), deadline_s, f"the log says {words!r}")


def beats(runner: Runner, count: int) -> None:
    """Wait for that many more heartbeats: whatever they were to bring about has begun."""
    for _ in range(count):
        before = last_beat(runner)
        until(lambda before=before: last_beat(runner) not in {before, None}, 15, "a heartbeat")


def last_beat(runner: Runner) -> str | None:
    found: str | None = json.loads((runner.root / "runner.state.json").read_text())["lastHeartbeat"]
    return found


class TestHeartbeat:
    def test_an_upgrade_takes_over_and_sessions_do_not_notice(self, runner: Runner, install: Install) -> None:
        umask = os.umask(0o027)
        try:
            old = runner.start("--workspace-root", str(runner.project))
        finally:
            os.umask(umask)
        session = runner.spawn()
        runner.hapi("send", session["sessionId"], "/slow 10", check=0)
        runner.wait_phase(session["sessionId"], "working")
        broker, fds = identity(old["pid"]), open_files(old["pid"])

        install.upgrade(NEW)
        log_says(runner, f"hapi {NEW} started")
        new = until(
            lambda: (found := runner.status()).get("workers", {}).get("reaper", {}).get("pid") and found, 20, "up"
        )
        assert (new["version"], new["workspaceRoots"]) == (NEW, [str(runner.project)])
        assert identity(new["pid"]) == broker, "the same process, with another image"
        assert {new["workers"][name]["pid"] for name in new["workers"]}.isdisjoint(
            old["workers"][name]["pid"] for name in old["workers"]
        )
        until(lambda: open_files(new["pid"]) <= fds, 10, f"no more descriptors than {fds}")
        after = runner.wait_phase(session["sessionId"], "idle", deadline_s=30)
        assert (after["pid"], after["agentPid"]) == (session["pid"], session["agentPid"])
        ended = [event for event in runner.events(session["sessionId"]) if type(event).__name__ == "TurnEnded"]
        assert [event.stop_reason for event in ended] == ["end_turn"]
        order = wire.Spawn(
            session_id=ids.new_session_id(), directory=str(runner.project), agent="demo", started_by="runner"
        )
        late = Control(config.load(None, runner.environment)).ask(order, wire.Spawned, 30).info.agent_process
        assert late is not None
        assert umask_of(late.pid) == "0027", "that of whoever started the first runner"
        assert [(item["by"], item["old"], item["new"]) for item in handoffs(runner)] == [("heartbeat", OLD, NEW)]

    def test_commands_meanwhile_are_answered(self, runner: Runner, install: Install) -> None:
        runner.start()
        session = runner.spawn()
        install.replace("broker/app.py", "BATCH = 256", "BATCH = 255")  # other content, same version
        fingerprint = runner.status()["fingerprint"]
        until(
            lambda: (
                [s["sessionId"] for s in runner.sessions()] == [session["sessionId"]]
                and runner.status().get("fingerprint", fingerprint) != fingerprint
            ),
            PATIENCE_S,
            "other content takes over, and no list fails meanwhile",
        )

    def test_code_that_does_not_start_is_left_alone(self, runner: Runner, install: Install) -> None:
        old = runner.start()
        runner.spawn()
        sound = (install.package / "workers/reaper.py").read_text()
        install.write("workers/reaper.py", f"def broken(:\n{sound}")
        install.upgrade(NEW)
        log_says(runner, "not replaced: it does not start")
        beats(runner, 3)
        now = runner.status()
        assert (now["pid"], now["version"], now["workers"]) == (old["pid"], OLD, now["workers"])
        assert "SyntaxError" in now["handoff"]["reason"]
        assert any(NEW in warning and "does not start" in warning for warning in now["warnings"])
        assert log(runner).count("is installed; checking it") == 1, "tried once, not at every heartbeat"
        install.write("workers/reaper.py", sound)
        log_says(runner, f"hapi {NEW} started")

    def test_an_installation_that_vanishes_is_left_alone(self, runner: Runner, install: Install) -> None:
        old = runner.start()
        until(lambda: runner.status()["lastHeartbeat"], 20, "the workers are up: they load no code any more")
        install.package.rename(install.place / "elsewhere")
        try:
            log_says(runner, "it cannot be read")
            assert identity(old["pid"])
        finally:
            (install.place / "elsewhere").rename(install.package)
        assert runner.status()["pid"] == old["pid"]

    def test_switched_off_in_the_running_one_alone(self, runner: Runner, install: Install) -> None:
        runner.hapi("runner", "start", env={"HAPI_DISABLE_VERSION_HANDOFF": "1"}, check=0)
        old = runner.status()
        assert old["handoffDisabled"] is True
        install.upgrade(NEW)
        log_says(runner, "not replaced: the runner was started with HAPI_DISABLE_VERSION_HANDOFF=1")
        done = runner.hapi("runner", "start", "--json", check=0)
        assert (done.json["alreadyRunning"], done.json["version"]) == (True, OLD)
        assert "HAPI_DISABLE_VERSION_HANDOFF" in done.json["notReplaced"]
        runner.spawn()
        assert (runner.status()["pid"], version(runner)) == (old["pid"], OLD)
        runner.hapi("runner", "restart", check=0)
        assert version(runner) == NEW

    def test_a_damaged_breaker_stops_it_until_a_person_speaks(self, runner: Runner, install: Install) -> None:
        old = runner.start()
        (runner.root / "handoffs.json").write_text('{"handoffs": [{"at":')
        install.upgrade(NEW)
        log_says(runner, "handoffs.json is damaged")
        beats(runner, 3)
        assert (runner.status()["pid"], version(runner)) == (old["pid"], OLD)
        runner.hapi("runner", "start", check=0)
        assert version(runner) == NEW
        assert list(runner.root.glob("handoffs.json.bad-*"))
        assert [item["by"] for item in handoffs(runner)] == ["start"]


class TestTrap10:
    def test_trap_10_touched_a_hundred_times(self, runner: Runner, install: Install) -> None:
        """A new time stamp is not a new version.

        Seen to fail: with time stamps in the digest of `Installed.look`.
        """
        old = runner.start()
        for round_ in range(100):
            install.touch()
            if round_ % 10 == 9:
                beats(runner, 1)
        beats(runner, 3)
        assert runner.status()["pid"] == old["pid"]
        assert log(runner).count(f"hapi {OLD} started") == 1
        assert "checking it" not in log(runner)
        assert handoffs(runner) == []

    def test_trap_10_a_storm_of_upgrades_trips_the_breaker(self, runner: Runner, install: Install) -> None:
        """One handoff within the window; then it says so, and a person's word still counts.

        Seen to fail: without the refusal in `Takeover.check` and `Takeover.claim`.
        """
        runner.start()
        install.upgrade("0.1.1")
        log_says(runner, "hapi 0.1.1 started")
        until(lambda: last_beat(runner), 20, "the reaper is there")
        for number in range(2, 12):
            install.upgrade(f"0.1.{number}")
            beats(runner, 2)
            assert log(runner).count("handing over") == 1
        log_says(runner, "0.1.11, not replaced: it was replaced once within 5 min", 15)
        now = runner.status()
        assert now["version"] == "0.1.1"
        assert (now["handoff"]["recent"], now["handoff"]["installedVersion"]) == (1, "0.1.11")
        assert now["handoff"]["againAt"] is not None
        (warning,) = [warning for warning in now["warnings"] if "0.1.11" in warning]
        assert "hapi runner start" in warning
        assert "tripped" in runner.hapi("runner", "status").out
        runner.spawn()
        assert version(runner) == "0.1.1", "a session command is no person's word"
        runner.hapi("runner", "start", check=0)
        assert version(runner) == "0.1.11"
        assert log(runner).count(" started for namespace") == 3

    def test_trap_10_the_breaker_closes_again(self, runner: Runner, install: Install) -> None:
        """When the window has passed, what is installed takes over after all, and no person is needed.

        Seen to fail: with a window that never ends in `breaker.recent`.
        """
        runner.environment["HAPI_HANDOFF_WINDOW_MS"] = "10000"
        runner.start()
        install.upgrade("0.1.1")
        log_says(runner, "hapi 0.1.1 started")
        install.upgrade("0.1.2")
        log_says(runner, "0.1.2, not replaced: it was replaced once within 10 s", 20)
        log_says(runner, "hapi 0.1.2 started", 30)
        assert len(handoffs(runner)) == 2


class TestTrap11:
    @pytest.fixture
    def manager(self, runner: Runner, install: Install) -> Iterator[ServiceManager]:
        with ServiceManager(runner, "--workspace-root", str(runner.project)) as manager:
            until(lambda: runner.status().get("lastHeartbeat"), 20, "the service is up")
            yield manager

    def test_trap_11_under_a_service_manager_it_comes_back_with_its_arguments(
        self, runner: Runner, install: Install, manager: ServiceManager
    ) -> None:
        """The manager starts the new version, once, with the same arguments; no second daemon.

        Seen to fail: with exit status 0 in place of EXIT_RESTART, and with an exec of its own under the manager.
        """
        session = runner.spawn()
        old = identity(runner.status()["pid"])
        assert old.pid == manager.pid
        install.upgrade(NEW)
        manager.wait_starts(2, PATIENCE_S)
        assert manager.exits == [75]
        gone(old)
        until(lambda: version(runner) == NEW, 20, "the new version answers")
        now = runner.status()
        assert (now["pid"], now["supervised"], now["workspaceRoots"]) == (manager.pid, True, [str(runner.project)])
        assert [p.pid for p in brokers(runner)] == [manager.pid]
        after = until(runner.sessions, 10, "the session is back")[0]
        assert (after["pid"], after["agentPid"]) == (session["pid"], session["agentPid"])

    def test_trap_11_start_asks_the_service_manager(
        self, runner: Runner, install: Install, manager: ServiceManager
    ) -> None:
        """`runner start` from a newer installation that the service uses as well.

        Seen to fail: with a stop whose source asks for no restart.
        """
        runner.environment["HAPI_RUNNER_HEARTBEAT_INTERVAL"] = "60000"
        manager.environment["HAPI_RUNNER_HEARTBEAT_INTERVAL"] = "60000"
        manager.restart()
        until(lambda: runner.status().get("running"), 20, "the service is up")
        install.upgrade(NEW)
        done = runner.hapi("runner", "start", "--json", check=0)
        assert (done.json["version"], done.json["replacedVersion"], done.json["pid"]) == (NEW, OLD, manager.pid)
        assert manager.exits == [0, 75]

    def test_trap_11_a_service_of_another_installation_is_said(
        self, runner: Runner, install: Install, manager: ServiceManager
    ) -> None:
        newer = Install(runner.home.parent / "newer", NEW)
        runner.environment |= newer.environment()
        runner.spawn()  # a session command leaves it alone: it would come back as it is
        assert manager.exits == []
        done = runner.hapi("runner", "start", "--json", check=1)
        assert done.json["error"]["code"] == "already_running"
        assert str(install.package) in done.json["error"]["hint"]
        assert manager.exits == [75]
        assert version(runner) == OLD


class TestCommands:
    @pytest.fixture
    def quiet(self, runner: Runner, install: Install) -> Install:
        runner.environment["HAPI_RUNNER_HEARTBEAT_INTERVAL"] = "60000"
        return install

    def test_every_session_command_replaces_an_older_runner(self, runner: Runner, quiet: Install) -> None:
        runner.environment["HAPI_HANDOFF_WINDOW_MS"] = "1"
        before = runner.start("--workspace-root", str(runner.project))
        session = runner.spawn()
        session_id, agent = session["sessionId"], identity(session["agentPid"])
        commands = {
            "0.0.9": ["runner", "list"],
            "0.0.10": ["send", session_id, "hello"],
            "0.0.11": ["runner", "spawn", str(runner.project), "--agent", "demo"],
            "0.0.12": ["runner", "stop-session", session_id],
        }
        for number, words in commands.items():
            broker = identity(before["pid"])
            assert procs.is_alive(agent)
            quiet.upgrade(number)
            done = runner.hapi(*words, "--json", check=0)
            assert done.json, "one JSON document on stdout"
            assert f"Replaced the runner of version {before['version']} by {number}" in done.err
            gone(broker)
            before = runner.status()
            assert (before["version"], before["workspaceRoots"]) == (number, [str(runner.project)])
        assert runner.hapi("runner", "list", check=0).err == "", "it is current now"
        ended = runner.session(session_id)
        assert ended is not None
        assert ended["phase"] == "ended"

    def test_a_newer_runner_is_left_alone_by_session_commands(self, runner: Runner, quiet: Install) -> None:
        """Two installations side by side do not take turns."""
        old = runner.start()
        older = Install(runner.home.parent / "older", "0.0.1")
        session = runner.spawn()
        for words in (["runner", "list"], ["send", session["sessionId"], "hello"]):
            assert runner.hapi(*words, env=older.environment(), check=0).err in {"", "Sent.\n"}
        assert runner.status()["pid"] == old["pid"]
        done = runner.hapi("runner", "start", env=older.environment(), check=0)
        assert "0.0.1" in done.out, "a person's word"
        assert version(runner) == "0.0.1"

    def test_code_that_does_not_start_replaces_nothing(self, runner: Runner, quiet: Install) -> None:
        old = runner.start()
        quiet.upgrade(NEW)
        quiet.replace("workers/nursery.py", "import gc", "import gc, no_such_module")
        done = runner.hapi("runner", "start", "--json", check=1)
        assert done.json["error"]["code"] == "start_failed"
        assert "no_such_module" in done.json["error"]["message"]
        assert (runner.status()["pid"], version(runner)) == (old["pid"], OLD)

    def test_a_person_is_believed_five_times(self, runner: Runner, quiet: Install) -> None:
        runner.start()
        now = time.time_ns() // 1_000_000
        past = [{"at": now - back, "by": "start", "old": "1", "new": "2"} for back in (400_000, 4000, 3000, 2000, 1000)]
        future = [{"at": now + 10_000_000, "by": "start", "old": "1", "new": "2"}]
        path: Path = runner.root / "handoffs.json"
        path.write_text(json.dumps({"handoffs": future + past}))
        quiet.upgrade(NEW)
        runner.hapi("runner", "start", check=0)
        assert version(runner) == NEW, "the fifth within the window; one is old, one lies in the future"
        quiet.upgrade("0.1.0")
        done = runner.hapi("runner", "start", "--json", check=0)
        assert done.json["alreadyRunning"] is True
        assert "5 times within 5 min" in done.json["notReplaced"]
        runner.hapi("runner", "restart", check=0)
        assert version(runner) == "0.1.0"


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def umask_of(pid: int) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith("Umask"))


def brokers(runner: Runner) -> list[procs.ProcessId]:
    """Every broker of this home."""
    return [p for p in runner.processes() if Path(f"/proc/{p.pid}/comm").read_text().startswith("hapi: broker")]
