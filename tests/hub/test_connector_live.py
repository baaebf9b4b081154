"""The connector against the official hub: what the web sees, and what reaches the sessions."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest

from hapi import wire
from hapi.clock import now_ms
from hapi.lifecycle import EndReason, Phase
from hapi.workers.hub.door import Door
from hapi.workers.hub.problems import HubProblem
from tests.hub.test_connector_kit import FakeBus, FakeSession, Running, Web, connector
from tests.support.hub import OfficialHub, WebError, find_hub
from tests.support.wait import until_async

pytestmark = [pytest.mark.hub, pytest.mark.skipif(find_hub() is None, reason="the official hub is not installed")]
SOON = 10


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with OfficialHub(tmp_path_factory.mktemp("hub")) as running:
        yield running


@pytest.fixture
async def running(hub, tmp_path):
    async with connector(tmp_path / "home", hub.url, hub.token) as made:
        await made.online()
        yield made


@pytest.fixture
async def web(hub):
    return await Web.login(hub.url, hub.token)


async def shown(web: Web, session: FakeSession) -> dict:
    async def look():
        try:
            found = await web("session", session.id)
        except WebError:
            return None
        return found if found["active"] else None

    return await until_async(look, SOON, "the session is active at the hub")


def spawning(bus: FakeBus) -> list[FakeSession]:
    made: list[FakeSession] = []

    def on_broker(body):
        if not isinstance(body, wire.Spawn):
            return wire.SessionStopped("already_gone", getattr(body, "target", ""))
        old = bus.sessions.get(body.session_id)
        generation = old.info.generation + 1 if old else 1
        session = FakeSession(bus, body.directory, body.agent, session_id=body.session_id, generation=generation)
        made.append(session)
        session.tell()
        return wire.Spawned(session.info)

    bus.on_broker = on_broker
    return made


async def my_machine(web: Web, running: Running) -> dict | None:
    machines = await web("machines")
    return next((m for m in machines if m["id"] == running.bus.status.machine_id), None)


async def test_the_machine_is_listed_with_state_and_health(running, web):
    machine = await until_async(lambda: my_machine(web, running), SOON, "the machine is listed")
    assert machine["metadata"]["host"] == "box"
    assert "agent-availability" in machine["metadata"]["capabilities"]
    assert machine["runnerState"]["status"] == "running"
    assert machine["runnerState"]["pid"] == 4242
    assert machine["health"]["cpuCount"] > 0
    assert running.titles[-1] == "hapi: hub [default] online"


async def test_a_spawn_goes_to_the_broker_and_back(running, web, tmp_path):
    made = spawning(running.bus)
    machine_id = running.bus.status.machine_id
    result = await web("spawn", machine_id, directory=str(tmp_path), agent="opencode", permissionMode="plan")
    assert result == {"type": "success", "sessionId": made[0].id}
    assert (await web("session", made[0].id))["active"] is True
    order = running.bus.asked_of_broker[0]
    assert (order.agent, order.permission_mode, order.started_by) == ("opencode", "plan", "runner")


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("agent_unavailable", {"code": "agent_unavailable", "agent": "codex"}),
        ("outside_workspace_roots", {"code": "outside_workspace_roots"}),
        ("agent_failed", {}),
    ],
)
async def test_a_failed_spawn_says_why_and_leaves_a_note_until_the_next_one(running, web, tmp_path, code, expected):
    machine_id = running.bus.status.machine_id
    running.bus.on_broker = lambda _: wire.Failure(code, "No such luck.")
    result = await web("spawn", machine_id, directory=str(tmp_path), agent="codex")
    assert result == {"type": "error", "message": "No such luck.", **expected}

    async def error():
        return ((await my_machine(web, running))["runnerState"].get("lastSpawnError") or {}).get("message")

    assert await until_async(error, SOON, "lastSpawnError") == "No such luck."
    spawning(running.bus)
    await web("spawn", machine_id, directory=str(tmp_path), agent="codex")

    async def gone():
        return await error() is None

    await until_async(gone, SOON, "lastSpawnError is taken back")


async def test_the_snapshot_is_what_the_web_shows(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path), permission_mode="plan", title="Tidy up", native_id="n-1")
    session.tell(commands=[wire.SlashCommand("init")], model="m1")
    row = await shown(web, session)

    async def settled():
        found = await web("session", session.id)
        return found if found.get("permissionMode") == "plan" and found["metadata"].get("summary") else None

    row = await until_async(settled, SOON, "metadata settled")
    metadata = row["metadata"]
    assert (metadata["path"], metadata["flavor"], metadata["opencodeSessionId"]) == (str(tmp_path), "opencode", "n-1")
    assert metadata["summary"]["text"] == "Tidy up"
    assert metadata["slashCommands"] == ["init"]
    assert (row["model"], row["thinking"]) == ("m1", False)
    await web("patch", f"/api/sessions/{session.id}", name="Mine")
    session.tell(phase=Phase.WORKING, title="Tidy up more")

    async def changed():
        found = await web("session", session.id)
        return found if found["metadata"]["summary"]["text"] == "Tidy up more" and found["thinking"] else None

    assert (await until_async(changed, SOON, "the change"))["metadata"]["name"] == "Mine"


async def test_messages_in_and_events_out(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path))
    session.tell()
    await shown(web, session)
    await web("send", session.id, "hello", "u1")
    await until_async(lambda: session.texts == ["hello"], SOON, "the message arrives")
    session.emit(wire.Consumed(["u1"]), wire.Reasoning("b1", "hm"), wire.AgentText("hi there"), wire.TurnEnded("end"))
    await until_async(lambda: session.delivered == 4, SOON, "delivered")
    assert await web.texts(session.id) == ["hello", "hm", "hi there", "ready"]
    session.bus.say(wire.session_peer(session.id), wire.Events([wire.NumberedEvent(3, 1, wire.AgentText("hi there"))]))
    session.heard.clear()
    await until_async(lambda: session.of(wire.Delivered), SOON, "a repeat is confirmed again")
    assert len(await web.texts(session.id)) == 4
    assert session.texts == []


async def test_live_reasoning_is_replaced_by_the_final_one(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path))
    session.tell()
    await shown(web, session)
    session.bus.say(wire.session_peer(session.id), wire.LiveReasoning("b", "thin"))

    async def texts():
        return await web.texts(session.id)

    async def live():
        return await texts() == ["thin"]

    await until_async(live, SOON, "live thinking")
    session.emit(wire.Reasoning("b", "thinking"))
    await until_async(lambda: session.delivered == 1, SOON, "delivered")
    assert await texts() == ["thinking"]


async def test_cancelled_messages(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path))
    session.tell()
    await shown(web, session)
    await web("send", session.id, "never mind", "u9")
    await until_async(lambda: session.texts, SOON, "the message arrives")
    message_id = session.of(wire.UserMessage)[0].id
    await web("delete", f"/api/sessions/{session.id}/messages/{message_id}")
    assert session.of(wire.CancelMessage)[0].local_id == "u9"
    assert await web.texts(session.id) == []


async def test_permissions_abort_and_settings_reach_the_session(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path))
    request = wire.PermissionRequest(request_id="p1", tool="Bash", arguments={"command": "ls"}, created_at=now_ms())
    session.tell(phase=Phase.WAITING, requests=[request])

    async def asked():
        return (await shown(web, session))["agentState"].get("requests")

    await until_async(asked, SOON, "the request is shown")
    await web("approve", session.id, "p1", decision="approved_for_session")
    answer = session.of(wire.AnswerPermission)[0]
    assert (answer.request_id, answer.approved, answer.decision) == ("p1", True, "approved_for_session")
    await web("deny", session.id, "p1", decision="abort")
    assert session.of(wire.AnswerPermission)[1].decision == "abort"
    outcome = wire.PermissionOutcome(request=request, completed_at=now_ms(), status="approved", decision="approved")
    session.tell(phase=Phase.WORKING, requests=[], outcomes=[outcome])

    async def settled():
        return "p1" in ((await web("session", session.id))["agentState"].get("completedRequests") or {})

    await until_async(settled, SOON, "the request is settled")
    await web("abort", session.id)
    assert session.of(wire.AbortTurn)
    await web("post", f"/api/sessions/{session.id}/permission-mode", mode="yolo")
    assert session.of(wire.Configure)[0].values == {"permissionMode": "yolo"}


async def test_trap_29_a_session_whose_own_connection_is_down_is_shown_alive(running, web, tmp_path, monkeypatch):
    """The process is up: the machine's connection says so, and what it does, until the session's own is back.

    Seen to fail: with keepalives over the session's own connection only.
    """
    doors: list[Fragile] = []

    class Fragile(Door):
        broken = False

        def __init__(self, *arguments) -> None:
            super().__init__(*arguments)
            doors.append(self)

        async def open(self) -> None:
            if Fragile.broken:
                raise HubProblem("cut")
            await super().open()

    monkeypatch.setattr("hapi.workers.hub.session.Door", Fragile)
    session = FakeSession(running.bus, str(tmp_path))
    session.tell()
    await shown(web, session)
    Fragile.broken = True
    await doors[0].close()
    session.tell(phase=Phase.WORKING)

    async def works():
        found = await web("session", session.id)
        return found["active"] and found["thinking"]

    await until_async(works, SOON, "shown alive and at work")
    assert not doors[0].connected
    Fragile.broken = False
    session.emit(wire.AgentText("I was here"))
    await until_async(lambda: session.delivered == 1, 3 * SOON, "its own connection is back")


async def test_archive_waits_for_the_proof_and_says_so(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path))
    session.tell()
    await shown(web, session)
    session.emit(wire.AgentText("last words"))
    await web("archive", session.id)
    row = await web("session", session.id)
    assert row["active"] is False
    assert (row["metadata"]["lifecycleState"], row["metadata"]["archivedBy"]) == ("archived", "cli")
    assert session.of(wire.StopSession)[0].by == "hub"
    assert session.delivered == 1
    assert await web.texts(session.id) == ["last words"]


async def test_events_behind_the_last_word_are_delivered_too(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path))
    session.tell()
    await shown(web, session)
    session.tell(phase=Phase.ENDED, reason=EndReason.COMPLETED)

    async def inactive():
        return not (await web("session", session.id))["active"]

    await until_async(inactive, SOON, "ended")
    session.emit(wire.AgentText("epilogue"))
    await until_async(lambda: session.delivered == 1, SOON, "delivered")
    assert await web.texts(session.id) == ["epilogue"]
    assert not (await web("session", session.id))["active"]


async def test_a_handoff_ends_the_session_here_without_archiving_it(hub, running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path), native_id="n-9")
    session.tell()
    await shown(web, session)
    async with aiohttp.ClientSession(headers={"Authorization": f"Bearer {hub.token}"}) as http:
        url = f"{hub.url}/cli/sessions/{session.id}/handoff-local"
        async with http.post(url) as response:
            assert await response.json() == {"ok": True}
    row = await web("session", session.id)
    assert (row["active"], row["metadata"]["lifecycleState"]) == (False, "running")


async def test_a_session_that_will_not_die_stays_active(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path))
    session.stop_answer = "still_alive"
    session.tell()
    await shown(web, session)
    archive = asyncio.create_task(web.post_and_forget(f"/api/sessions/{session.id}/archive"))
    await until_async(lambda: session.of(wire.StopSession), SOON, "asked to stop")
    session.tell(phase=Phase.WORKING)

    async def working():
        return (await shown(web, session))["thinking"]

    await until_async(working, SOON, "still working")
    assert not archive.done()
    archive.cancel()
    await asyncio.gather(archive, return_exceptions=True)


async def test_a_completed_session_stays_resumable_and_can_be_deleted(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path))
    session.tell()
    await shown(web, session)
    session.tell(phase=Phase.ENDED, reason=EndReason.COMPLETED)

    async def inactive():
        return not (await web("session", session.id))["active"]

    await until_async(inactive, SOON, "ended")
    assert (await web("session", session.id))["metadata"]["lifecycleState"] == "running"
    await web("delete", f"/api/sessions/{session.id}")


async def test_resume_reuses_the_row(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path), native_id="nat-7")
    session.tell()
    await shown(web, session)
    session.emit(wire.AgentText("hi"))
    await until_async(lambda: session.delivered, SOON, "delivered")
    session.tell(phase=Phase.ENDED, reason=EndReason.AGENT_EXITED, exit_code=0)

    async def inactive():
        return not (await web("session", session.id))["active"]

    await until_async(inactive, SOON, "ended")
    made = spawning(running.bus)
    result = await web("post", f"/api/sessions/{session.id}/resume")
    assert result["sessionId"] == session.id
    order = running.bus.asked_of_broker[-1]
    assert (order.session_id, order.resume, order.existing) == (session.id, "nat-7", True)
    await shown(web, made[0])


async def test_the_end_of_a_session_that_was_continued_before_the_hub_knew_is_told(running, web, tmp_path):
    """The hub heard of the end of the first generation while the second came and went: it showed the session as
    active for good, for a link was made for the second one as it had been, ready.
    """
    session = FakeSession(running.bus, str(tmp_path))
    session.tell()
    await shown(web, session)
    session.tell(phase=Phase.ENDED, reason=EndReason.STOPPED_BY_USER)
    session.tell(phase=Phase.IDLE, reason=None, generation=2)
    session.tell(phase=Phase.ENDED, reason=EndReason.AGENT_EXITED, generation=2)

    async def over():
        found = await web("session", session.id)
        return not found["active"] and found["metadata"].get("lifecycleState") == "running"

    await until_async(over, SOON, "the end of the second one is told: not archived, for nobody stopped it")
    session.tell(phase=Phase.IDLE, generation=3)
    await shown(web, session)


async def test_a_lost_supervisor_ends_its_session(running, web, tmp_path):
    session = FakeSession(running.bus, str(tmp_path))
    session.tell()
    await shown(web, session)
    info = session.info
    info.phase, info.reason = Phase.ENDED, EndReason.SUPERVISOR_LOST
    running.bus.say(wire.BROKER, wire.SessionLost(info))

    async def inactive():
        return not (await web("session", session.id))["active"]

    await until_async(inactive, SOON, "ended at the hub")


async def test_a_lost_supervisor_takes_its_permission_requests_back(running, web, tmp_path):
    """Seen to fail: without `describe.lost`, the web shows a question for ever that nobody can answer."""
    session = FakeSession(running.bus, str(tmp_path))
    request = wire.PermissionRequest(request_id="r1", tool="Bash", arguments={}, created_at=now_ms())
    session.tell(phase=Phase.WAITING, requests=[request])

    async def state():
        return (await web("session", session.id))["agentState"] or {}

    async def asked():
        return "r1" in ((await shown(web, session))["agentState"] or {}).get("requests", {})

    await until_async(asked, SOON, "the request is shown")
    info = session.info
    info.phase, info.reason = Phase.ENDED, EndReason.SUPERVISOR_LOST
    running.bus.say(wire.BROKER, wire.SessionLost(info))

    async def settled():
        found = await state()
        return not found["requests"] and found["completedRequests"]["r1"]["status"] == "canceled"

    await until_async(settled, SOON, "the request is taken back")


async def test_looking_around_stays_inside_the_roots(hub, web, tmp_path):
    root = tmp_path / "root"
    (root / "proj" / ".git").mkdir(parents=True)
    (root / "out").symlink_to(tmp_path)
    async with connector(tmp_path / "home", hub.url, hub.token, workspace_roots=[str(root)]) as running:
        await running.online()
        machine = f"/api/machines/{running.bus.status.machine_id}"
        listing = await web.post(f"{machine}/list-directory", {"path": str(root)})
        assert [(e["name"], e["type"], e["isGitRepo"]) for e in listing["entries"] if e["name"] == "proj"] == [
            ("proj", "directory", True)
        ]
        outside = await web.post(f"{machine}/list-directory", {"path": str(root / "out")})
        assert outside == {"success": False, "error": "Path is outside workspace roots"}
        found = await web("post", f"{machine}/paths/exists", paths=[str(root), str(root / "out")])
        assert found["exists"] == {str(root): True, str(root / "out"): False}
        refused = await web("spawn", running.bus.status.machine_id, directory=str(tmp_path), agent="claude")
        assert refused["code"] == "outside_workspace_roots"
        agents = await web("get", f"{machine}/agent-availability")
        assert len(agents["agents"]) == 10


@pytest.mark.parametrize("other", [False, True])
async def test_code_that_is_installed_and_does_not_run_is_told(hub, web, tmp_path, other):
    """By its content: a file that was only touched is no other code."""
    from hapi.installed import Installed

    digest = "another" if other else Installed().look().digest
    async with connector(tmp_path / "home", hub.url, hub.token, fingerprint=digest) as running:
        await running.online()
        machine = await until_async(lambda: my_machine(web, running), SOON, "the machine is listed")
        metadata = machine["metadata"]
        assert (metadata["startedCliMtimeMs"] != metadata["installedCliMtimeMs"]) is other
