"""A real agent, codex-acp 0.16.0, with a scripted model: through the hub, as a person would use it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from hapi import procs
from tests.conftest import skip_or_fail
from tests.support import codex
from tests.support.hub import WebClient, WebError
from tests.support.model_server import ModelServer
from tests.support.runner import Runner, command_line, gone
from tests.support.wait import until

pytestmark = [pytest.mark.hub, pytest.mark.codex]


def mock(*steps: dict[str, Any]) -> str:
    return f"Do it. MOCK{json.dumps(steps)}"


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


@pytest.fixture
def codex_runner(online: Runner, model: ModelServer) -> Runner:
    """The runner, started where codex is configured for the model server."""
    if codex.native() is None:
        skip_or_fail("codex", "codex-acp is not installed: make test installs it")
    home = online.home.parent / "codex-home"
    environment = codex.write_home(home, model.url, online.project)
    wanted = {key: environment[key] for key in ("HOME", "CODEX_HOME", "MOCK_API_KEY")}
    online.settings(agents={"codex": {"command": [str(codex.native())], "env": wanted}})
    online.start()
    return online


def spawn(runner: Runner, web: WebClient) -> str:
    machine = runner.wait_online(web)
    result = web.spawn(machine["id"], directory=str(runner.project), agent="codex")
    assert result["type"] == "success", result
    session: str = result["sessionId"]
    return session


def rows(web: WebClient, session: str, kind: str) -> list[dict[str, Any]]:
    contents = [row["content"]["content"] for row in web.messages(session) if row["content"]["role"] == "agent"]
    return [content["data"] for content in contents if content["data"]["type"] == kind]


def test_text_reasoning_and_a_tool_call_with_its_permission(codex_runner: Runner, web: WebClient) -> None:
    session = spawn(codex_runner, web)
    assert web.session(session)["metadata"]["codexSessionId"]
    web.send(session, mock({"think": "I must write", "shell": "echo hi > out.txt"}, {"text": "Done."}))
    (request,) = until(lambda: (web.session(session).get("agentState") or {}).get("requests"), 20, "codex asks")
    assert not (codex_runner.project / "out.txt").exists()
    web.approve(session, request, decision="approved")
    until(lambda: rows(web, session, "ready"), 20, "the turn is over")
    assert (codex_runner.project / "out.txt").read_text() == "hi\n"
    assert any("Done." in row["message"] for row in rows(web, session, "message"))
    assert any("I must write" in row["message"] for row in rows(web, session, "reasoning"))
    assert rows(web, session, "tool-call")
    (result,) = rows(web, session, "tool-call-result")
    assert not result["is_error"]


def test_model_effort_and_mode_are_changed_live(codex_runner: Runner, web: WebClient, model: ModelServer) -> None:
    session = spawn(codex_runner, web)
    listed = web.get(f"/api/sessions/{session}/codex-models")["models"]
    names = [entry["id"] for entry in listed]
    assert "gpt-5.5" in names
    assert {"low", "medium", "high"} <= set(listed[0]["supportedReasoningEfforts"])
    other = next(name for name in names if name != "gpt-5.5")
    for route, body in (
        ("model", {"model": other}),
        ("model-reasoning-effort", {"modelReasoningEffort": "high"}),
        ("permission-mode", {"mode": "read-only"}),
    ):
        web.post(f"/api/sessions/{session}/{route}", **body)
    with pytest.raises(WebError, match="codex has no model 'gpt-0'"):
        web.post(f"/api/sessions/{session}/model", model="gpt-0")
    with pytest.raises(WebError, match="codex offers no service tier"):
        web.post(f"/api/sessions/{session}/service-tier", serviceTier="fast")
    web.send(session, mock({"text": "Hello."}))
    until(lambda: rows(web, session, "ready"), 20, "the turn is over")
    asked = model.requests[-1]
    assert (asked["model"], asked["reasoning"]["effort"]) == (other, "high")
    row = web.session(session)
    assert (row["model"], row["modelReasoningEffort"], row["permissionMode"]) == (other, "high", "read-only")


def test_its_models_before_a_session(codex_runner: Runner, web: WebClient) -> None:
    machine = codex_runner.wait_online(web)["id"]
    before = len(codex_runner.processes())
    found = web.get(f"/api/machines/{machine}/codex-models")
    assert [entry["id"] for entry in found["models"] if entry["isDefault"]] == ["gpt-5.5"]
    assert found["models"][0]["defaultReasoningEffort"] == "medium"
    until(lambda: len(codex_runner.processes()) == before, 20, "codex is gone")


def test_cancel_stops_the_model_and_keeps_the_session(codex_runner: Runner, web: WebClient, model: ModelServer) -> None:
    session = spawn(codex_runner, web)
    web.send(session, mock({"slow": [500, 0.1]}))
    until(lambda: model.requests, 20, "codex asked the model")
    codex_runner.wait_phase(session, "working")
    web.abort(session)
    assert model.hung_up.wait(10)
    codex_runner.wait_phase(session, "idle")
    web.send(session, mock({"text": "Back again."}))
    until(lambda: any("Back again." in row["message"] for row in rows(web, session, "message")), 20, "the next answer")


def test_stopped_through_its_npm_shim_it_leaves_no_orphan(codex_runner: Runner, web: WebClient) -> None:
    shim = codex.find()
    agents = json.loads((codex_runner.home / "settings.json").read_text())["agents"]
    codex_runner.settings(agents={"codex": agents["codex"] | {"command": [str(shim)]}})
    for end in ("stop", "kill the supervisor", "kill the shim"):
        session = spawn(codex_runner, web)
        record = codex_runner.session(session)
        assert record is not None
        tree = procs.descendants(record["pid"])
        assert len(tree) >= 2, [command_line(process.pid) for process in tree]
        if end == "stop":
            done = codex_runner.hapi("runner", "stop-session", session, "--json", check=0)
            assert done.json["status"] == "stopped"
        else:
            os.kill(record["pid" if end == "kill the supervisor" else "agentPid"], signal.SIGKILL)
        for process in tree:
            gone(process)
