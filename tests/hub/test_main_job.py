"""The main job against the official hub: see the machine, spawn through its REST API, talk, permit, abort, stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hapi import procs
from tests.conftest import skip_or_fail
from tests.support.git import git
from tests.support.hub import OfficialHub, WebClient, WebError, find_hub, free_port
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until

pytestmark = pytest.mark.hub


@pytest.fixture
def machine(online: Runner, web: WebClient) -> dict[str, Any]:
    """Our machine as the hub lists it, the runner confined to the scratch directory."""
    online.start("--workspace-root", str(online.project.parent))
    return online.wait_online(web)


def spawn(web: WebClient, machine: dict[str, Any], directory: Path, **more: Any) -> str:
    """Spawn as the web app does; returns the session's id."""
    result = web.spawn(machine["id"], directory=str(directory), agent="claude", **more)
    assert result["type"] == "success", result
    session: str = result["sessionId"]
    return session


def texts(web: WebClient, session: str, kind: str = "message") -> list[str]:
    """What the web shows of the agent: its texts."""
    contents = [row["content"]["content"] for row in web.messages(session) if row["content"]["role"] == "agent"]
    return [c["data"]["message"] for c in contents if c.get("type") == "codex" and c["data"]["type"] == kind]


def web_client(url: str, token: str) -> WebClient | None:
    """A logged-in web client; None while the hub is not there yet."""
    try:
        return WebClient(url, token)
    except OSError:
        return None


def kinds(web: WebClient, session: str) -> set[str]:
    return {
        f"{c['type']}:{c['data']['type']}"
        for row in web.messages(session)
        if row["content"]["role"] == "agent" and (c := row["content"]["content"])
    }


def requests(web: WebClient, session: str) -> dict[str, Any]:
    found: dict[str, Any] = (web.session(session).get("agentState") or {}).get("requests") or {}
    return found


class TestMachine:
    def test_is_listed_with_version_health_and_state(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        health = until(lambda: web.machines()[0]["health"], 10, "the machine's health")
        assert health["cpuCount"] == os.cpu_count()
        status = online.status()
        assert machine["runnerState"]["pid"] == status["pid"]
        assert machine["runnerState"]["status"] == "running"
        assert machine["metadata"]["workspaceRoots"] == [str(online.project.parent)]
        assert until(lambda: online.status()["hub"]["online"], 5, "status says online")

    def test_browse_and_check_paths_inside_the_roots_only(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        root = online.project.parent
        (root / "link").symlink_to("/etc")
        listed = web.post(f"/api/machines/{machine['id']}/list-directory", path=str(root))
        assert "project" in [entry["name"] for entry in listed["entries"]]
        outside = web.post(f"/api/machines/{machine['id']}/list-directory", path=str(root / "link"))
        assert outside["success"] is False
        asked = [str(online.project), str(root / "link"), str(root / "none"), "/etc"]
        answer = web.post(f"/api/machines/{machine['id']}/paths/exists", paths=asked)
        assert answer["exists"] == dict(zip(asked, [True, False, False, False], strict=True))

    def test_availability_of_agents(self, machine: dict[str, Any], web: WebClient) -> None:
        agents = web.get(f"/api/machines/{machine['id']}/agent-availability")["agents"]
        assert {agent["agent"] for agent in agents} >= {"claude", "codex", "opencode"}
        assert next(agent for agent in agents if agent["agent"] == "claude")["available"] is True

    def test_the_token_of_another_namespace_sees_nothing(
        self, machine: dict[str, Any], shared_hub: OfficialHub
    ) -> None:
        assert machine["id"]
        assert WebClient(shared_hub.url, f"{shared_hub.token}:elsewhere").machines() == []

    def test_stop_button_restarts_a_supervised_runner(self, online: Runner, web: WebClient) -> None:
        environment = online.environment | {"HAPI_RUNNER_SUPERVISED": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", "hapi", "runner", "start-sync"], env=environment, stdin=subprocess.DEVNULL
        )
        try:
            listed = online.wait_online(web)
            assert listed["metadata"]["supervisedRestart"] is True
            web.post(f"/api/machines/{listed['id']}/restart-runner")
            assert process.wait(10) == 75
        finally:
            process.kill()
            process.wait()


class TestSpawn:
    def test_existing_directory(self, online: Runner, machine: dict[str, Any], web: WebClient) -> None:
        session = spawn(web, machine, online.project)
        shown = web.session(session)
        assert shown["active"] is True
        assert shown["metadata"]["path"] == str(online.project)
        assert shown["metadata"]["claudeSessionId"]
        (listed,) = online.sessions()
        assert (listed["sessionId"], listed["startedBy"], listed["agent"]) == (session, "runner", "claude")
        assert shown["metadata"]["hostPid"] == listed["pid"]

    def test_missing_directory_is_made(self, online: Runner, machine: dict[str, Any], web: WebClient) -> None:
        fresh = online.project / "a" / "b"
        spawn(web, machine, fresh)
        assert fresh.is_dir()

    def test_missing_directory_is_refused_where_that_is_set(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        online.settings(createDirectories=False)
        result = web.spawn(machine["id"], directory=str(online.project / "no"), agent="claude")
        assert result["type"] == "error"
        assert "approval" in result["message"]
        assert not (online.project / "no").exists()

    def test_forbidden_directory(self, online: Runner, machine: dict[str, Any], web: WebClient) -> None:
        (online.project / "out").symlink_to("/usr")
        for place in ("/usr", str(online.project / "out"), str(online.project / ".." / ".." / "usr")):
            result = web.spawn(machine["id"], directory=place, agent="claude")
            assert (result["type"], result.get("code")) == ("error", "outside_workspace_roots"), place
        assert online.sessions() == []

    def test_not_a_directory(self, online: Runner, machine: dict[str, Any], web: WebClient) -> None:
        (online.project / "file").write_text("")
        result = web.spawn(machine["id"], directory=str(online.project / "file"), agent="claude")
        assert "not a directory" in result["message"]

    def test_agent_that_is_not_installed(self, online: Runner, machine: dict[str, Any], web: WebClient) -> None:
        online.settings(agents={"kimi": {"command": "/nowhere/kimi-cli acp"}})
        result = web.spawn(machine["id"], directory=str(online.project), agent="kimi")
        assert result["type"] == "error"
        error = until(
            lambda: web.get("/api/machines")["machines"][0]["runnerState"].get("lastSpawnError"), 5, "lastSpawnError"
        )
        assert "kimi" in error["message"]

    def test_worktree(self, online: Runner, machine: dict[str, Any], web: WebClient) -> None:
        git(online.project, "init", "-q", "-b", "main")
        git(online.project, "commit", "-q", "--allow-empty", "-m", "first")
        session = spawn(web, machine, online.project, sessionType="worktree", worktreeName="My Feature!")
        metadata = web.session(session)["metadata"]
        assert metadata["path"] == str(online.project.parent / "project-worktrees" / "my-feature")
        assert metadata["worktree"]["branch"] == "hapi-my-feature"

    def test_yolo_mode_asks_nobody(self, online: Runner, machine: dict[str, Any], web: WebClient) -> None:
        session = spawn(web, machine, online.project, permissionMode="bypassPermissions")
        web.send(session, "/ask Bash")
        until(lambda: any("allow" in text for text in texts(web, session)), 10, "the tool was allowed")
        assert requests(web, session) == {}


class TestTalk:
    def test_round_trip_and_everything_the_agent_shows(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        session = spawn(web, machine, online.project)
        web.send(session, "/think deep thoughts ; hello ; /plan one | two ; /tool Bash ; /usage 500", "local-1")
        until(lambda: "event:ready" in kinds(web, session), 10, "the turn is over")
        assert kinds(web, session) >= {
            "codex:reasoning",
            "codex:message",
            "codex:plan",
            "codex:tool-call",
            "codex:tool-call-result",
            "codex:token_count",
        }
        assert texts(web, session) == ["You said: hello"]
        mine = next(row for row in web.messages(session) if row.get("localId") == "local-1")
        assert mine["invokedAt"]
        until(lambda: web.session(session)["thinking"] is False, 5, "no longer thinking")
        todos = web.session(session)["todos"]
        assert [(todo["content"], todo["status"]) for todo in todos] == [("one", "completed"), ("two", "completed")]

    def test_words_typed_on_the_machine_are_shown(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        session = spawn(web, machine, online.project)
        online.hapi("send", session, "from the terminal", check=0)
        until(lambda: texts(web, session), 10, "the answer")
        users = [row["content"]["content"]["text"] for row in web.messages(session) if row["content"]["role"] == "user"]
        assert users == ["from the terminal"]

    def test_messages_queue_while_the_agent_works(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        session = spawn(web, machine, online.project)
        web.send(session, "/slow 1.5 ; /say first is done", "a")
        until(lambda: web.session(session)["thinking"], 5, "thinking")
        web.send(session, "/say second", "b")
        until(lambda: "second" in "".join(texts(web, session)), 15, "both answers")
        said = "".join(texts(web, session))
        assert said.index("first is done") < said.index("second")
        assert said.count("first is done") == said.count("second") == 1


class TestPermissions:
    @pytest.mark.parametrize(
        ("answer", "body", "said", "status"),
        [
            ("approve", {}, "allow_once", "approved"),
            ("approve", {"decision": "approved_for_session"}, "allow_always", "approved"),
            ("deny", {}, "reject_once", "denied"),
        ],
    )
    def test_is_shown_and_answered(
        self, online: Runner, machine: dict[str, Any], web: WebClient, answer: str, body: Any, said: str, status: str
    ) -> None:
        session = spawn(web, machine, online.project)
        web.send(session, "/ask Bash")
        ((request, shown),) = until(lambda: requests(web, session), 10, "the request").items()
        assert shown["tool"] == "Bash"
        assert online.session(session)["phase"] == "waiting"  # type: ignore[index]
        getattr(web, answer)(session, request, **body)
        until(lambda: any(said in text for text in texts(web, session)), 10, f"the agent heard {said}")
        done = until(
            lambda: web.session(session)["agentState"]["completedRequests"].get(request), 5, "the request is completed"
        )
        assert done["status"] == status
        assert requests(web, session) == {}
        with pytest.raises(WebError):
            getattr(web, answer)(session, request, **body)

    def test_survives_the_death_of_broker_and_connector(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        session = spawn(web, machine, online.project)
        web.send(session, "/ask Bash")
        (request,) = until(lambda: requests(web, session), 10, "the request")
        before = online.sessions()[0]
        os.kill(online.status()["workers"]["hub"]["pid"], signal.SIGKILL)
        broker = identity(online.status()["pid"])
        os.kill(broker.pid, signal.SIGKILL)
        gone(broker)
        online.start()
        assert requests(web, session).keys() == {request}

        def approved() -> bool:
            try:
                web.approve(session, request)
            except WebError:  # the new connector has yet to register
                return False
            return True

        until(approved, 15, "the answer is taken")
        until(lambda: any("allow_once" in text for text in texts(web, session)), 10, "the agent heard it")
        assert online.sessions()[0]["agentPid"] == before["agentPid"]


class TestEndings:
    def test_abort_ends_the_turn_and_not_the_session(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        session = spawn(web, machine, online.project)
        web.send(session, "/slow 60")
        until(lambda: online.session(session)["phase"] == "working", 5, "working")  # type: ignore[index]
        web.abort(session)
        online.wait_phase(session, "idle")
        web.send(session, "still here?")
        until(lambda: texts(web, session), 10, "an answer after the abort")

    def test_archive_proves_the_agent_gone(self, online: Runner, machine: dict[str, Any], web: WebClient) -> None:
        session = spawn(web, machine, online.project)
        agent = identity(online.sessions()[0]["agentPid"])
        web.archive(session)
        assert not procs.is_alive(agent)
        shown = web.session(session)
        assert shown["active"] is False
        assert shown["metadata"]["lifecycleState"] == "archived"
        assert online.wait_phase(session, "ended")["reason"] == "stopped from hub"

    def test_stop_session_is_told_to_the_hub(self, online: Runner, machine: dict[str, Any], web: WebClient) -> None:
        session = spawn(web, machine, online.project)
        online.hapi("runner", "stop-session", session, check=0)
        until(lambda: not web.session(session)["active"], 5, "inactive at the hub")

    def test_an_agent_that_crashes_is_told_to_the_hub(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        session = spawn(web, machine, online.project)
        web.send(session, "/crash signal SEGV")
        until(lambda: not web.session(session)["active"], 10, "inactive at the hub")
        assert online.session(session)["reason"] == "agent crashed"  # type: ignore[index]
        notes = [
            row["content"]["content"]["data"].get("message", "")
            for row in web.messages(session)
            if row["content"]["role"] == "agent"
        ]
        assert any("SIGSEGV" in note for note in notes)

    def test_a_killed_supervisor_is_told_to_the_hub(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        session = spawn(web, machine, online.project)
        agent = identity(online.sessions()[0]["agentPid"])
        os.kill(online.sessions()[0]["pid"], signal.SIGKILL)
        gone(agent)
        until(lambda: not web.session(session)["active"], 10, "inactive at the hub")
        assert online.session(session)["reason"] == "supervisor lost"  # type: ignore[index]

    def test_a_session_lost_while_the_runner_was_away_is_told_to_the_hub(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        session = spawn(web, machine, online.project)
        record = online.sessions()[0]
        agent = identity(record["agentPid"])
        online.hapi("runner", "stop", check=0)
        os.kill(record["pid"], signal.SIGKILL)
        online.start()
        gone(agent)
        until(lambda: not web.session(session)["active"], 10, "inactive at the hub")
        assert online.status()["verdicts"] == {"ended": 1}

    def test_runner_stop_leaves_the_session_and_start_finds_it(
        self, online: Runner, machine: dict[str, Any], web: WebClient
    ) -> None:
        session = spawn(web, machine, online.project)
        before = online.sessions()[0]
        online.hapi("runner", "stop", check=0)
        assert web.get("/api/machines")["machines"][0]["runnerState"]["status"] == "shutting-down"
        assert procs.identity(before["agentPid"])
        web.send(session, "said while the runner was away")
        online.start()
        until(lambda: any("while the runner was away" in text for text in texts(web, session)), 15, "the answer")
        after = online.sessions()[0]
        assert (after["pid"], after["agentPid"]) == (before["pid"], before["agentPid"])
        assert len([t for t in texts(web, session) if "runner was away" in t]) == 1


class TestOurOwnHubCommands:
    def test_auth_login_status_logout(self, shared_hub: OfficialHub, runner: Runner) -> None:
        login = ("auth", "login", "--url", shared_hub.url, "--token-stdin")
        refused = runner.hapi(*login, input="wrong-token-4711\n")
        assert refused.code == 1
        assert "4711" not in refused.out + refused.err
        accepted = runner.hapi(*login, input=f"{shared_hub.token}\n", check=0)
        shown = runner.hapi("auth", "status", check=0)
        assert shared_hub.token not in accepted.out + accepted.err + shown.out + shown.err
        assert json.loads((runner.home / "settings.json").read_text())["cliApiToken"] == shared_hub.token
        runner.start()
        until(lambda: runner.status()["hub"]["online"], 10, "online with the token just saved")
        runner.hapi("auth", "logout", check=0)
        assert "cliApiToken" not in json.loads((runner.home / "settings.json").read_text())

    def test_hapi_hub_runs_the_official_hub_with_our_settings(self, runner: Runner) -> None:
        if find_hub() is None:
            skip_or_fail("hub", "the official hub is not installed: make setup")
        port = free_port()
        runner.settings(cliApiToken="a-token-of-ours-12345", apiUrl=f"http://127.0.0.1:{port}")
        environment = runner.environment | {"HAPI_HUB_BIN": str(find_hub())}
        process = subprocess.Popen(
            [sys.executable, "-m", "hapi", "hub"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            web = until(lambda: web_client(url, "a-token-of-ours-12345"), 20, "the hub takes our token")
            runner.start()
            assert runner.wait_online(web)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)

    def test_host_name_and_extra_headers(self, online: Runner, web: WebClient) -> None:
        online.environment |= {"HAPI_HOSTNAME": "my-laptop", "HAPI_EXTRA_HEADERS_JSON": '{"X-Proxy": "secret-9"}'}
        online.start()
        assert online.wait_online(web)["metadata"]["host"] == "my-laptop"


class TestHubTroubles:
    def test_hub_down_at_start_and_up_later(self, own_hub: OfficialHub, runner: Runner) -> None:
        runner.attach(own_hub)
        runner.start()
        session = runner.spawn(agent="claude")["sessionId"]
        status = until(lambda: (s := runner.status())["hub"].get("reason") and s, 5, "status says why")
        assert status["hub"]["online"] is False
        own_hub.start()
        web = WebClient(own_hub.url, own_hub.token)
        runner.wait_online(web)
        until(lambda: web.session(session)["active"] if web.sessions() else False, 15, "the session is shown")

    def test_hub_killed_and_restarted_under_us(self, own_hub: OfficialHub, runner: Runner) -> None:
        own_hub.start()
        runner.attach(own_hub)
        runner.start()
        web = WebClient(own_hub.url, own_hub.token)
        machine = runner.wait_online(web)
        session = spawn(web, machine, runner.project)
        web.send(session, "/slow 2 ; /say survived")
        runner.wait_phase(session, "working")
        own_hub.kill()
        runner.wait_phase(session, "idle")
        own_hub.start()
        until(lambda: "survived" in "".join(texts(web, session)), 20, "what was said meanwhile is there")
        assert "".join(texts(web, session)).count("survived") == 1
        web.send(session, "and now?")
        until(lambda: any("and now?" in text for text in texts(web, session)), 20, "the talk goes on")

    def test_wrong_token_is_said(self, own_hub: OfficialHub, runner: Runner) -> None:
        own_hub.start()
        runner.attach(own_hub)
        runner.settings(cliApiToken="wrong-token")
        runner.start()
        until(lambda: "token" in (runner.status()["hub"].get("reason") or "").lower(), 10, "refused, with the reason")
        assert runner.spawn()["phase"] == "idle"

    def test_two_namespaces_with_two_tokens(self, shared_hub: OfficialHub, runner: Runner) -> None:
        machines = []
        for namespace in (f"one-{os.getpid()}", f"two-{os.getpid()}"):
            environment = {"CLI_API_TOKEN": f"{shared_hub.token}:{namespace}", "HAPI_API_URL": shared_hub.url}
            runner.hapi("runner", "start", env=environment, check=0)
            web = WebClient(shared_hub.url, f"{shared_hub.token}:{namespace}")
            machines.append(runner.wait_online(web)["id"])
            status = runner.hapi("runner", "status", "--json", env=environment, check=0).json
            assert status["namespace"] == namespace
            spawned = web.spawn(machines[-1], directory=str(runner.project), agent="claude")
            assert spawned["type"] == "success"
            assert [s["id"] for s in web.sessions()] == [spawned["sessionId"]]
        assert machines[0] != machines[1]

    def test_restarts_leave_one_machine(self, online: Runner, web: WebClient) -> None:
        online.start()
        first = online.wait_online(web)["id"]
        for round_ in range(6):
            broker = identity(online.status()["pid"])
            os.kill(broker.pid, signal.SIGKILL if round_ % 2 else signal.SIGTERM)
            gone(broker)
            online.start()
        assert [machine["id"] for machine in web.machines()] == [first]
