"""A session that is gone here and active at the hub: it can be cleared there, and nobody waits for it."""

from __future__ import annotations

import shutil
import signal
from typing import Any

import pytest

from hapi import procs
from tests.support.hub import WebClient
from tests.support.power import kill_all
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until

pytestmark = pytest.mark.hub


def spawn(runner: Runner, web: WebClient) -> dict[str, Any]:
    """A session from the web, as the runner lists it."""
    runner.start()
    machine = runner.wait_online(web)
    result = web.spawn(machine["id"], directory=str(runner.project), agent="claude")
    assert result["type"] == "success", result
    (session,) = runner.sessions()
    return session


def inactive(web: WebClient, session: str) -> bool:
    return web.session(session)["active"] is False


def test_trap_41_the_runner_comes_back_and_says_that_it_is_gone(online: Runner, web: WebClient) -> None:
    """Everything of ours was killed; the hub says active until the next runner tells it, and stop says already_gone.

    Seen to fail: without the word of lost sessions to the connector that comes after they were lost.
    """
    session = spawn(online, web)
    kill_all(online)
    assert web.session(session["sessionId"])["active"] is True
    online.start()
    done = online.hapi("runner", "stop-session", session["sessionId"], "--json", check=0)
    assert done.json["status"] == "already_gone"
    until(lambda: inactive(web, session["sessionId"]), 15, "inactive at the hub")
    assert web.archive(session["sessionId"])["ok"] is True


def test_trap_41_archived_from_the_web_while_nobody_is_there(online: Runner, web: WebClient) -> None:
    """The agent of a runner that is away is ended as soon as the runner is back and hears of it.

    Seen to fail: without `archived_since` in the session's link.
    """
    session = spawn(online, web)
    agent = identity(session["agentPid"])
    broker = identity(online.status()["pid"])
    for process in (broker, identity(online.status()["workers"]["hub"]["pid"])):
        procs.send_signal(process, signal.SIGKILL)
        gone(process)
    until(lambda: web.archive(session["sessionId"])["ok"], 15, "the hub archives it by itself")
    online.start()
    gone(agent, 20)
    assert online.wait_phase(session["sessionId"], "ended")["reason"] == "stopped from hub"
    until(lambda: inactive(web, session["sessionId"]), 15, "inactive at the hub")


def test_trap_41_an_id_that_the_runner_does_not_know(online: Runner, web: WebClient) -> None:
    """Its directory is gone as well. The hub clears it when it is archived; our stop says that nothing is left.

    Seen to fail: with `unknown_session` for a whole id.
    """
    session = spawn(online, web)
    kill_all(online)
    shutil.rmtree(online.root / "sessions" / session["sessionId"])
    assert web.session(session["sessionId"])["active"] is True
    online.start()
    online.wait_online(web)
    assert online.sessions("--ended") == []
    assert web.archive(session["sessionId"])["ok"] is True
    assert inactive(web, session["sessionId"])
    done = online.hapi("runner", "stop-session", session["sessionId"], "--json", check=0)
    assert done.json["status"] == "already_gone"
