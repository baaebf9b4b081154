"""A runner that is killed again and again, as the hub and its web app see it: the same machine, nothing lost or doubled."""

from __future__ import annotations

import sqlite3
from collections import Counter

import pytest

from tests.hub.test_main_job import requests, texts
from tests.support.faults import TURN_OVER, boot_mixed, kill, let_finish, own_processes, pids
from tests.support.hub import OfficialHub, WebClient, WebError
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until

pytestmark = pytest.mark.hub
RESTARTS = 20


def stored_machines(hub: OfficialHub, namespace: str) -> list[str]:
    """Every machine that the hub has on record, also those that are offline."""
    with sqlite3.connect(f"file:{hub.home}/hapi.db?mode=ro", uri=True) as database:
        rows = database.execute("SELECT id FROM machines WHERE namespace = ?", (namespace,)).fetchall()
    database.close()
    return [row[0] for row in rows]


@pytest.mark.timeout(180)
def test_trap_02_a_killed_runner_is_back_with_ten_sessions_and_their_questions(online: Runner, web: WebClient) -> None:
    """All four of the runner's processes die: turns end, permissions are answered, all at the hub exactly once.

    Seen to fail: without telling a new connector what it must know (PeerUp).
    """
    online.start()
    online.wait_online(web)
    made = boot_mixed(online, idle=4, working=3, waiting=3)
    everyone = [key for ids in made.values() for key in ids]
    before = pids(online.sessions())
    asked = {
        key: until(lambda key=key: set(requests(web, key)), 15, "the question is shown") for key in made["waiting"]
    }
    kill(own_processes(online).values())
    online.hapi("runner", "start", check=0)
    until(lambda: online.status()["verdicts"] == {"adopted": 10}, 15, "all are adopted")
    until(lambda: {row["id"] for row in web.sessions() if row["active"]} >= set(everyone), 30, "all are shown")
    assert {key: set(requests(web, key)) for key in made["waiting"]} == asked
    for session_id, (request,) in asked.items():
        until(lambda key=session_id, request=request: approved(web, key, request), 20, "the answer is taken")
    for session_id in everyone:
        web.send(session_id, "/say after the crash")
    let_finish(online, made["working"])
    for session_id in made["idle"]:
        until(lambda key=session_id: texts(web, key) == ["after the crash"], 30, "it answers")
    for session_id in made["waiting"]:
        wanted = ["Permission: allow_once", "after the crash"]
        until(lambda key=session_id, wanted=wanted: texts(web, key) == wanted, 30, "the answer arrived")
    for session_id in made["working"]:
        wanted = [TURN_OVER, "after the crash"]
        until(lambda key=session_id, wanted=wanted: texts(web, key) == wanted, 30, "the turn went on, then the next")
    assert pids(online.sessions()) == before
    for session_id, tree in {key: [identity(pid) for pid in pair] for key, pair in before.items()}.items():
        done = online.hapi("runner", "stop-session", session_id, "--json", check=0)
        assert done.json["status"] == "stopped"
        for process in tree:
            gone(process)
        until(lambda key=session_id: not web.session(key)["active"], 10, "the hub shows its end")


def approved(web: WebClient, session_id: str, request: str) -> bool:
    """Approve unless that has worked; the session's connection may not be back yet."""
    if request not in requests(web, session_id):
        return True
    try:
        web.approve(session_id, request)
    except WebError:
        return False
    return True


@pytest.mark.timeout(180)
def test_trap_30_twenty_restarts_are_one_machine(online: Runner, web: WebClient, shared_hub: OfficialHub) -> None:
    """Stops, restarts and SIGKILL in turn, waiting for the connection or not; and one session through it all.

    Seen to fail: with a machine id that is made anew and not kept.
    """
    online.start()
    machine = online.wait_online(web)["id"]
    session = online.spawn()
    for number in range(RESTARTS):
        match number % 4:
            case 0:
                online.hapi("runner", "restart", check=0)
            case 1:
                kill(own_processes(online).values())
                online.hapi("runner", "start", check=0)
            case 2:
                kill([identity(online.status()["pid"])])
                online.hapi("runner", "start", check=0)
            case 3:
                until(lambda: online.status()["hub"]["online"], 20, "online")
                online.hapi("runner", "stop", check=0)
                online.hapi("runner", "start", check=0)
    until(lambda: online.status()["hub"]["online"], 20, "online")
    assert [found["id"] for found in web.machines()] == [machine]
    assert stored_machines(shared_hub, online.namespace) == [machine]
    web.send(session["sessionId"], "/say the same")
    until(lambda: texts(web, session["sessionId"]) == ["the same"], 30, "the session was there all along")
    assert Counter(row["id"] for row in web.sessions()) == {session["sessionId"]: 1}
    assert [s["agentPid"] for s in online.sessions()] == [session["agentPid"]]
