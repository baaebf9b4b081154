"""`hapi runner install` and `uninstall`, and life under a service manager.

A real `systemd --user` where one can run (root, a writable control group: tests/support/systemd.py); everywhere
the stand-in of tests/support/manager.py, which does what the installed unit file says.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hapi import procs, wire
from hapi.unitfile import Service, systemd_unit
from tests.conftest import skip_or_fail
from tests.support import systemd
from tests.support.hub import WebClient
from tests.support.manager import ServiceManager, values
from tests.support.runner import Runner, gone, identity
from tests.support.systemd import UserManager, verify
from tests.support.wait import until

UNIT = "hapi-runner.service"
ODD = """a b $HOME ${x} $$ 100% %h 'q' "Q" \\back;slash"""


@pytest.fixture
def user(runner: Runner) -> Iterator[UserManager]:
    """A real user manager, which `runner`'s commands talk to."""
    why = systemd.why_not()
    if why:
        skip_or_fail("user-manager", why)
    with UserManager(runner) as manager:
        yield manager


@pytest.fixture
def alone(runner: Runner) -> Runner:
    """A runner whose commands find no user manager, and write into a home of its own."""
    at_home(runner)
    return runner


def at_home(runner: Runner) -> Path:
    """Give the runner's user a home directory and an empty XDG_RUNTIME_DIR; returns where its units go."""
    home = runner.home.parent / "user"
    home.mkdir()
    runner.environment |= {"HOME": str(home), "XDG_RUNTIME_DIR": str(home)}
    runner.environment.pop("XDG_CONFIG_HOME", None)
    return home / ".config/systemd/user"


def install(runner: Runner, *words: str) -> dict[str, Any]:
    installed: dict[str, Any] = runner.hapi("runner", "install", "--json", *words, check=0).json
    return installed


def working(runner: Runner, turn: str) -> dict[str, Any]:
    """A session with a turn under way."""
    session = runner.spawn()
    runner.hapi("send", session["sessionId"], turn, check=0)
    runner.wait_phase(session["sessionId"], "working")
    return session


def completes(runner: Runner, session: dict[str, Any]) -> None:
    """The same agent under the same supervisor finishes its turn, which ends with `/say finished`."""
    after = runner.wait_phase(session["sessionId"], "idle", deadline_s=40)
    assert (after["pid"], after["agentPid"]) == (session["pid"], session["agentPid"])
    texts = [event.text for event in runner.events(session["sessionId"]) if isinstance(event, wire.AgentText)]
    assert "".join(texts).endswith("finished")


def confined(runner: Runner) -> None:
    """The runner that answers has its workspace roots: it refuses what is outside."""
    refused = runner.hapi("runner", "spawn", "/usr", "--agent", "demo", "--json", check=1)
    assert refused.json["error"]["code"] == "outside_workspace_roots"


class TestUnderSystemd:
    """With the real service manager."""

    def test_install_now_starts_it_and_uninstall_ends_it(self, runner: Runner, user: UserManager) -> None:
        done = runner.hapi("runner", "install", "--now", "--workspace-root", str(runner.project), "--json", check=0)
        assert (done.json["outcome"], done.json["unit"]) == ("installed", UNIT)
        status = runner.status()
        assert status["pid"] == done.json["pid"] == int(user.show(UNIT, "MainPID"))
        assert status["supervised"] is True
        assert status["workspaceRoots"] == [str(runner.project)]
        assert user.systemctl("is-enabled", UNIT) == "enabled"
        session = runner.spawn()

        again = install(runner, "--now")
        assert (again["outcome"], again["pid"]) == ("already_installed", status["pid"])
        assert again["workspaceRoots"] == [str(runner.project)]
        changed = install(runner, "--now", "--workspace-root", "/")
        assert (changed["outcome"], changed["pid"] != status["pid"]) == ("updated", True)
        assert runner.status()["workspaceRoots"] == ["/"]

        done = runner.hapi("runner", "uninstall", check=0)
        assert f"pid {changed['pid']}" in done.out
        assert runner.status()["running"] is False
        assert user.show(UNIT, "LoadState") == "not-found"
        assert list(user.units.rglob("*hapi*")) == []
        assert procs.is_alive(identity(session["agentPid"]))
        assert "Nothing is installed" in runner.hapi("runner", "uninstall", check=0).out

    def test_a_detached_runner_hands_over_with_its_roots_and_sessions(self, runner: Runner, user: UserManager) -> None:
        detached = identity(runner.start("--workspace-root", str(runner.project))["pid"])
        session = working(runner, "/slow 5 ; /say finished")
        installed = install(runner, "--now")
        assert (installed["replacedPid"], installed["workspaceRoots"]) == (detached.pid, [str(runner.project)])
        assert not procs.is_alive(detached)
        assert installed["pid"] == runner.status()["pid"] == int(user.show(UNIT, "MainPID"))
        completes(runner, session)
        confined(runner)

    def test_odd_names_arrive_as_they_are(self, runner: Runner, user: UserManager) -> None:
        odd = runner.home.parent / ODD
        odd.mkdir()
        runner.environment["HAPI_HOME"] = str(runner.home / "o$d %h")
        install(runner, "--now", "--workspace-root", str(odd), "--namespace", "odd-1")
        status = runner.hapi("--namespace", "odd-1", "runner", "status", "--json", check=0).json
        runner.hapi("--namespace", "odd-1", "runner", "uninstall", check=0)
        assert (status["workspaceRoots"], status["namespace"]) == ([str(odd)], "odd-1")
        assert status["logPath"].startswith(runner.environment["HAPI_HOME"])

    def test_systemd_reads_back_what_was_written(self, scratch: Path, user: UserManager) -> None:
        """The program's own path may be nearly as odd as the rest: a script there writes down what it was given."""
        odd = scratch / ODD.partition(" 'q'")[0]
        odd.mkdir()
        program = odd / "hapi"
        program.write_text('#!/bin/sh\ncat /proc/$$/environ > "$0.environ"; cat /proc/$$/cmdline > "$0.cmdline"\n')
        program.chmod(0o755)
        service = Service(
            program=[str(program)], roots=[ODD, "", "%%"], environment={"PATH": f"/bin:{odd}/{ODD}", "X": "$$ "}
        )
        user.units.mkdir(parents=True)
        (user.units / "odd.service").write_text(systemd_unit(service))
        user.systemctl("daemon-reload", check=True)
        user.systemctl("start", "odd.service", check=True)
        written = until(lambda: (odd / "hapi.cmdline").exists() and (odd / "hapi.cmdline").read_text(), 10, "it ran")
        assert written.split("\0")[1:-1] == service.command
        assert set((odd / "hapi.environ").read_text().split("\0")) >= {f"{k}={v}" for k, v in service.variables.items()}

    def test_trap_01_restart_of_the_service_leaves_sessions_alone(self, runner: Runner, user: UserManager) -> None:
        """`systemctl restart` and `stop` reach the broker only; the turn that runs meanwhile completes.

        Seen to fail: without `KillMode=process` in unitfile.systemd_unit.
        """
        broker = identity(install(runner, "--now")["pid"])
        session = working(runner, "/slow 6 ; /say finished")
        user.systemctl("restart", UNIT, check=True)
        assert not procs.is_alive(broker)
        until(lambda: runner.status()["running"], 20, "the restarted runner answers")
        completes(runner, session)
        user.systemctl("stop", UNIT, check=True)
        assert procs.is_alive(identity(session["pid"]))
        assert procs.is_alive(identity(session["agentPid"]))

    def test_trap_11_a_crash_is_mended_and_a_stop_is_obeyed(self, runner: Runner, user: UserManager) -> None:
        """SIGKILL: back with its arguments, and no command puts a detached runner into the pause. Stop: stays down.

        Seen to fail: without the wait in launch._find; without `Restart=on-failure`; without --workspace-root in
        unitfile.Service.command.
        """
        broker = identity(install(runner, "--now", "--workspace-root", str(runner.project))["pid"])
        session = runner.spawn()
        os.kill(broker.pid, signal.SIGKILL)
        gone(broker)
        started = runner.hapi("runner", "start", "--json", check=0).json  # systemd pauses for RestartSec=2 now
        assert started["alreadyRunning"] is True
        assert started["pid"] == int(user.show(UNIT, "MainPID"))
        assert user.show(UNIT, "NRestarts") == "1"
        assert until(runner.sessions, 10, "the session is back")[0]["agentPid"] == session["agentPid"]
        confined(runner)
        runner.hapi("runner", "stop", check=0)
        until(lambda: user.show(UNIT, "ActiveState") == "inactive", 20, "the unit is down")
        assert (user.show(UNIT, "Result"), user.show(UNIT, "NRestarts")) == ("success", "1")
        assert runner.status()["running"] is False

    def test_trap_38_install_writes_a_unit_that_systemd_accepts_and_runs(
        self, runner: Runner, user: UserManager
    ) -> None:
        """Written, verified by systemd-analyze without a word, started by systemd from that file, and it serves.

        Seen to fail: with `sys.argv[0]` in place of program() in service.facts; without HAPI_HOME there.
        """
        installed = install(runner, "--now")
        assert verify(Path(installed["path"])) == ""
        assert user.show(UNIT, "FragmentPath") == installed["path"]
        assert runner.spawn()["phase"] == "idle"
        assert runner.hapi("doctor", "--json").json["service"]["installed"] is True


class TestUnderAStandIn:
    """With a stand-in for the service manager that does what the unit file says; runs everywhere."""

    def test_trap_01_stopping_the_service_leaves_sessions_alone(self, alone: Runner) -> None:
        """The unit says KillMode=process, systemd understands it, and what it then does interrupts no turn.

        Seen to fail: without `KillMode=process` in unitfile.systemd_unit.
        """
        unit = Path(install(alone)["path"])
        if systemd.SYSTEMD.exists():
            assert verify(unit) == ""
        with ServiceManager.of_unit(alone, unit) as manager:
            until(lambda: alone.status()["running"], 20, "the runner answers")
            session = working(alone, "/slow 4 ; /say finished")
            manager.restart()
            until(lambda: alone.status()["running"], 20, "the restarted runner answers")
            completes(alone, session)
            assert manager.exits == [0]
        assert procs.is_alive(identity(session["agentPid"]))

    @pytest.mark.hub
    def test_trap_11_the_hubs_button_and_crashes_bring_it_back_and_stop_does_not(
        self, online: Runner, web: WebClient
    ) -> None:
        """The same arguments (namespace, roots) after the hub's restart button and after SIGKILL; stop is obeyed.

        Seen to fail: without EXIT_RESTART in App._exit_status; without `--namespace`, and without `--workspace-root`,
        in unitfile.Service.command.
        """
        at_home(online)
        online.settings(cliApiToken=online.token.partition(":")[0])  # only --namespace says which namespace it is
        online.environment["HAPI_NAMESPACE"] = online.namespace
        unit = Path(install(online, "--workspace-root", str(online.project))["path"])
        assert online.namespace in unit.name
        with ServiceManager.of_unit(online, unit) as manager:
            machine = online.wait_online(web)
            session = online.spawn()
            old = manager.pid
            web.post(f"/api/machines/{machine['id']}/restart-runner")
            manager.wait_starts(2)
            assert manager.exits == [75]
            until(lambda: online.status().get("pid") not in {None, old}, 20, "the runner is back")
            os.kill(manager.pid, signal.SIGKILL)
            manager.wait_starts(3)
            until(lambda: online.status().get("pid") == manager.pid, 20, "the runner is back again")
            assert until(online.sessions, 10, "its session")[0]["agentPid"] == session["agentPid"]
            confined(online)
            assert online.wait_online(web)["id"] == machine["id"]
            online.hapi("runner", "stop", check=0)
            assert manager.wait_down() == 0
        assert manager.exits == [75, -signal.SIGKILL, 0]
        assert online.status()["running"] is False

    def test_trap_11_no_command_puts_a_detached_runner_in_its_place(self, alone: Runner) -> None:
        """Neither while the manager pauses after a crash, nor while the supervised one is silent, nor on `restart`.

        Seen to fail: without the wait in launch._find; without the silent case in launch._refuse_supervised.
        """
        alone.environment["HAPI_RUNNER_HTTP_TIMEOUT"] = "500"
        with ServiceManager.of_unit(alone, Path(install(alone)["path"])) as manager:
            until(lambda: alone.status()["running"], 20, "the runner answers")
            assert "systemctl --user restart" in alone.hapi("runner", "restart", check=1).err
            first = identity(manager.pid)
            os.kill(first.pid, signal.SIGKILL)
            gone(first)
            spawned = alone.spawn()
            assert manager.starts == 2
            assert alone.status()["pid"] == manager.pid
            os.kill(manager.pid, signal.SIGSTOP)
            try:
                assert "service manager owns" in alone.hapi("runner", "restart", check=1).err
                assert alone.hapi("runner", "start", "--json", check=1).json["error"]["code"] == "timeout"
            finally:
                os.kill(manager.pid, signal.SIGCONT)
            assert (manager.starts, alone.sessions()[0]["pid"]) == (2, spawned["pid"])

    def test_a_stop_by_force_says_that_it_will_not_last(self, alone: Runner) -> None:
        alone.environment["HAPI_RUNNER_HTTP_TIMEOUT"] = "500"
        with ServiceManager.of_unit(alone, Path(install(alone)["path"])) as manager:
            until(lambda: alone.status()["running"], 20, "the runner answers")
            os.kill(manager.pid, signal.SIGSTOP)
            stopped = alone.hapi("runner", "stop", "--json", check=0)
            assert (stopped.json["how"], stopped.json["comesBack"]) == ("SIGKILL", True)
            assert "start it again" in stopped.err
            manager.wait_starts(2)

    def test_trap_38_the_installed_command_exists_and_runs(self, alone: Runner) -> None:
        """The file is accepted by systemd-analyze, and its ExecStart with its Environment alone is a runner that serves.

        Seen to fail: without HAPI_HOME in service.facts; with `sys.argv[0]` in place of program() there.
        """
        if not systemd.SYSTEMD.exists():
            skip_or_fail("systemd", "systemd-analyze is not installed: apt-get install systemd")
        unit = Path(install(alone, "--workspace-root", str(alone.project))["path"])
        assert verify(unit) == ""
        with ServiceManager.of_unit(alone, unit) as manager:
            assert os.access(manager.command[0], os.X_OK)
            until(lambda: alone.status()["running"], 20, "the runner answers")
            assert alone.status()["pid"] == manager.pid
            assert alone.spawn()["phase"] == "idle"


class TestWithoutAServiceManager:
    """What people are told where nothing can be loaded."""

    def test_no_bus(self, alone: Runner) -> None:
        if not systemd.SYSTEMD.exists():
            skip_or_fail("systemd", "systemctl is not installed: apt-get install systemd")
        failed = alone.hapi("runner", "install", "--now", "--json", check=1).json["error"]
        assert failed["code"] == "service_manager"
        assert "start-sync" in failed["hint"]
        assert not list(Path(alone.environment["HOME"]).rglob("*.service"))

    def test_no_systemctl(self, alone: Runner) -> None:
        alone.environment["PATH"] = str(alone.project)
        failed = alone.hapi("runner", "install", "--now", "--json", check=1).json["error"]
        assert failed["code"] == "missing_tool"
        assert "start-sync" in failed["hint"]

    def test_the_file_alone_needs_none_and_goes_without_one(self, alone: Runner) -> None:
        written = install(alone)
        assert written["outcome"] == "installed"
        assert "to hand it over" in alone.hapi("runner", "start", check=0).err
        assert install(alone)["outcome"] == "already_installed"
        assert stat.S_IMODE(Path(written["path"]).stat().st_mode) == 0o600
        removed = alone.hapi("runner", "uninstall", "--json", check=0).json
        assert (removed["removed"], removed["stoppedPid"]) == (True, None)
        assert "Nothing was stopped" in removed["notes"][0]
        assert not Path(written["path"]).exists()

    def test_a_unit_that_will_not_start_gives_the_detached_runner_back(self, alone: Runner) -> None:
        """`systemctl` is a stand-in here, which writes down its words and fails at `start`."""
        words = alone.home.parent / "words"
        tool = alone.home.parent / "bin" / "systemctl"
        tool.parent.mkdir()
        tool.write_text(
            f'#!/bin/sh\necho "$*" >> {words}\ncase "$*" in *" start "*) echo "no way" >&2; exit 1;; esac\n'
        )
        tool.chmod(0o755)
        alone.environment["PATH"] = f"{tool.parent}:{alone.environment['PATH']}"
        before = alone.start("--workspace-root", str(alone.project))
        session = alone.spawn()
        failed = alone.hapi("runner", "install", "--now", "--json", check=1).json["error"]
        assert (failed["code"], "no way" in failed["message"]) == ("service_manager", True)
        after = alone.status()
        assert (after["running"], after["supervised"]) == (True, False)
        assert after["pid"] != before["pid"]
        assert after["workspaceRoots"] == [str(alone.project)]
        assert until(alone.sessions, 10, "the session")[0]["agentPid"] == session["agentPid"]
        verbs = [line.split()[2] for line in words.read_text().splitlines()]
        assert verbs[:2] == ["daemon-reload", "daemon-reload"]
        assert verbs[-2:] == ["start", "disable"]

    def test_the_unit_holds_no_token(self, alone: Runner) -> None:
        alone.environment["CLI_API_TOKEN"] = "canary-token"
        alone.environment["HAPI_HOSTNAME"] = "elsewhere"
        written = install(alone)
        assert "canary" not in Path(written["path"]).read_text()
        assert ["CLI_API_TOKEN" in note or "HAPI_HOSTNAME" in note for note in written["notes"]] == [True, True]

    def test_the_unit_says_what_the_stand_in_relies_on(self, alone: Runner) -> None:
        text = Path(install(alone)["path"]).read_text()
        assert [values(text, key) for key in ("KillMode", "Restart")] == [["process"], ["on-failure"]]
