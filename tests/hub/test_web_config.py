"""Model, effort, permission mode and the other pickers of the web app, through the hub's REST API."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hapi import procs
from hapi.ids import SESSION_MARK
from tests.support.agents import family, members, program
from tests.support.hub import OfficialHub, WebClient, WebError, unique
from tests.support.runner import Runner, command_line, gone
from tests.support.wait import until

pytestmark = pytest.mark.hub

FLAVORS = ("claude", "codex", "opencode", "grok", "copilot", "cursor", "pi", "kimi", "dsh")
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
        runner.attach(shared_hub, unique("config"))
        runner.settings(agents={name: {"use": "demo"} for name in FLAVORS})
        runner.environment |= {"HAPI_DEMO_HOME": str(tmp_path_factory.mktemp("demo")), "HAPI_DEMO_BUSY": "refuse"}
        runner.start("--workspace-root", str(runner.project))
        yield Stage(runner, WebClient(shared_hub.url, runner.token))
    shutil.rmtree(place, ignore_errors=True)


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
            ("grok", "model", {"model": "demo-slow"}, {"model": "demo-slow"}),
            ("copilot", "model", {"model": "demo-slow"}, {"model": "demo-slow"}),
            ("cursor", "model", {"model": "demo-slow"}, {"model": "demo-slow"}),
            ("kimi", "model", {"model": "demo-slow"}, {"model": "demo-slow"}),
            ("kimi", "permission-mode", {"mode": "yolo"}, {"permissionMode": "yolo"}),
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
            ("pi", "model", {"model": {"provider": "x", "modelId": "y"}}, 409, ["pi has no model 'x/y'"]),
            ("kimi", "effort", {"effort": "high"}, 400, []),
            ("dsh", "model", {"model": "demo-slow"}, 400, []),
            ("dsh", "permission-mode", {"mode": "default"}, 400, []),
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
        assert '"mode": "plan", "model": "demo-slow", "effort": "low"' in saved(stage, session)


class TestLists:
    def test_of_running_sessions(self, stage: Stage) -> None:
        models = [{"modelId": "demo-fast", "name": "demo-fast"}, {"modelId": "demo-slow", "name": "demo-slow"}]
        for agent in ("opencode", "copilot", "cursor"):
            found = stage.list(stage.session(agent), f"{agent}-models")
            assert found["availableModels"] == models, (agent, found)
            assert found["currentModelId"] in {"demo-fast", "demo-slow"}
        for agent in ("opencode", "grok"):
            session = stage.session(agent)
            options = stage.list(session, f"{agent}-reasoning-effort-options")
            assert [option["value"] for option in options["options"]] == ["low", "medium", "high"]
            row = stage.web.session(session)
            assert options["currentValue"] == (row["effort"] or row["modelReasoningEffort"])
        codex = stage.list(stage.session("codex"), "codex-models")["models"]
        assert [model["id"] for model in codex] == ["demo-fast", "demo-slow"]
        assert codex[0]["supportedReasoningEfforts"] == ["low", "medium", "high"]

    @pytest.mark.parametrize("agent", ["opencode", "grok", "copilot"])
    def test_before_a_session_in_a_directory(self, stage: Stage, agent: str) -> None:
        found = stage.web.get(f"/api/machines/{stage.machine}/{agent}-models?cwd={stage.runner.project}")
        assert found["success"], found
        assert [model["modelId"] for model in found["availableModels"]] == ["demo-fast", "demo-slow"]
        assert found["currentModelId"] == "demo-fast"
        if agent == "grok":
            assert [level["value"] for level in found["availableModels"][0]["reasoningEfforts"]][-1] == "high"
            assert found["autoPermissionModeSupported"] is False
        self.no_agent_is_left(stage)

    @pytest.mark.parametrize("agent", ["codex", "cursor", "pi"])
    def test_before_a_session_on_the_machine(self, stage: Stage, agent: str) -> None:
        found = stage.web.get(f"/api/machines/{stage.machine}/{agent}-models")
        listed = found["models"] if agent == "codex" else found["availableModels"]
        assert [model.get("id") or model["modelId"] for model in listed] == ["demo-fast", "demo-slow"]
        self.no_agent_is_left(stage)

    def test_variants(self, stage: Stage) -> None:
        found = stage.web.get(f"/api/machines/{stage.machine}/opencode-model-variants?cwd={stage.runner.project}")
        assert found["variants"] == {"demo-fast": ["low", "medium", "high"]}

    def test_an_agent_that_is_not_there_says_so(self, stage: Stage) -> None:
        found = stage.web.get(f"/api/machines/{stage.machine}/agy-models")
        assert found["success"] is False
        assert "does not speak ACP" in found["error"]

    @pytest.mark.parametrize("cwd", ["/etc", "/", "{project}/../..", "{project}/none", "{project}/link", "%00", "here"])
    def test_only_within_the_workspace_roots(self, stage: Stage, cwd: str) -> None:
        link = stage.runner.project / "link"
        if not link.is_symlink():
            link.symlink_to("/etc")
        try:
            found = stage.web.get(
                f"/api/machines/{stage.machine}/opencode-models?cwd={cwd.format(project=stage.runner.project)}"
            )
        except WebError as error:
            found = error.body
        assert not found.get("availableModels"), found
        assert found["error"]

    @pytest.mark.parametrize("killed", [False, True])
    def test_nothing_that_the_agent_started_outlives_the_question(self, stage: Stage, killed: bool) -> None:  # noqa: FBT001
        """The agent leaves six processes deaf to SIGTERM, some detached, one without environment.

        Seen to fail: without `remains.end` in `ModelLists`.
        """
        name = f"clan{int(killed)}"
        place = family(stage.runner, name)
        agents = stage.runner.read_settings()["agents"]
        agents[name]["env"] |= {"HAPI_DEMO_START": "hang"} if killed else {}
        stage.runner.settings(agents=agents | {"grok": {"use": name}})
        where = stage.runner.project / name
        where.mkdir(exist_ok=True)
        try:
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(stage.web.get, f"/api/machines/{stage.machine}/grok-models?cwd={where}")
                those = members(place)
                if killed:
                    until(lambda: len(probes(stage.runner)) > 5, SOON, "the agent is there")
                    (probe,) = [who for who in procs.marked("HAPI_HOME", str(stage.runner.home)) if is_probe(who.pid)]
                    os.kill(probe.pid, signal.SIGKILL)
                found = asked.result(SOON)
        finally:
            stage.runner.settings(agents=agents | {"grok": {"use": "demo"}})
        assert found["success"] is not killed, found
        for process in those:
            gone(process)
        self.no_agent_is_left(stage)

    def test_asked_twice_at_once_the_agent_is_started_once(self, stage: Stage) -> None:
        started = program(stage.runner, "counted", "import os, sys\nopen(PLACE, 'a').write('started ')")
        agents = stage.runner.read_settings()["agents"]
        stage.runner.settings(agents=agents | {"copilot": {"use": "counted"}})
        (stage.runner.project / "twice").mkdir()
        path = f"/api/machines/{stage.machine}/copilot-models?cwd={stage.runner.project}/twice"
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(stage.web.get, [path] * 3))
        assert [answer["success"] for answer in answers] == [True] * 3
        assert stage.web.get(path) == answers[0]
        stage.runner.settings(agents=agents | {"copilot": {"use": "demo"}})
        assert started.read_text() == "started "

    def no_agent_is_left(self, stage: Stage) -> None:
        until(lambda: not probes(stage.runner), SOON, "the probe and its agent are gone")


def probes(runner: Runner) -> list[str]:
    """The command lines of what model lists have running in a home."""
    found = []
    for process in procs.marked("HAPI_HOME", str(runner.home)):
        mark = next((line for line in environ(process.pid) if line.startswith(f"{SESSION_MARK}=probe-")), "")
        found += [command_line(process.pid)] if mark else []
    return found


def is_probe(pid: int) -> bool:
    return "supervisor.probe" in command_line(pid)


def environ(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace").split("\0")
    except OSError:
        return []


class TestChangedByTheAgent:
    def test_its_own_changes_are_shown(self, stage: Stage) -> None:
        session = stage.spawn("claude", permissionMode="plan")
        stage.say(session, "/set mode acceptEdits ; /set model demo-slow ; /set effort high")
        stage.shown(session, permissionMode="acceptEdits", model="demo-slow", effort="high")
        listed = stage.runner.info(session)
        assert listed is not None
        assert (listed.permission_mode, listed.model, listed.effort) == ("acceptEdits", "demo-slow", "high")

    def test_a_mode_that_it_took_by_itself_does_not_make_us_approve(self, stage: Stage) -> None:
        """Seen to fail: with `allowing` following the agent."""
        session = stage.spawn("claude", permissionMode="default")
        stage.web.send(session, "/set mode bypassPermissions ; /ask rm")
        (request,) = until(lambda: stage.requests(session), SOON, "a person is asked")
        stage.shown(session, permissionMode="bypassPermissions")
        stage.web.deny(session, request)
        until(lambda: "Permission: reject_once" in stage.texts(session), SOON, "the refusal")


class TestWhileATurnRuns:
    def test_what_the_agent_takes_at_once_it_gets_at_once(self, stage: Stage) -> None:
        session = stage.spawn("claude")
        stage.web.send(session, "/ask one")
        (request,) = until(lambda: stage.requests(session), SOON, "it asks")
        stage.set(session, "effort", effort="high")
        assert '"effort": "high"' in saved(stage, session)
        stage.web.approve(session, request)

    def test_what_it_refuses_waits_for_the_next_prompt(self, stage: Stage) -> None:
        """Seen to fail: without `settle` before a prompt."""
        session = stage.spawn("claude")
        stage.web.send(session, "/ask one")
        (request,) = until(lambda: stage.requests(session), SOON, "it asks")
        stage.set(session, "model", model="demo-slow")
        stage.shown(session, model="demo-slow")
        assert '"model": "demo-fast"' in saved(stage, session)
        stage.web.approve(session, request)
        stage.say(session, "/say next")
        assert '"model": "demo-slow"' in saved(stage, session)
        stage.shown(session, model="demo-slow")


class TestModes:
    def test_a_mode_that_allows_more_answers_what_is_open(self, stage: Stage) -> None:
        """Seen to fail: without `Asking.set_mode` looking at what waits."""
        session = stage.spawn("codex", permissionMode="default")
        stage.web.send(session, "/ask one")
        (request,) = until(lambda: stage.requests(session), SOON, "it asks")
        stage.set(session, "permission-mode", mode="yolo")
        until(lambda: "Permission: allow_always" in stage.texts(session), SOON, "the agent may")
        until(lambda: request in stage.completed(session), SOON, "the entry is settled")
        assert stage.completed(session)[request]["status"] == "approved"
        stage.say(session, "/ask two")
        assert stage.texts(session).count("Permission: allow_always") == 2
        assert len(stage.completed(session)) == 2

    def test_a_stricter_mode_asks_again(self, stage: Stage) -> None:
        session = stage.spawn("opencode", yolo=True)
        stage.shown(session, permissionMode="yolo")
        stage.say(session, "/ask one")
        assert "Permission: allow_always" in stage.texts(session)
        stage.set(session, "permission-mode", mode="plan")
        stage.say(session, "/ask two")
        assert "Permission: reject_once" in stage.texts(session), "plan denies tools"
        stage.set(session, "permission-mode", mode="default")
        stage.web.send(session, "/ask three")
        (request,) = until(lambda: stage.requests(session), SOON, "a person is asked")
        stage.web.deny(session, request)

    def test_an_approval_may_change_the_mode_for_all(self, stage: Stage) -> None:
        session = stage.spawn("claude", permissionMode="plan")
        stage.web.send(session, "/ask one")
        (request,) = until(lambda: stage.requests(session), SOON, "it asks")
        stage.web.approve(session, request, mode="acceptEdits")
        stage.shown(session, permissionMode="acceptEdits")
        until(lambda: '"mode": "acceptEdits"' in saved(stage, session), SOON, "the agent has it, too")
        until(lambda: request in stage.completed(session), SOON, "the entry is settled")
        assert stage.completed(session)[request]["mode"] == "acceptEdits"

    @pytest.mark.parametrize(
        ("agent", "mode"), [("claude", "bypassPermissions"), ("grok", "bypassPermissions"), ("codex", "yolo")]
    )
    def test_yolo_is_the_flavors_own(self, stage: Stage, agent: str, mode: str) -> None:
        session = stage.spawn(agent, yolo=True)
        stage.shown(session, permissionMode=mode)
        stage.say(session, "/ask anything")
        assert "Permission: allow_always" in stage.texts(session)


CHOSEN = {
    "codex": [
        ("model", {"model": "demo-slow"}),
        ("model-reasoning-effort", {"modelReasoningEffort": "high"}),
        ("permission-mode", {"mode": "safe-yolo"}),
        ("service-tier", {"serviceTier": "fast"}),
        ("collaboration-mode", {"mode": "plan"}),
    ],
    "claude": [
        ("model", {"model": "demo-slow"}),
        ("effort", {"effort": "low"}),
        ("permission-mode", {"mode": "acceptEdits"}),
    ],
}
KEPT = {
    "codex": {
        "model": "demo-slow",
        "modelReasoningEffort": "high",
        "permissionMode": "safe-yolo",
        "serviceTier": "fast",
        "collaborationMode": "plan",
    },
    "claude": {"model": "demo-slow", "effort": "low", "permissionMode": "acceptEdits"},
}


class TestResume:
    @pytest.mark.parametrize("agent", ["codex", "claude"])
    def test_trap_36_a_resumed_session_keeps_what_was_chosen_after_its_spawn(self, stage: Stage, agent: str) -> None:
        """Reopened after an archive, resumed after a crash; the agent's own conversation has forgotten it all.

        Seen to fail: without `Configuration.begin` setting what the order says.
        """
        session = stage.spawn(agent, permissionMode="default", model="demo-fast")
        for route, body in CHOSEN[agent]:
            stage.set(session, route, **body)
        stage.say(session, "/say something to come back to")
        for way in ("reopen", "resume"):
            if way == "reopen":
                stage.web.archive(session)
            else:
                stage.web.send(session, "/crash")
            stage.runner.ended(session)
            until(lambda: not stage.web.session(session)["active"], SOON, "the hub knows that it ended")
            path = saved_file(stage, session)
            path.write_text(json.dumps(json.loads(path.read_text()) | FORGOTTEN))
            stage.web.post(f"/api/sessions/{session}/{way}")
            stage.shown(session, active=True, **KEPT[agent])
            text = saved(stage, session)
            assert '"model": "demo-slow"' in text
            info = stage.runner.info(session)
            assert info is not None
            assert info.permission_mode == KEPT[agent]["permissionMode"]
        stage.say(session, "/ask one" if agent == "codex" else "/say one")
        assert agent == "claude" or "Permission: allow_once" in stage.texts(session)


FORGOTTEN = {"model": "demo-fast", "effort": "medium", "mode": "default", "service_tier": "standard"}


def saved_file(stage: Stage, session: str) -> Path:
    """The agent's own conversation."""
    info = stage.runner.info(session)
    assert info is not None
    return Path(stage.runner.environment["HAPI_DEMO_HOME"], f"{info.native_id}.json")


def saved(stage: Stage, session: str) -> str:
    """What the demo agent keeps of the session, as JSON with blanks."""
    return json.dumps(json.loads(saved_file(stage, session).read_text()))
