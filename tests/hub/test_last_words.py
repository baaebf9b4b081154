"""What the hub must still get of sessions that have ended: their last words, their end, and what nobody can know."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from hapi import procs
from hapi.ids import new_session_id
from tests.support.hub import OfficialHub, WebClient
from tests.support.power import directory, kill_all, record, supervisor
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until

pytestmark = pytest.mark.hub
LARGE = "x" * 300_000  # more than a pipe holds


def shown(web: WebClient, session: str) -> list[str]:
    """All the words of the agent and the runner in the session's chat."""
    found: list[str] = []
    for row in web.messages(session):
        content = row["content"]["content"]
        data = content.get("data") if isinstance(content, dict) else None
        if row["content"]["role"] == "agent" and isinstance(data, dict):
            found.append(str(data.get("message", "")))
    return found


def fate(web: WebClient, session: str, local_id: str) -> dict[str, Any]:
    """What the hub says of a message that it was given to deliver."""
    answer: dict[str, Any] = web.post(f"/api/sessions/{session}/messages/queued-state", localIds=[local_id])
    return answer


def test_the_last_words_survive_hub_and_runner(own_hub: OfficialHub, runner: Runner) -> None:
    """Seen to fail: without SessionLost for ended records the hub showed the session as active, without its last words."""
    own_hub.start()
    runner.attach(own_hub)
    web = WebClient(own_hub.url, runner.token)
    runner.start()
    runner.wait_online(web)
    session = runner.spawn()["sessionId"]
    until(lambda: any(s["id"] == session and s["active"] for s in web.sessions()), 10, "the hub shows the session")
    own_hub.kill()
    runner.hapi("send", session, "/say the last words", check=0)
    runner.hapi("send", session, "/crash", check=0)
    runner.wait_phase(session, "ended")
    until(lambda: len(runner.processes()) <= 5, 10, "the supervisor is gone")
    kill_all(runner)
    own_hub.start()
    runner.start()
    web = WebClient(own_hub.url, runner.token)
    until(lambda: not web.session(session)["active"], 20, "the hub knows of the end")
    until(lambda: any("agent ended: exit" in words for words in shown(web, session)), 20, "the hub has the last words")
    assert shown(web, session).count("the last words") == 1
    until(lambda: not list(directory(runner, session).glob("untold.*")), 10, "it is noted that the hub knows all")
    before = len(web.messages(session))
    runner.hapi("runner", "restart", check=0)
    runner.wait_online(web)
    assert len(web.messages(session)) == before


@pytest.mark.parametrize("runner_up", [True, False])
def test_trap_33_a_message_in_the_middle_of_the_pipe_is_of_unknown_fate(
    online: Runner, web: WebClient, *, runner_up: bool
) -> None:
    """The agent does not read, its pipe is full, and the supervisor dies: nobody can tell what the agent will have got.

    Seen to fail: with Consumed journalled before the prompt was written, and without closing.close in the reaper.
    """
    online.start()
    online.wait_online(web)
    session = online.spawn()
    session_id = session["sessionId"]
    until(lambda: any(s["id"] == session_id and s["active"] for s in web.sessions()), 10, "the hub shows the session")
    agent = identity(session["agentPid"])
    procs.send_signal(agent, signal.SIGSTOP)
    local_id = new_session_id()
    web.send(session_id, LARGE, local_id)
    online.wait_phase(session_id, "working")
    if not runner_up:
        for process in [p for p in online.processes() if p.pid not in {session["pid"], session["agentPid"]}]:
            procs.send_signal(process, signal.SIGKILL)
            gone(process)
    procs.send_signal(supervisor(session), signal.SIGKILL)
    if not runner_up:
        online.start()
    gone(agent)
    assert online.wait_phase(session_id, "ended")["reason"] == "supervisor lost"
    until(lambda: local_id in fate(web, session_id, local_id)["indeterminateLocalIds"], 20, "the hub marks the message")
    until(lambda: any("is not known" in words for words in shown(web, session_id)), 10, "the chat says it")
    until(lambda: (online.session(session_id) or {}).get("unknownMessages") == 1, 10, "the record says it")
    online.hapi("runner", "stop", check=0)
    assert record(online, session_id)["unknown_messages"] == 1
