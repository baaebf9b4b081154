"""Every agent of the table, started from the web: what it is told on its command line, in its environment, over ACP.

The programs are stand-ins that write all of it down and answer as the real ones do (tests/support/stub_agent.py).
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hapi import procs
from hapi.agents.built_in import FLAVORS
from tests.support.hub import OfficialHub, WebClient, WebError, unique
from tests.support.runner import Runner, gone
from tests.support.stub_agent import PROFILES, Stubs, heard
from tests.support.wait import until

pytestmark = pytest.mark.hub

PROGRAMS = {
    "claude": "claude-agent-acp",
    "codex": "codex-acp",
    "copilot": "copilot",
    "cursor": "agent",
    "dsh": "dsh-acp-demo",
    "grok": "grok",
    "kimi": "kimi",
    "opencode": "opencode",
    "pi": "pi-acp",
}
STRANGERS = {"gemini": "gemini --acp", "vibe": "vibe-acp"}
SECRET = "canary-7f3a"
SHOWN_S = 15
_names = itertools.count(1)


class Stage:
    """A runner whose PATH has a stub for each agent, and a web app."""

    def __init__(self, runner: Runner, web: WebClient, stubs: Stubs) -> None:
        self.runner = runner
        self.web = web
        self.stubs = stubs
        self.machine = runner.wait_online(web)["id"]

    def ask_for(self, agent: str, **options: Any) -> dict[str, Any]:
        """The hub's answer to a spawn."""
        return self.web.spawn(self.machine, directory=str(self.runner.project), agent=agent, **options)

    def spawn(self, agent: str, **options: Any) -> str:
        result = self.ask_for(agent, **options)
        assert result["type"] == "success", result
        session: str = result["sessionId"]
        return session

    def run(self, session: str, number: int = -1) -> list[dict[str, Any]]:
        """What a process of that session wrote: the last one, if no other is asked for."""
        return self.stubs.runs(session)[number]

    def rows(self, session: str) -> list[dict[str, Any]]:
        contents = [
            row["content"]["content"] for row in self.web.messages(session) if row["content"]["role"] == "agent"
        ]
        return [content["data"] for content in contents if content.get("type") == "codex"]

    def texts(self, session: str) -> list[str]:
        return [row["message"] for row in self.rows(session) if row["type"] == "message"]

    def says(self, session: str, text: str) -> None:
        """Wait for a text of the agent."""
        until(lambda: text in self.texts(session), SHOWN_S, f"{session} says {text!r}")

    def requests(self, session: str) -> dict[str, Any]:
        found: dict[str, Any] = (self.web.session(session).get("agentState") or {}).get("requests") or {}
        return found


@pytest.fixture(scope="module")
def stage(shared_hub: OfficialHub) -> Iterator[Stage]:
    path = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    stubs = Stubs(path / "stubs")
    with Runner(path / "h") as runner:
        runner.attach(shared_hub, unique("agents"))
        runner.environment |= {
            "PATH": f"{stubs.path}{os.pathsep}{runner.environment['PATH']}",
            "CLI_API_TOKEN": runner.token,
            "HAPI_EXTRA_HEADERS_JSON": f'{{"X-Proxy": "{SECRET}"}}',
            "MY_OWN": "kept",
            "HOME": str(path / "home"),
            "HAPI_RUNNER_WEBHOOK_TIMEOUT_MS": "5000",
        }
        known = {name: {"command": command} for name, command in STRANGERS.items()}
        runner.settings(agents=known | {"kimi": {"env": {"KIMI_SHARE": "here"}, "args": ["--work"]}})
        runner.start()
        yield Stage(runner, WebClient(shared_hub.url, runner.token), stubs)
    shutil.rmtree(path, ignore_errors=True)


MODE, MODEL, OPTION = "session/set_mode", "session/set_model", "session/set_config_option"


@pytest.mark.parametrize(
    ("agent", "options", "argv", "asked"),
    [
        (
            "claude",
            {"model": "opus", "effort": "high", "permissionMode": "plan"},
            [],
            [(MODE, "plan"), (OPTION, "opus"), (OPTION, "high")],
        ),
        ("claude", {"yolo": True}, [], [(MODE, "bypassPermissions")]),
        (
            "codex",
            {"model": "gpt-5.4", "modelReasoningEffort": "high", "permissionMode": "read-only", "serviceTier": "fast"},
            ["-c", "service_tier=fast"],
            [(MODE, "read-only"), (OPTION, "gpt-5.4"), (OPTION, "high")],
        ),
        ("codex", {"yolo": True, "serviceTier": "standard"}, [], [(MODE, "full-access")]),
        ("codex", {"yolo": True, "permissionMode": "default"}, [], [(MODE, "auto")]),
        ("copilot", {"model": "gpt-5", "permissionMode": "safe-yolo"}, ["--acp", "--stdio"], [(MODEL, "gpt-5")]),
        ("cursor", {"model": "sonic", "permissionMode": "plan"}, ["--model", "sonic", "acp"], [(MODE, "plan")]),
        ("cursor", {"permissionMode": "autoReview"}, ["--auto-review", "acp"], []),
        (
            "grok",
            {"model": "g4", "effort": "high", "yolo": True},
            ["agent", "--model", "g4", "--reasoning-effort", "high", "stdio"],
            [],
        ),
        ("kimi", {"model": "k2", "yolo": True}, ["acp", "--work"], [(MODEL, "k2")]),
        (
            "opencode",
            {"model": "mock/m2", "modelReasoningEffort": "high", "permissionMode": "plan"},
            ["acp"],
            [(OPTION, "plan"), (OPTION, "mock/m2"), (OPTION, "high")],
        ),
        ("dsh", {}, [], []),
        ("pi", {"model": "mock/m2", "effort": "high"}, [], [(OPTION, "mock/m2"), (OPTION, "high")]),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_the_web_chose_reaches_the_agent(stage, agent, options, argv, asked):
    session = stage.spawn(agent, **options)
    started, *messages = stage.run(session)
    assert started["argv"] == [str(stage.stubs.path / PROGRAMS[agent]), *argv]
    assert started["cwd"] == str(stage.runner.project)
    (opened,) = heard(messages, "session/new")
    assert opened == {"cwd": str(stage.runner.project), "mcpServers": []}
    (introduced,) = heard(messages, "initialize")
    assert (introduced["protocolVersion"], introduced["clientInfo"]["name"]) == (1, "hapi")
    fs = introduced["clientCapabilities"].get("fs") or {}
    assert not any(fs.values())  # gemini creates no file where it is offered
    said = [
        (
            line["in"]["method"],
            next(value for key, value in line["in"]["params"].items() if key in {"modeId", "modelId", "value"}),
        )
        for line in messages
        if line.get("in", {}).get("method") in {MODE, MODEL, OPTION}
    ]
    assert said == asked
    stage.runner.hapi("runner", "stop-session", session, check=0)


@pytest.mark.parametrize("agent", [*PROGRAMS, *STRANGERS])
def test_a_life_of_every_agent(stage, agent):
    """A prompt, a permission, an abort, two prompts at once, noise, the end, and (where it can) the memory after it."""
    profile = PROFILES[PROGRAMS.get(agent) or STRANGERS[agent].split()[0]]
    session = stage.spawn(agent) if agent in FLAVORS else stage.runner.spawn(agent=agent)["sessionId"]
    web = stage.web
    until(lambda: web.session(session)["active"], SHOWN_S, "the web shows it")
    web.send(session, "keep the green key")
    stage.says(session, "heard keep the green key")
    answers_permissions(stage, session, profile)

    web.send(session, "stay")
    stage.runner.wait_phase(session, "working")
    web.send(session, "the one behind it")
    web.abort(session)
    stage.says(session, "heard the one behind it")
    results = [row for row in stage.rows(session) if row["type"] == "tool-call-result"]
    assert results[-1]["is_error"]  # also where the agent left the call open

    web.send(session, "odd")
    stage.says(session, "still here")
    stage.runner.wait_phase(session, "idle")
    run = stage.run(session)
    assert not [line["trouble"] for line in run if "trouble" in line]
    secrets = [name for name, value in run[0]["env"].items() if SECRET in value or stage.runner.token in value]
    assert (secrets, run[0]["env"]["MY_OWN"], run[0]["env"]["HAPI_SESSION_ID"]) == ([], "kept", session)
    assert run[0]["env"].get("KIMI_SHARE") == ("here" if agent == "kimi" else None)

    process = procs.identity(run[0]["pid"])
    web.archive(session)
    if process is not None:
        gone(process)
    stage.runner.ended(session)
    if agent in FLAVORS and profile["can"]:
        if agent == "cursor":
            keeps_its_chat(stage, session)
        remembers(stage, session)


def keeps_its_chat(stage: Stage, session: str) -> None:
    """What the real program leaves on disk: the hub resumes a chat of Cursor's only where it is."""
    native = stage.web.session(session)["metadata"]["cursorSessionId"]
    database = Path(stage.runner.environment["HOME"]) / ".cursor/acp-sessions" / native / "store.db"
    database.parent.mkdir(parents=True)
    database.write_text("")


def answers_permissions(stage: Stage, session: str, profile: dict[str, Any]) -> None:
    """Each decision gets the option of its kind, whatever its id; an agent that never asks is not waited for."""
    of_kind = {kind: option for option, kind in profile["ask"]}
    decisions = {
        "allow_once": lambda request: stage.web.approve(session, request, decision="approved"),
        "reject_once": lambda request: stage.web.deny(session, request),
        "allow_always": lambda request: stage.web.approve(session, request, decision="approved_for_session"),
    }
    for kind, decide in decisions.items():
        stage.web.send(session, "ask")
        if of_kind:
            (request,) = until(lambda: stage.requests(session), SHOWN_S, "the web is asked")
            assert stage.requests(session)[request]["arguments"] == {"command": "echo hi"}
            decide(request)
            stage.says(session, f"chosen: {of_kind[kind]}")
        stage.runner.wait_phase(session, "idle")
    if not of_kind:
        assert stage.texts(session).count("chosen: nobody was asked") == len(decisions)


def remembers(stage: Stage, session: str) -> None:
    """Resumed from the web it loads its own conversation, and what it tells of it again is not shown twice."""
    native = heard(stage.run(session), "session/prompt")[0]["sessionId"]
    assert stage.web.post(f"/api/sessions/{session}/reopen")["sessionId"] == session
    until(lambda: stage.web.session(session)["active"], SHOWN_S, "it is back")
    resumed = stage.run(session)
    assert heard(resumed, "session/load") == [{"sessionId": native, "cwd": str(stage.runner.project), "mcpServers": []}]
    assert heard(resumed, "session/new") == []
    stage.web.send(session, "recall")
    stage.says(session, "heard the green key")
    assert "history told again" not in stage.texts(session)
    stage.runner.hapi("runner", "stop-session", session, check=0)


@pytest.mark.parametrize(
    ("agent", "options", "words"),
    [
        ("dsh", {"model": "x"}, "dsh takes no model."),
        ("kimi", {"effort": "low"}, "kimi has no effort 'low'. It has no efforts to choose from."),
        ("claude", {"effort": "huge"}, "claude has no effort 'huge'. Its efforts: low, medium, high, xhigh, max."),
        ("codex", {"permissionMode": "plan"}, "codex has no permission mode 'plan'. Its modes: default, read-only,"),
        ("pi", {"permissionMode": "yolo"}, "pi has no permission mode 'yolo'."),
        ("kimi", {"serviceTier": "fast"}, "kimi has no serviceTier 'fast'."),
        ("claude", {"collaborationMode": "plan"}, "claude has no collaborationMode 'plan'."),
        ("opencode", {"copilotAgentMode": "autopilot"}, "opencode has no copilotAgentMode 'autopilot'."),
        ("agy", {}, "agy is not available: it does not speak ACP"),
    ],
)
def test_a_wrong_combination_is_refused_in_words_and_starts_nothing(stage, agent, options, words):
    before = stage.stubs.pids(PROGRAMS.get(agent, "agy"))
    result = stage.ask_for(agent, **options)
    assert result["type"] == "error", result
    assert words in result["message"]
    assert result.get("code") == ("agent_unavailable" if agent == "agy" else None)
    assert stage.stubs.pids(PROGRAMS.get(agent, "agy")) == before


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("refuses", ["The agent ended: exit code 41.", "Please log in first: stub login"]),
        ("unready", ["The agent was not ready within", "Welcome to the stub!"]),
    ],
)
def test_an_agent_that_does_not_come_up_says_why_and_is_gone(stage, fault, words):
    stage.stubs.fault("grok", fault)
    try:
        result = stage.ask_for("grok")
    finally:
        stage.stubs.fault("grok", None)
    assert result["type"] == "error", result
    assert [word for word in words if word not in result["message"]] == []
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in stage.stubs.pids("grok")), SHOWN_S, "it is gone")


def test_availability_is_told_for_each_flavor(stage):
    found = stage.web.get(f"/api/machines/{stage.machine}/agent-availability")["agents"]
    assert {entry["agent"]: entry["available"] for entry in found} == {name: name != "agy" for name in FLAVORS}
    assert [entry["reason"] for entry in found if not entry["available"]] == ["not_found"]


def test_a_name_that_the_hub_does_not_know_is_refused_there(stage):
    with pytest.raises(WebError) as caught:
        stage.ask_for("gemini-pro")
    assert caught.value.status == 400
