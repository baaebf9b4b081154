"""The clock is set, or the machine sleeps, while the hub looks on: shown alive, reached at once, nothing out of order."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from hapi import procs
from tests.hub.test_main_job import texts
from tests.support.clock import WallClock
from tests.support.faults import own_processes, stopped
from tests.support.hub import OfficialHub, WebClient
from tests.support.runner import Runner, identity
from tests.support.wait import until

pytestmark = pytest.mark.hub


def is_online(runner: Runner) -> bool:
    return bool(runner.status()["hub"]["online"])


def seen(web: WebClient, session_id: str) -> int:
    """When the hub last took a sign of life of the session for one, by its own clock."""
    found = web.session(session_id)
    return int(found["activeAt"]) if found["active"] else 0


def shown(web: WebClient, session_id: str) -> Any:
    return next((row for row in web.sessions() if row["id"] == session_id and row["active"]), None)


@pytest.mark.timeout(150)
def test_trap_27_a_clock_that_is_set_is_no_death_for_the_hub(online: Runner, web: WebClient, clock: WallClock) -> None:
    """Forward, back behind the hub's clock, ten years ahead and right again, the hub's own clock left alone.

    Seen to fail: with keepalives that carry this machine's time.
    """
    online.environment |= clock.environment
    online.start()
    online.wait_online(web)
    session = online.spawn()
    session_id = session["sessionId"]
    until(lambda: shown(web, session_id), 15, "the session is shown")
    told: list[str] = []
    for offset in ("+8h", "-8h", "+10y", "+0"):
        clock.set(offset)
        at = time.time_ns() // 1_000_000
        told.append(f"now {offset}")
        web.send(session_id, f"/say {told[-1]}")
        until(lambda: texts(web, session_id) == told, 20, "each message once, in order")
        until(lambda at=at: seen(web, session_id) >= at, 20, "a sign of life counts")
        if offset == "+8h":
            until(lambda: online.status()["hub"]["counters"].get("machine_slept"), 15, "the sleep was noticed")
        if offset == "-8h":  # the slowest to be noticed, once is enough
            until(lambda at=at: online.wait_online(web)["activeAt"] >= at, 30, "so does the machine's")
        until(lambda: is_online(online), 15, "online again")
        assert [s["agentPid"] for s in online.sessions()] == [session["agentPid"]]
    rows = [(row["seq"], row["createdAt"]) for row in web.messages(session_id)]
    assert [at for _, at in sorted(rows)] == sorted(at for _, at in rows)
    online.hapi("runner", "stop-session", session_id, check=0)
    until(lambda: not web.session(session_id)["active"], 10, "its end is shown")


@pytest.mark.timeout(120)
def test_trap_27_after_a_sleep_the_connection_is_tried_at_once(
    own_hub: OfficialHub, runner: Runner, clock: WallClock
) -> None:
    """A connection that died in the machine's sleep looks alive for most of a minute, unless somebody tries it.

    Seen to fail: without the wake-up call of the machine's connection.
    """
    own_hub.start()
    runner.attach(own_hub)
    runner.environment |= clock.environment
    runner.start()
    until(lambda: is_online(runner), 15, "online")
    session = runner.spawn()
    with stopped(identity(own_hub.pid)):  # it answers nothing, and the connection does not break
        clock.set("+8h")
        until(lambda: not is_online(runner), 18, "the dead connection is found out")
        assert runner.status()["counters"].get("supervisors_lost") is None
    until(lambda: is_online(runner), 30, "online again")
    web = WebClient(own_hub.url, runner.token)
    web.send(session["sessionId"], "/say awake")
    until(lambda: texts(web, session["sessionId"]) == ["awake"], 20, "it answers")
    assert [s["agentPid"] for s in runner.sessions()] == [session["agentPid"]]


@pytest.mark.timeout(120)
def test_trap_09_a_connector_that_stood_still_goes_on_where_it_was(online: Runner, web: WebClient) -> None:
    """SIGSTOP for half a minute, in which the hub takes the sessions for inactive and a message waits.

    Seen to fail: with a connector that drops what waits for it when it was away.
    """
    online.start()
    online.wait_online(web)
    session = online.spawn()
    session_id = session["sessionId"]
    until(lambda: shown(web, session_id), 15, "the session is shown")
    own = own_processes(online)
    over = threading.Event()
    with stopped(own["hub"]):
        timer = threading.Timer(30, over.set)
        timer.start()
        web.send(session_id, "/say from the web")
        online.hapi("send", session_id, "/say from here", check=0)
        assert "already" in online.hapi("runner", "start", check=0).out
        assert over.wait(30)
    until(lambda: sorted(texts(web, session_id)) == ["from here", "from the web"], 30, "both, each once")
    until(lambda: shown(web, session_id), 30, "shown as active again")
    until(lambda: is_online(online), 30, "online")
    web.send(session_id, "/say last")
    until(lambda: "last" in texts(web, session_id), 20, "it answers")
    assert sorted(texts(web, session_id)) == ["from here", "from the web", "last"]
    assert own_processes(online) == own
    assert [s["agentPid"] for s in online.sessions()] == [session["agentPid"]]
    assert procs.is_alive(identity(session["pid"]))
