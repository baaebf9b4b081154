"""Real agents with a scripted model, through the hub: those that HAPI_TEST_AGENTS names and PATH has.

    HAPI_TEST_AGENTS=claude,opencode,gemini,qwen,copilot PATH=…:$PATH .venv/bin/pytest tests/hub/test_real_agents.py

None of them needs a login or the network for that. What was seen with which version is in docs/agents.md.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from hapi import procs
from hapi.agents.built_in import FLAVORS
from hapi.ids import ProcessId
from tests.support import codex
from tests.support.hub import WebClient
from tests.support.model_server import ModelServer
from tests.support.runner import Runner, command_line, gone
from tests.support.wait import until

NAMED = [name for name in os.environ.get("HAPI_TEST_AGENTS", "").split(",") if name]
PROGRAMS = {"claude": "claude-agent-acp", "codex": "codex-acp"}
COMMANDS = {"gemini": "gemini --acp", "qwen": "qwen --acp", "vibe": "vibe-acp"}
SLOW_S = 60
pytestmark = [pytest.mark.hub, pytest.mark.timeout(300)]


def environment(agent: str, url: str, runner: Runner) -> dict[str, str]:
    """What the agent needs to use the model server, in a home of its own."""
    home = runner.home.parent / "agent-home"
    home.mkdir(exist_ok=True)
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "options": {"baseURL": f"{url}/v1", "apiKey": "x"},
        "models": {"m1": {"name": "m1"}, "m2": {"name": "m2"}},
    }
    opencode = {"provider": {"mock": provider}, "model": "mock/m1", "permission": {"edit": "ask", "bash": "ask"}}
    wanted = {
        "claude": {
            "ANTHROPIC_BASE_URL": url,
            "ANTHROPIC_API_KEY": "x",
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "DISABLE_AUTOUPDATER": "1",
            "IS_SANDBOX": "1",
        },
        "opencode": {
            "OPENCODE_CONFIG_CONTENT": json.dumps(opencode),
            "OPENCODE_DISABLE_AUTOUPDATE": "1",
            "OPENCODE_DISABLE_MODELS_FETCH": "1",
            "OPENCODE_DISABLE_LSP_DOWNLOAD": "1",
            "OPENCODE_DISABLE_DEFAULT_PLUGINS": "1",
        },
        "gemini": {"GEMINI_API_KEY": "mock", "GOOGLE_GEMINI_BASE_URL": url},
        "qwen": {"OPENAI_API_KEY": "x", "OPENAI_BASE_URL": f"{url}/v1", "OPENAI_MODEL": "mock"},
        "copilot": {
            "COPILOT_OFFLINE": "true",
            "COPILOT_PROVIDER_BASE_URL": f"{url}/v1",
            "COPILOT_MODEL": "gpt-5",
            "COPILOT_AUTO_UPDATE": "false",
        },
    }.get(agent, {})
    if agent == "codex":
        made = codex.write_home(home, url, runner.project)
        wanted = {key: made[key] for key in ("CODEX_HOME", "MOCK_API_KEY")}
    return wanted | {"HOME": str(home)}


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer() as server:
        yield server


class Chat:
    """A session with a real agent, seen from the web."""

    def __init__(self, runner: Runner, web: WebClient, agent: str) -> None:
        self.runner = runner
        self.web = web
        if agent in FLAVORS:
            machine = runner.wait_online(web)["id"]
            answer = web.spawn(machine, directory=str(runner.project), agent=agent)
            assert answer["type"] == "success", answer
        else:
            answer = runner.spawn(agent=agent)
        self.id: str = answer["sessionId"]
        until(lambda: web.session(self.id)["active"], SLOW_S, "the web shows it")

    def say(self, *steps: dict[str, Any]) -> None:
        self.web.send(self.id, f"Do it. MOCK{json.dumps(steps)}")

    def rows(self, kind: str) -> list[dict[str, Any]]:
        contents = [
            row["content"]["content"] for row in self.web.messages(self.id) if row["content"]["role"] == "agent"
        ]
        data = [content["data"] for content in contents if content["type"] == "codex"]
        return [row for row in data if row["type"] == kind]

    def hears(self, text: str) -> None:
        until(lambda: any(text in row["message"] for row in self.rows("message")), SLOW_S, f"the agent says {text!r}")

    def asked(self) -> str:
        found = until(lambda: (self.web.session(self.id).get("agentState") or {}).get("requests"), SLOW_S, "it asks")
        assert len(found) == 1, found
        (request,) = found
        return request

    def tree(self) -> list[ProcessId]:
        record = self.runner.session(self.id)
        assert record is not None
        return procs.descendants(record["pid"])

    def stop(self) -> None:
        """Stopped from here, nothing of its tree is left."""
        tree = self.tree()
        assert tree
        done = self.runner.hapi("runner", "stop-session", self.id, "--json", check=0)
        assert done.json["status"] == "stopped"
        for process in tree:
            gone(process)


@pytest.mark.parametrize(
    "agent", NAMED or [pytest.param("none", marks=pytest.mark.skip("HAPI_TEST_AGENTS names none"))]
)
def test_a_turn_a_permission_an_abort_a_stop_and_the_memory(
    online: Runner, web: WebClient, model: ModelServer, agent: str
) -> None:
    program = COMMANDS.get(agent, PROGRAMS.get(agent, agent)).split()[0]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not on PATH")
    settings: dict[str, Any] = {"env": environment(agent, model.url, online)}
    online.settings(agents={agent: settings | ({"command": COMMANDS[agent]} if agent in COMMANDS else {})})
    online.environment["HAPI_RUNNER_WEBHOOK_TIMEOUT_MS"] = "25000"
    online.start()
    chat = Chat(online, web, agent)

    chat.say({"text": "The word is heliotrope."})
    chat.hears("heliotrope")

    for name, decide in {"yes.txt": web.approve, "no.txt": web.deny}.items():
        chat.say({"shell": f"echo hi > {name}"}, {"text": f"Behind {name}."})
        decide(chat.id, chat.asked())
        online.wait_phase(chat.id, "idle", deadline_s=SLOW_S)
        assert (online.project / name).exists() == (name == "yes.txt")

    chat.say({"slow": [600, 0.1]})
    chat.say({"text": "This one waited."})
    until(lambda: any("MOCK" in str(body) and "600" in str(body) for body in model.requests), SLOW_S, "it works")
    online.wait_phase(chat.id, "working")
    web.abort(chat.id)
    assert model.hung_up.wait(SLOW_S)
    chat.hears("This one waited.")

    chat.say({"shell": "touch busy.txt; sleep 600"})
    web.approve(chat.id, chat.asked())
    until(lambda: any("sleep 600" in command_line(p.pid) for p in chat.tree()), SLOW_S, "its tool runs")
    chat.stop()
    if agent not in FLAVORS:
        return
    before = len(model.requests)
    web.post(f"/api/sessions/{chat.id}/resume")
    until(lambda: web.session(chat.id)["active"], SLOW_S, "it is back")
    chat.say({"text": "I am back."})
    chat.hears("I am back.")
    assert any("heliotrope" in json.dumps(body) for body in model.requests[before:])
    chat.stop()
