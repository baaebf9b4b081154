"""The connector when the hub is away, refuses us, forgets, or is killed."""

from __future__ import annotations

import asyncio

import pytest

from hapi import settings, wire
from hapi.lifecycle import Phase
from tests.hub.test_connector_kit import FakeBus, FakeSession, Web, connector
from tests.support.hub import OfficialHub, WebError, find_hub
from tests.support.wait import until_async

pytestmark = [pytest.mark.hub, pytest.mark.skipif(find_hub() is None, reason="the official hub is not installed")]
SOON = 15


@pytest.fixture
def hub(tmp_path):
    with OfficialHub(tmp_path / "hub") as running:
        yield running


async def active(web: Web, session_id: str) -> bool:
    try:
        return (await web("session", session_id))["active"]
    except WebError:
        return False


async def test_trap_26_a_hub_that_comes_late_is_found(tmp_path):
    hub = OfficialHub(tmp_path / "hub")
    async with connector(tmp_path / "home", hub.url, hub.token) as running:
        session = FakeSession(running.bus, str(tmp_path))
        session.tell()
        session.emit(wire.AgentText("while away"))
        await until_async(lambda: running.bus.status.retry_at, SOON, "a try failed")
        assert "cannot be reached" in running.bus.status.reason
        assert running.titles[-1] == "hapi: hub [default] retrying"
        with hub:
            await running.online()
            await until_async(lambda: session.delivered == 1, SOON, "what waited is delivered")
            web = await Web.login(hub.url, hub.token)
            assert await web.texts(session.id) == ["while away"]


async def test_a_killed_hub_is_recovered_from(hub, tmp_path):
    async with connector(tmp_path / "home", hub.url, hub.token) as running:
        await running.online()
        web = await Web.login(hub.url, hub.token)
        session = FakeSession(running.bus, str(tmp_path))
        session.tell()
        await until_async(lambda: active(web, session.id), SOON, "active")
        await web("send", session.id, "one", "u1")
        await until_async(lambda: session.texts == ["one"], SOON, "first message")
        hub.kill()
        await until_async(lambda: not running.bus.status.online, SOON, "noticed")
        request = wire.PermissionRequest(request_id="p", tool="Bash", arguments={}, created_at=1)
        session.tell(phase=Phase.WAITING, requests=[request])
        session.emit(wire.AgentText("offline work"))
        hub.start()
        await running.online()
        await until_async(lambda: active(web, session.id), SOON, "active again")
        await until_async(lambda: session.delivered == 1, SOON, "delivered")
        assert await web.texts(session.id) == ["one", "offline work"]
        await web("send", session.id, "two", "u2")
        await until_async(lambda: session.texts == ["one", "two"], SOON, "no message twice")
        await web("approve", session.id, "p")
        assert len(session.of(wire.AnswerPermission)) == 1


async def test_a_new_connector_takes_over_and_fetches_what_was_missed(hub, tmp_path):
    bus = FakeBus()
    session = FakeSession(bus, str(tmp_path))
    async with connector(tmp_path / "home", hub.url, hub.token, bus) as running:
        await running.online()
        session.tell()
        web = await Web.login(hub.url, hub.token)
        await until_async(lambda: active(web, session.id), SOON, "active")
        machine_id = bus.status.machine_id
    await web("send", session.id, "queued", "u1")
    await web("post", f"/api/sessions/{session.id}/messages", text="plain")
    assert session.texts == []
    async with connector(tmp_path / "home", hub.url, hub.token, bus) as running:
        await running.online()
        session.tell()
        await until_async(lambda: len(session.texts) == 2, SOON, "both messages")
        assert session.texts == ["queued", "plain"]
        assert bus.status.machine_id == machine_id
        assert len(await web("machines")) == 1


async def test_shutdown_leaves_sessions_alone(hub, tmp_path):
    async with connector(tmp_path / "home", hub.url, hub.token) as running:
        await running.online()
        session = FakeSession(running.bus, str(tmp_path))
        session.tell()
        web = await Web.login(hub.url, hub.token)
        await until_async(lambda: active(web, session.id), SOON, "active")
        await running.stop()
        assert running.bus.replies == [wire.Accepted()]
        assert await active(web, session.id)
        state = (await web("machines"))[0]["runnerState"]
        assert (state["status"], state["shutdownSource"]) == ("shutting-down", "hapi-cli")
        assert (await web("session", session.id))["metadata"]["lifecycleState"] == "running"


async def test_archived_while_we_were_away_is_not_revived(hub, tmp_path):
    bus = FakeBus()
    session = FakeSession(bus, str(tmp_path))
    async with connector(tmp_path / "home", hub.url, hub.token, bus) as running:
        await running.online()
        session.tell()
        web = await Web.login(hub.url, hub.token)
        await until_async(lambda: active(web, session.id), SOON, "active")
    await web("archive", session.id)
    assert (await web("session", session.id))["metadata"]["archivedBy"] == "hub"
    async with connector(tmp_path / "home", hub.url, hub.token, bus) as running:
        await running.online()
        session.tell()
        await until_async(lambda: session.of(wire.StopSession), SOON, "the session is stopped")
        assert session.of(wire.StopSession)[0].by == "hub"
        assert not await active(web, session.id)


async def test_a_session_deleted_at_the_hub_is_stopped_and_stays_deleted(hub, tmp_path):
    bus = FakeBus()
    async with connector(tmp_path / "home", hub.url, hub.token, bus) as running:
        await running.online()
        session = FakeSession(bus, str(tmp_path))
        session.stop_answer = "still_alive"
        session.tell()
        web = await Web.login(hub.url, hub.token)
        await until_async(lambda: active(web, session.id), SOON, "active")
        await _force_delete(hub, session.id)
        session.tell(phase=Phase.WORKING)
        await until_async(lambda: session.of(wire.StopSession), SOON, "the session is stopped")
        session.emit(wire.AgentText("nobody listens"))
        await until_async(lambda: session.delivered == 1, SOON, "confirmed, so that it is not sent for ever")
        with pytest.raises(WebError):
            await web("session", session.id)


async def _force_delete(hub: OfficialHub, session_id: str) -> None:
    """End it behind our back (another client with the same token may), then delete it as the web does."""
    import socketio

    client = socketio.AsyncClient(reconnection=False)
    await client.connect(hub.url, auth={"token": hub.token}, namespaces=["/cli"], transports=["websocket"])
    await client.emit("session-end", {"sid": session_id, "time": 1}, namespace="/cli")
    await client.call("ping", namespace="/cli")
    web = await Web.login(hub.url, hub.token)
    await web("delete", f"/api/sessions/{session_id}")
    await client.disconnect()


async def test_a_wrong_token_is_said_and_does_not_spin(hub, tmp_path):
    async with connector(tmp_path / "home", hub.url, "wrong") as running:
        await until_async(lambda: running.bus.status.refused, SOON, "refused")
        assert "hapi auth login" in running.bus.status.reason
        assert "wrong" not in running.bus.status.reason
        assert running.titles[-1] == "hapi: hub [default] refused"
        assert running.bus.status.retry_at is not None


async def test_no_token_means_no_traffic(tmp_path):
    async with connector(tmp_path / "home", "http://127.0.0.1:9", None) as running:
        await until_async(lambda: running.bus.status.reason, SOON, "reported")
        assert "hapi auth login" in running.bus.status.reason
        assert running.titles == ["hapi: hub [default] offline"]
        await running.stop()
        assert running.bus.replies == [wire.Accepted()]


async def test_two_namespaces_see_only_their_own(hub, tmp_path):
    home = tmp_path / "home"
    async with connector(home, hub.url, hub.token) as one, connector(home, hub.url, f"{hub.token}:two") as two:
        await asyncio.gather(one.online(), two.online())
        first, second = await Web.login(hub.url, hub.token), await Web.login(hub.url, f"{hub.token}:two")
        assert [m["id"] for m in await first("machines")] == [one.bus.status.machine_id]
        assert [m["id"] for m in await second("machines")] == [two.bus.status.machine_id]
        assert two.titles[-1] == "hapi: hub [two] online"


async def test_trap_30_a_machine_id_of_another_namespace(hub, tmp_path):
    """The refusal names the cause, the file and the remedy; the remedy works, and the other's machine stays as it is.

    Seen to fail: with the hub's refusal told as it came.
    """
    async with connector(tmp_path / "a", hub.url, hub.token) as one:
        await one.online()
        path = tmp_path / "b" / "namespaces" / "two" / "settings.json"
        settings.update(path, {"machineId": one.bus.status.machine_id})
        async with connector(tmp_path / "b", hub.url, f"{hub.token}:two") as two:
            await until_async(lambda: two.bus.status.retry_at, SOON, "failed")
            assert "another namespace" in two.bus.status.reason
            assert str(path) in two.bus.status.reason
            assert "Remove machineId" in two.bus.status.reason
        settings.update(path, {"machineId": None})
        async with connector(tmp_path / "b", hub.url, f"{hub.token}:two") as two:
            await two.online()
            assert two.bus.status.machine_id not in {None, one.bus.status.machine_id}
        web = await Web.login(hub.url, hub.token)
        assert [machine["id"] for machine in await web("machines")] == [one.bus.status.machine_id]
