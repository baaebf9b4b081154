"""Names, deletion, and what the web app shows of the machine, through the hub's REST API."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hapi import procs
from tests.support.hub import OfficialHub, WebClient, WebError
from tests.support.manager import ServiceManager
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until
from tests.support.web_stage import SOON, Stage, end_all, on_stage

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module")
def theatre(shared_hub: OfficialHub) -> Iterator[Stage]:
    with on_stage(shared_hub, "machine") as found:
        yield found


@pytest.fixture
def stage(theatre: Stage) -> Iterator[Stage]:
    """The shared runner; what a test started is ended behind it."""
    yield theatre
    end_all(theatre)


class TestRenameAndDelete:
    def test_a_name_survives_our_writes_and_lives(self, stage: Stage) -> None:
        session = stage.new()
        stage.web.patch(f"/api/sessions/{session}", name="Mine")
        stage.say(session, "/title Ours ; /say done")
        summary = until(lambda: stage.row(session)["metadata"].get("summary"), SOON, "the agent's title")
        assert summary["text"] == "Ours"
        stage.crash(session)
        stage.resume(session)
        with stage.down():
            pass
        until(lambda: stage.row(session)["active"], SOON, "active again")
        stage.say(session, "more")
        assert stage.row(session)["metadata"]["name"] == "Mine"

    def test_an_ended_session_is_deleted_for_good(self, stage: Stage) -> None:
        session = stage.new()
        stage.say(session, "hello")
        stage.web.archive(session)
        stage.web.delete(f"/api/sessions/{session}")
        with stage.down():
            pass
        assert session not in {row["id"] for row in stage.web.sessions()}
        with pytest.raises(WebError) as caught:
            stage.row(session)
        assert caught.value.status == 404

    def test_what_was_deleted_while_the_connector_was_away_stays_deleted(self, stage: Stage) -> None:
        """Seen to fail: without the note on disk of the hub that has a row of the session (it was created anew)."""
        session = stage.new()
        stage.say(session, "hello")
        agent = identity(stage.info(session).agent_process.pid)
        with stage.down():
            stage.web.archive(session)
            stage.web.delete(f"/api/sessions/{session}")
        gone(agent, SOON)
        assert stage.home.ended(session).reason == "stopped from hub"
        assert session not in {row["id"] for row in stage.web.sessions()}


def test_where_cursor_keeps_a_chat(stage: Stage) -> None:
    session = stage.new(agent="cursor")
    chat = until(lambda: stage.row(session)["metadata"].get("cursorSessionId"), SOON, "the native id")

    def asked() -> tuple[bool, str | None]:
        status = stage.web.get(f"/api/sessions/{session}/cursor-chat-store")
        return status["onDisk"], status["store"]

    assert asked() == (False, None)
    for store, place in (("legacy", f"chats/0123abcd/{chat}"), ("acp", f"acp-sessions/{chat}")):
        database = stage.home.home / ".cursor" / place / "store.db"
        database.parent.mkdir(parents=True)
        database.write_text("")
        assert asked() == (True, store)


class TestMachine:
    def test_a_rename_is_kept(self, stage: Stage) -> None:
        stage.web.patch(f"/api/machines/{stage.machine['id']}", displayName="Under the desk")
        with stage.down():
            pass
        stage.new()
        assert stage.web.machines()[0]["metadata"]["displayName"] == "Under the desk"

    def test_health(self, stage: Stage) -> None:
        health = until(lambda: stage.web.machines()[0]["health"], SOON, "health")
        assert health.keys() == {
            "collectedAt",
            "cpuCount",
            "load1m",
            "cpuPercent",
            "memoryPercent",
            "uptimeSeconds",
        }
        assert 0 < health["memoryPercent"] < 100

    def test_agents_paths_and_directories(self, stage: Stage) -> None:
        machine = f"/api/machines/{stage.machine['id']}"
        agents = {agent["agent"]: agent for agent in stage.web.get(f"{machine}/agent-availability")["agents"]}
        assert agents["claude"]["available"] is True
        assert agents["kimi"] == {"agent": "kimi", "available": False, "reason": "not_found"}
        asked = [str(stage.root), "/etc", "relative", "\0", str(stage.root / "..")]
        exists = stage.web.post(f"{machine}/paths/exists", paths=asked)["exists"]
        assert exists == dict.fromkeys(asked, False) | {str(stage.root): True}
        listed = stage.web.post(f"{machine}/list-directory", path=str(stage.root))
        assert listed["success"] is True
        for hostile in ("/etc", f"{stage.root}/../../etc", "relative", "a\0b"):
            refused = stage.web.post(f"{machine}/list-directory", path=hostile)
            assert refused["success"] is False, hostile


def test_the_restart_button_is_for_a_runner_that_somebody_starts_again(online: Runner, web: WebClient) -> None:
    online.start()
    machine = online.wait_online(web)
    assert machine["metadata"]["supervisedRestart"] is False
    online.hapi("runner", "stop", check=0)
    with ServiceManager(online) as manager:
        first = manager.pid
        until(lambda: web.machines()[0]["runnerState"].get("pid") == first, SOON, "the new runner's state")
        until(lambda: web.machines()[0]["metadata"]["supervisedRestart"], SOON, "the button is offered")
        session = web.spawn(machine["id"], directory=str(online.project), agent="claude")["sessionId"]
        agent = identity(online.sessions()[0]["agentPid"])
        web.post(f"/api/machines/{machine['id']}/restart-runner")
        second = manager.wait_starts(2)
        assert manager.exits == [75]
        until(lambda: web.machines()[0]["runnerState"].get("pid") == second, SOON, "the next runner's state")
        until(lambda: web.machines()[0]["runnerState"]["status"] == "running", SOON, "running")
        assert procs.is_alive(agent)
        until(lambda: web.session(session)["active"], SOON, "the session goes on")


def test_a_runner_that_stopped_says_so_and_falls_silent(online: Runner, web: WebClient) -> None:
    """The hub has no word for offline: it shows what we say at once, and takes a silent machine off its list after 45 s."""
    online.start()
    online.wait_online(web)
    online.hapi("runner", "stop", check=0)
    state = web.machines()[0]["runnerState"]
    assert (state["status"], state["shutdownSource"]) == ("shutting-down", "hapi-cli")
    assert state["shutdownRequestedAt"] > 0
    assert online.processes() == []
    online.start()
    until(lambda: web.machines()[0]["runnerState"]["status"] == "running", SOON, "running again")
