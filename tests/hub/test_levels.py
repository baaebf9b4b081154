"""Protocol levels: sessions of the released version under today's broker and connector, with the official hub."""

from __future__ import annotations

import json
from typing import Any

import pytest

import hapi
from hapi import wire
from tests.support.hub import WebClient, WebError
from tests.support.install import Install
from tests.support.runner import Runner
from tests.support.wait import until

pytestmark = pytest.mark.hub
OLD = "0.0.9"


def test_a_session_of_the_released_version_lives_on_in_full(online: Runner, web: WebClient) -> None:
    today = dict(online.environment)
    Install(online.home.parent / "site", OLD).speaks_level_1().used_by(online)
    assert online.start()["protocol"] == 1
    online.wait_online(web)
    session = online.spawn(agent="claude")
    session_id = session["sessionId"]
    until(lambda: session_id in {row["id"] for row in web.sessions()}, 15, "the hub knows the session")
    web.send(session_id, "/ask Bash")
    (request,) = until(lambda: requests(web, session_id), 15, "the request")

    online.environment = today
    online.hapi("runner", "start", check=0)
    now = online.status()
    assert (now["version"], now["protocol"]) == (hapi.__version__, wire.PROTOCOL_LEVEL)
    after = until(online.sessions, 15, "the session is back")[0]
    assert (after["pid"], after["agentPid"], after["phase"]) == (session["pid"], session["agentPid"], "waiting")
    record = json.loads((online.root / "sessions" / session_id / "state.json").read_text())
    assert record["version"] == OLD, "its supervisor is still the old one"

    until(lambda: approved(web, session_id, request), 15, "the answer is taken")
    until(lambda: any("allow_once" in text for text in texts(web, session_id)), 15, "the agent heard it")
    online.wait_phase(session_id, "idle")
    web.send(session_id, "from the web")
    online.hapi("send", session_id, "from the terminal", check=0)
    for words in ("from the web", "from the terminal"):
        said = f"the answer to {words!r} is at the hub"
        until(lambda words=words: [t for t in texts(web, session_id) if words in t], 15, said)
        assert len([text for text in texts(web, session_id) if words in text]) == 1
    done = online.hapi("runner", "stop-session", session_id, "--json", check=0)
    assert done.json["status"] == "stopped"
    until(lambda: not web.session(session_id)["active"], 15, "the hub was told")


def test_a_released_command_line_and_todays_runner(online: Runner) -> None:
    runner = online
    runner.start()
    session = runner.spawn()["sessionId"]
    Install(runner.home.parent / "site", OLD).speaks_level_1().used_by(runner)
    status = runner.status()
    assert (status["version"], status["installedVersion"]) == (hapi.__version__, OLD)
    assert [found["sessionId"] for found in runner.sessions()] == [session]
    runner.hapi("send", session, "hello", check=0)
    assert runner.spawn()["phase"] == "idle"
    assert runner.hapi("runner", "stop-session", session, "--json", check=0).json["status"] == "stopped"
    assert runner.status()["pid"] == status["pid"], "an older command replaces nothing"
    assert runner.hapi("runner", "stop", "--json", check=0).json["how"] == "asked"


def approved(web: WebClient, session: str, request: str) -> bool:
    try:
        web.approve(session, request)
    except WebError:  # the new connector has yet to register
        return False
    return True


def texts(web: WebClient, session: str) -> list[str]:
    """What the web shows of the agent: its texts."""
    contents = [row["content"]["content"] for row in web.messages(session) if row["content"]["role"] == "agent"]
    return [c["data"]["message"] for c in contents if c.get("type") == "codex" and c["data"]["type"] == "message"]


def requests(web: WebClient, session: str) -> dict[str, Any]:
    found: dict[str, Any] = (web.session(session).get("agentState") or {}).get("requests") or {}
    return found
