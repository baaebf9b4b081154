"""A runner of another version is replaced by `runner start`; its sessions live on under their old supervisors."""

from __future__ import annotations

import hapi
from hapi import procs
from tests.support.install import Install
from tests.support.runner import Runner, identity
from tests.support.wait import until

OTHER = "0.0.9"


def test_start_replaces_it_and_keeps_arguments_and_sessions(runner: Runner) -> None:
    today = dict(runner.environment)
    Install(runner.home.parent / "other", OTHER).used_by(runner)
    old = runner.start("--workspace-root", str(runner.project))
    session = runner.spawn()
    broker = identity(old["pid"])
    runner.environment = today
    seen = runner.status()
    assert (seen["version"], seen["installedVersion"]) == (OTHER, hapi.__version__)

    done = runner.hapi("runner", "start", check=0)
    assert OTHER in done.out
    assert not procs.is_alive(broker)
    new = runner.status()
    assert new["version"] == hapi.__version__
    after = until(runner.sessions, 5, "the session is back")[0]
    assert (after["pid"], after["agentPid"]) == (session["pid"], session["agentPid"])
    runner.hapi("send", session["sessionId"], "still there?", check=0)
    runner.wait_phase(session["sessionId"], "idle")
    refused = runner.hapi("runner", "spawn", "/usr", "--agent", "demo", "--json", check=1)
    assert refused.json["error"]["code"] == "outside_workspace_roots"


def test_a_handoff_that_is_disabled_does_not_happen(runner: Runner) -> None:
    today = dict(runner.environment)
    Install(runner.home.parent / "other", OTHER).used_by(runner)
    old = runner.start()["pid"]
    runner.environment = today | {"HAPI_DISABLE_VERSION_HANDOFF": "1"}
    done = runner.hapi("runner", "start", check=0)
    assert "HAPI_DISABLE_VERSION_HANDOFF is set" in done.err
    runner.spawn()
    assert runner.status()["pid"] == old
