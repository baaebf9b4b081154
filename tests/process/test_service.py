"""`hapi runner install` and `uninstall`, and life under a service manager: a real `systemd --user` where one can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hapi import procs
from tests.conftest import skip_or_fail
from tests.support import systemd
from tests.support.runner import Runner, identity
from tests.support.systemd import UserManager

UNIT = "hapi-runner.service"


@pytest.fixture
def user(runner: Runner) -> Iterator[UserManager]:
    """A real user manager, which `runner`'s commands talk to."""
    why = systemd.why_not()
    if why:
        skip_or_fail("user-manager", why)
    with UserManager(runner) as manager:
        yield manager


class TestUnderSystemd:
    """With the real service manager."""

    def test_install_now_starts_it_and_uninstall_ends_it(self, runner: Runner, user: UserManager) -> None:
        done = runner.hapi("runner", "install", "--now", "--workspace-root", str(runner.project), "--json", check=0)
        assert (done.json["outcome"], done.json["unit"]) == ("installed", UNIT)
        status = runner.status()
        assert status["pid"] == done.json["pid"] == int(user.show(UNIT, "MainPID"))
        assert status["supervised"] is True
        assert status["workspaceRoots"] == [str(runner.project)]
        assert user.show(UNIT, "KillMode") == "process"
        assert user.systemctl("is-enabled", UNIT) == "enabled"
        session = runner.spawn()

        again = runner.hapi("runner", "install", "--now", "--json", check=0).json
        assert (again["outcome"], again["pid"]) == ("already_installed", status["pid"])
        assert again["workspaceRoots"] == [str(runner.project)]

        done = runner.hapi("runner", "uninstall", check=0)
        assert f"pid {status['pid']}" in done.out
        assert runner.status()["running"] is False
        assert user.show(UNIT, "LoadState") == "not-found"
        assert list(user.units.rglob("*hapi*")) == []
        assert procs.is_alive(identity(session["agentPid"]))
        assert "Nothing is installed" in runner.hapi("runner", "uninstall", check=0).out
