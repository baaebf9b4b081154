"""Model, effort, permission mode and the other pickers of the web app, through the hub's REST API."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.hub import OfficialHub, WebClient, WebError
from tests.support.runner import Runner
from tests.support.wait import until

pytestmark = pytest.mark.hub

FLAVORS = ("claude", "codex", "opencode", "grok", "copilot", "cursor", "pi", "kimi")
SOON = 20


class Stage:
    """A runner at the hub whose every flavor is the demo agent, and one running session a flavor."""

    def __init__(self, runner: Runner, web: WebClient) -> None:
        self.runner = runner
        self.web = web
        self.machine: str = runner.wait_online(web)["id"]
        self._sessions: dict[str, str] = {}

    def spawn(self, agent: str, **options: Any) -> str:
        result = self.web.spawn(self.machine, directory=str(self.runner.project), agent=agent, **options)
        assert result["type"] == "success", result
        session: str = result["sessionId"]
        return session

    def session(self, agent: str) -> str:
        if agent not in self._sessions:
            self._sessions[agent] = self.spawn(agent)
        return self._sessions[agent]

    def set(self, session: str, route: str, **body: Any) -> None:
        self.web.post(f"/api/sessions/{session}/{route}", **body)

    def refused(self, session: str, route: str, **body: Any) -> WebError:
        with pytest.raises(WebError) as caught:
            self.set(session, route, **body)
        return caught.value

    def list(self, session: str, what: str) -> Any:
        return self.web.get(f"/api/sessions/{session}/{what}")

    def shown(self, session: str, **wanted: Any) -> None:
        """Wait until the web shows these values, and our own record has those that it keeps."""

        def now() -> bool:
            row = self.web.session(session)
            return all(row.get(key) == value for key, value in wanted.items())

        until(now, SOON, f"the web shows {wanted}")

    def texts(self, session: str) -> str:
        """All that the agent said, and our remarks."""
        rows = [row["content"]["content"] for row in self.web.messages(session) if row["content"]["role"] == "agent"]
        return "\n".join(str(row["data"].get("message", "")) for row in rows)

    def say(self, session: str, text: str) -> None:
        """Say something and wait until the turn is over."""
        before = self._turns(session)
        self.web.send(session, text)
        until(lambda: self._turns(session) > before, SOON, f"the turn of {text!r}")

    def _turns(self, session: str) -> int:
        rows = [row["content"]["content"] for row in self.web.messages(session) if row["content"]["role"] == "agent"]
        return sum(row["data"].get("type") == "ready" for row in rows)

    def requests(self, session: str) -> dict[str, Any]:
        found: dict[str, Any] = (self.web.session(session).get("agentState") or {}).get("requests") or {}
        return found

    def completed(self, session: str) -> dict[str, Any]:
        found: dict[str, Any] = (self.web.session(session).get("agentState") or {}).get("completedRequests") or {}
        return found


@pytest.fixture(scope="module")
def stage(shared_hub: OfficialHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    place = Path(f"/tmp/hapi-c{os.getpid()}")
    with Runner(place / "h") as runner:
        runner.attach(shared_hub, f"config-{os.getpid()}")
        runner.settings(agents={name: {"use": "demo"} for name in FLAVORS})
        runner.environment |= {"HAPI_DEMO_HOME": str(tmp_path_factory.mktemp("demo")), "HAPI_DEMO_BUSY": "refuse"}
        runner.start("--workspace-root", str(runner.project))
        yield Stage(runner, WebClient(shared_hub.url, runner.token))


class TestPickers:
    @pytest.mark.parametrize(
        ("agent", "route", "body", "shown"),
        [
            ("claude", "model", {"model": "demo-slow"}, {"model": "demo-slow"}),
            ("claude", "model", {"model": None}, {"model": "demo-fast"}),
            ("claude", "effort", {"effort": "high"}, {"effort": "high"}),
            ("claude", "effort", {"effort": None}, {"effort": "medium"}),
            ("claude", "permission-mode", {"mode": "acceptEdits"}, {"permissionMode": "acceptEdits"}),
            ("codex", "model", {"model": "demo-slow"}, {"model": "demo-slow"}),
            ("codex", "model-reasoning-effort", {"modelReasoningEffort": "low"}, {"modelReasoningEffort": "low"}),
            ("codex", "model-reasoning-effort", {"modelReasoningEffort": None}, {"modelReasoningEffort": "medium"}),
            ("codex", "service-tier", {"serviceTier": "fast"}, {"serviceTier": "fast"}),
            ("codex", "service-tier", {"serviceTier": "standard"}, {"serviceTier": "standard"}),
            ("codex", "collaboration-mode", {"mode": "plan"}, {"collaborationMode": "plan"}),
            ("codex", "collaboration-mode", {"mode": "default"}, {"collaborationMode": "default"}),
            ("codex", "permission-mode", {"mode": "safe-yolo"}, {"permissionMode": "safe-yolo"}),
            ("opencode", "model", {"model": "demo-slow"}, {"model": "demo-slow"}),
            ("opencode", "model-reasoning-effort", {"modelReasoningEffort": "high"}, {"modelReasoningEffort": "high"}),
            ("opencode", "permission-mode", {"mode": "plan"}, {"permissionMode": "plan"}),
            ("opencode", "permission-mode", {"mode": "default"}, {"permissionMode": "default"}),
            ("grok", "effort", {"effort": "low"}, {"effort": "low"}),
            ("grok", "permission-mode", {"mode": "bypassPermissions"}, {"permissionMode": "bypassPermissions"}),
            ("copilot", "copilot-agent-mode", {"mode": "plan"}, {"copilotAgentMode": "plan"}),
            ("copilot", "copilot-agent-mode", {"mode": "interactive"}, {"copilotAgentMode": "interactive"}),
            ("copilot", "permission-mode", {"mode": "read-only"}, {"permissionMode": "read-only"}),
            ("cursor", "permission-mode", {"mode": "plan"}, {"permissionMode": "plan"}),
            ("cursor", "permission-mode", {"mode": "yolo"}, {"permissionMode": "yolo"}),
            ("pi", "effort", {"effort": "high"}, {"effort": "high"}),
        ],
    )
    def test_what_is_picked_is_in_force_and_shown(
        self, stage: Stage, agent: str, route: str, body: dict[str, Any], shown: dict[str, Any]
    ) -> None:
        session = stage.session(agent)
        stage.set(session, route, **body)
        stage.shown(session, **shown)

    @pytest.mark.parametrize(
        ("agent", "route", "body", "status", "words"),
        [
            ("claude", "model", {"model": "gpt-9"}, 409, ["claude has no model 'gpt-9'", "demo-fast, demo-slow"]),
            ("claude", "effort", {"effort": "max"}, 409, ["claude has no effort 'max'", "low, medium, high"]),
            ("claude", "permission-mode", {"mode": "auto"}, 409, ["claude does not offer the mode 'auto'", "plan"]),
            ("claude", "permission-mode", {"mode": "yolo"}, 400, ["permission mode"]),
            ("claude", "service-tier", {"serviceTier": "fast"}, 400, []),
            ("claude", "copilot-agent-mode", {"mode": "plan"}, 400, []),
            ("codex", "model-reasoning-effort", {"modelReasoningEffort": "ultra"}, 409, ["codex has no effort"]),
            ("cursor", "permission-mode", {"mode": "debug"}, 409, ["cursor does not offer the mode 'debug'"]),
            ("copilot", "copilot-agent-mode", {"mode": "autopilot"}, 409, ["copilot does not offer the agent mode"]),
            ("pi", "permission-mode", {"mode": "default"}, 400, []),
        ],
    )
    def test_what_the_agent_does_not_have_is_refused_with_the_reason(
        self, stage: Stage, agent: str, route: str, body: dict[str, Any], status: int, words: list[str]
    ) -> None:
        session = stage.session(agent)
        error = stage.refused(session, route, **body)
        assert error.status == status, error
        assert [word for word in words if word.lower() not in str(error.body).lower()] == []

    def test_the_agent_itself_has_changed(self, stage: Stage) -> None:
        """Not just our record of it: what its own conversation holds after the change."""
        session = stage.spawn("claude")
        stage.set(session, "model", model="demo-slow")
        stage.set(session, "effort", effort="low")
        stage.set(session, "permission-mode", mode="plan")
        info = stage.runner.info(session)
        assert info is not None
        saved = Path(stage.runner.environment["HAPI_DEMO_HOME"], f"{info.native_id}.json").read_text()
        assert '"mode": "plan", "model": "demo-slow", "effort": "low"' in saved
