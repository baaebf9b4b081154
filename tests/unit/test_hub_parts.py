"""The connector's parts without a hub."""

from __future__ import annotations

import ast
import asyncio
import json
import typing
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from hapi import wire
from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub import browse, incoming, rest, schema
from hapi.workers.hub.backoff import Backoff
from hapi.workers.hub.door import Door, NoAnswer, Site
from hapi.workers.hub.inbox import Inbox
from hapi.workers.hub.outbox import CAPACITY, Outbox
from hapi.workers.hub.problems import Conflict, Denied, HubProblem, NotFound, Offline, Refused, Rejected
from hapi.workers.hub.rpc import RpcTable
from hapi.workers.hub.ticker import Ticker
from hapi.workers.hub.versioned import Cell
from tests.support.wait import until_async

HUB_PACKAGE = Path(rest.__file__).parent
SID = "0c7bd5f4-3ff3-4b35-8f2c-6b3b2a9d7f10"


def leaves(base: type) -> list[type]:
    below = base.__subclasses__()
    return [leaf for sub in below for leaf in leaves(sub)] if below else [base]


class FakeBus:
    def __init__(self, answer=None) -> None:
        self.sent: list = []
        self.asked: list = []
        self.answer = answer or (lambda _: wire.Accepted())

    def send(self, _to, body):
        self.sent.append(body)
        return True

    async def request(self, _to, body, _timeout_s):
        self.asked.append(body)
        return self.answer(body)


def context(bus):
    return SimpleNamespace(bus=bus, counters=Counter())


class Client:
    """As much of socketio.AsyncClient as the door uses to send."""

    def __init__(self) -> None:
        self.sent: list = []

    async def emit(self, event, data, namespace, callback):
        self.sent.append((event, data, namespace, callback))
        if callback is not None:
            callback({"result": "success", "version": 2})


def open_door(client) -> Door:
    door = Door(Site("http://h", "secret", {}, None), {}, lambda _event, _data: None)
    door._client = client
    door._lost = asyncio.Event()
    return door


# ------------------------------------------------------------------------------------------------------- the door


def test_only_the_door_knows_socketio():
    for path in HUB_PACKAGE.parents[1].rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found = {name for name in names if name.split(".")[0] in {"socketio", "engineio"}}
            assert not found or path.name == "door.py", f"{path} imports {found}"


def test_the_two_families_do_not_mix():
    calls = {leaf.event for leaf in leaves(schema.Call)}
    assert calls == {
        "ping",
        "update-metadata",
        "update-state",
        "machine-update-metadata",
        "machine-update-state",
    }
    assert not calls & {leaf.event for leaf in leaves(schema.Notice)}
    assert not issubclass(schema.Call, schema.Notice)
    assert not issubclass(schema.Notice, schema.Call)
    hints = typing.get_type_hints(Door.emit), typing.get_type_hints(Door.call)
    assert (hints[0]["notice"], hints[1]["call"]) == (schema.Notice, schema.Call)


@pytest.mark.parametrize("kind", leaves(schema.Call), ids=lambda kind: kind.event)
async def test_a_call_cannot_leave_without_an_acknowledgement(kind):
    values = {
        "sid": "s",
        "machine_id": "m",
        "expected_version": 1,
        "metadata": {},
        "agent_state": {},
        "runner_state": {},
    }
    message = kind(**{name: value for name, value in values.items() if name in kind.__struct_fields__})
    client = Client()
    with pytest.raises(TypeError):
        await open_door(client).emit(message)
    assert client.sent == []
    await open_door(client).call(message, 1)
    assert client.sent[0][3] is not None


async def test_a_ping_has_no_argument_and_a_notice_is_no_call():
    client = Client()
    await open_door(client).call(schema.Ping(), 1)
    assert client.sent[0][:3] == ("ping", None, "/cli")
    with pytest.raises(TypeError):
        await open_door(client).call(schema.SessionReady(sid="s", time=1), 1)


async def test_without_a_connection_nothing_is_sent():
    door = Door(Site("http://h", "secret", {}, None), {}, lambda _event, _data: None)
    with pytest.raises(Offline):
        await door.emit(schema.SessionReady(sid="s", time=1))
    with pytest.raises(Offline):
        await door.call(schema.Ping(), 1)


async def test_a_call_ends_when_the_connection_does():
    class Deaf(Client):
        async def emit(self, *_values, **_named):
            door._fail_pending()

    door = open_door(Deaf())
    with pytest.raises(Offline):
        await door.call(schema.Ping(), 30)


async def test_a_call_has_a_deadline():
    class Deaf(Client):
        async def emit(self, *_values, **_named):
            pass

    with pytest.raises(HubProblem, match="did not acknowledge ping"):
        await open_door(Deaf()).call(schema.Ping(), 0.01)


def test_a_site_does_not_show_its_token():
    assert "secret" not in repr(Site("http://h", "secret", {}, None))


# ------------------------------------------------------------------------------------------------------ browsing


@pytest.fixture
def roots(tmp_path):
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "rootless").mkdir()
    (tmp_path / "root" / "out").symlink_to(tmp_path / "rootless")
    (tmp_path / "way-in").symlink_to(tmp_path / "root")
    return tmp_path


@pytest.mark.parametrize("path", ["root", "root/a", "root/new/deeper", "root/a/../a", "way-in/a", "root/./a/"])
def test_inside_the_roots(roots, path):
    assert browse.confine(f"{roots}/{path}", [str(roots / "root")]).is_relative_to((roots / "root").resolve())


@pytest.mark.parametrize(
    "path", ["", "rootless", "root/..", "root/out", "root/out/new", "root/a/../../rootless", "root/../rootless"]
)
def test_outside_the_roots(roots, path):
    with pytest.raises(HapiError) as error:
        browse.confine(f"{roots}/{path}", [str(roots / "root")])
    assert error.value.code is ErrorCode.OUTSIDE_WORKSPACE_ROOTS


@pytest.mark.parametrize("path", ["", "relative", "/nul\0byte"])
def test_what_is_no_path(path):
    with pytest.raises(HapiError) as error:
        browse.confine(path, [])
    assert error.value.code is ErrorCode.BAD_REQUEST


def test_a_root_that_is_a_symlink_counts_as_what_it_points_to(roots):
    assert browse.confine(f"{roots}/root/a", [str(roots / "way-in")])


def test_listing_puts_directories_first_and_hides_what_is_hidden(tmp_path):
    (tmp_path / "b" / ".git").mkdir(parents=True)
    (tmp_path / "a.txt").write_text("abc")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    found = browse.list_directory(str(tmp_path), [], hidden=False)
    assert [(e["name"], e["type"]) for e in found["entries"]] == [
        ("b", "directory"),
        ("a.txt", "file"),
        ("broken", "other"),
    ]
    assert found["entries"][0]["isGitRepo"] is True
    assert found["entries"][1]["size"] == 3
    assert len(browse.list_directory(str(tmp_path), [], hidden=True)["entries"]) == 4
    assert browse.list_directory(str(tmp_path / "none"), [], hidden=True)["success"] is False


# --------------------------------------------------------------------------------------------------- in and out


def events(*seqs):
    return [wire.NumberedEvent(seq, 1, wire.AgentText(str(seq))) for seq in seqs]


async def test_events_go_out_in_order_and_are_confirmed_after_the_barrier():
    bus, client = FakeBus(), Client()
    outbox = Outbox(context(bus), SID)
    outbox.offer(events(5, 6))
    outbox.offer(events(6, 7))
    assert await outbox.send_batch(open_door(client)) is False
    assert [sent[0] for sent in client.sent] == ["message"] * 3 + ["messages-consumed", "ping"]
    assert bus.sent == [wire.Delivered(7)]
    assert outbox.empty


async def test_that_a_message_was_consumed_is_told():
    outbox = Outbox(context(FakeBus()), SID)
    outbox.offer([wire.NumberedEvent(1, 1, wire.Consumed(["u"]))])
    assert await outbox.send_batch(open_door(Client())) is True
    assert await outbox.send_batch(open_door(Client())) is False


async def test_nothing_is_confirmed_when_the_barrier_fails():
    bus = FakeBus()
    outbox = Outbox(context(bus), SID)
    outbox.offer(events(1))
    door = open_door(Client())
    door._lost.set()
    with pytest.raises(Offline):
        await outbox.send_batch(door)
    assert bus.sent == []
    assert not outbox.empty


@pytest.mark.parametrize("gap", [0, 1_000_000])
async def test_what_does_not_fit_is_refused_until_it_comes_again_in_order(gap):
    """A session's numbers have gaps: what was dropped is waited for, not the next number."""
    bus = FakeBus()
    outbox = Outbox(context(bus), SID)
    late = [CAPACITY + gap + number for number in (1, 2, 3)]
    outbox.offer(events(*range(1, CAPACITY + 1), *late[:2]))
    door = open_door(Client())
    while not outbox.empty:
        await outbox.send_batch(door)
    assert bus.sent[-1] == wire.Delivered(CAPACITY)
    outbox.offer(events(late[2]))
    assert outbox.empty
    assert bus.sent[-1] == wire.Delivered(CAPACITY)
    outbox.offer(events(*late[:2]))
    await outbox.send_batch(door)
    assert bus.sent[-1] == wire.Delivered(late[1])


def user_row(number, text="t", local_id=None):
    content = {"role": "user", "content": {"type": "text", "text": text}}
    return incoming.ChatRow(id=f"m{number}", seq=number, local_id=local_id, content=content)


@pytest.fixture
async def handed_over():
    tasks = []

    def start(inbox):
        tasks.append(asyncio.create_task(inbox.run()))

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_messages_reach_the_session_once_and_in_order(handed_over):
    bus = FakeBus()
    inbox = Inbox(context(bus), SID)
    for number in (3, 1, 2, 1, 3):
        inbox.offer(user_row(number))
    handed_over(inbox)
    await until_async(lambda: len(bus.asked) == 3, 5, "handed over")
    inbox.offer(user_row(2))
    inbox.offer(user_row(4))
    await until_async(lambda: len(bus.asked) == 4, 5, "handed over")
    assert [body.id for body in bus.asked] == ["m1", "m2", "m3", "m4"]


async def test_a_session_that_does_not_answer_gets_the_message_again(handed_over):
    failures = [HapiError(ErrorCode.TIMEOUT, "slow"), HapiError(ErrorCode.NOT_RUNNING, "away")]

    def answer(_):
        if failures:
            raise failures.pop()
        return wire.Accepted()

    bus = FakeBus(answer)
    inbox = Inbox(context(bus), SID)
    inbox.offer(user_row(1))
    handed_over(inbox)
    await until_async(lambda: len(bus.asked) == 3, 5, "handed over at last")


@pytest.mark.parametrize(
    ("fate", "expected"),
    [
        ("removed", {"removed": True}),
        ("in_flight", {"inFlight": True}),
        ("consumed", {"consumed": True}),
        ("unknown", {"removed": False}),
    ],
)
async def test_the_fate_of_a_cancelled_message(fate, expected):
    inbox = Inbox(context(FakeBus(lambda _: wire.MessageFate(fate))), SID)
    inbox.offer(user_row(1))
    assert await inbox.cancel(incoming.CancelQueued(sid=SID, message_id="m1")) == expected
    assert not inbox._pending


async def test_a_cancel_without_an_answer_is_in_doubt():
    def answer(_):
        raise HapiError(ErrorCode.TIMEOUT, "slow")

    inbox = Inbox(context(FakeBus(answer)), SID)
    assert await inbox.cancel(incoming.CancelQueued(sid=SID, message_id="m1")) == {"removed": False}


# ------------------------------------------------------------------------------------------- writes, calls, time


class ScriptedDoor:
    def __init__(self, *answers) -> None:
        self.answers = list(answers)
        self.calls: list = []

    async def call(self, call, _timeout_s):
        self.calls.append(call)
        return self.answers.pop(0)


def metadata_call(version, value):
    return schema.UpdateMetadata(sid=SID, expected_version=version, metadata=value)


async def test_a_mismatch_keeps_what_others_wrote():
    door = ScriptedDoor(
        {"result": "version-mismatch", "version": 5, "metadata": {"name": "Mine"}},
        {"result": "success", "version": 6, "metadata": {}},
    )
    cell = Cell(1, {})
    assert await cell.write(door, lambda base: {**base, "path": "/p"}, metadata_call)
    assert door.calls[1].metadata == {"name": "Mine", "path": "/p"}
    assert door.calls[1].expected_version == 5
    assert not await cell.write(door, lambda base: {**base, "path": "/p"}, metadata_call)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ({"result": "error", "reason": "not-found"}, NotFound),
        ({"result": "error", "reason": "access-denied"}, Denied),
        ({"result": "error"}, Rejected),
        (None, HubProblem),
        ("nonsense", HubProblem),
    ],
)
async def test_refused_writes(answer, problem):
    with pytest.raises(problem):
        await Cell(1, {}).write(ScriptedDoor(answer), lambda _: {"a": 1}, metadata_call)


@pytest.mark.parametrize(
    ("status", "version", "content", "problem"),
    [
        (200, None, b"{}", HubProblem),
        (404, None, b"<html>", HubProblem),
        (401, "1", b'{"error":"Invalid token"}', Refused),
        (403, "1", b'{"error":"Machine access denied"}', Denied),
        (404, "1", b"{}", NotFound),
        (409, "1", b"[]", Conflict),
        (503, "1", b"", HubProblem),
        (200, "1", b"<html>", HubProblem),
        (200, "2", b"{}", HubProblem),
    ],
)
def test_what_an_answer_of_the_hub_means(status, version, content, problem):
    with pytest.raises(HubProblem) as error:
        rest._result(status, version, content, rest._Machine)
    assert type(error.value) is problem


async def test_rpc_answers():
    async def echo(value):
        return value

    async def fail(_):
        raise HapiError(ErrorCode.BAD_REQUEST, "No.")

    async def bug(_):
        raise KeyError("x")

    async def silent(_):
        raise NoAnswer

    counters: Counter[str] = Counter()
    table = RpcTable("m", {"echo": echo, "fail": fail, "bug": bug, "silent": silent}, counters)

    async def ask(method, text='{"a":1}'):
        return json.loads(await table.answer({"method": f"m:{method}", "params": text}))

    assert await ask("echo") == {"a": 1}
    assert await ask("echo", None) is None
    assert await ask("nothing") == {"error": "Method not found"}
    assert await ask("fail") == {"error": "No."}
    assert "log" in (await ask("bug"))["error"]
    assert "Invalid" in (await ask("echo", "{"))["error"]
    assert "error" in json.loads(await table.answer("nonsense"))
    assert counters["rpc_bugs"] == 1
    with pytest.raises(NoAnswer):
        await ask("silent")


def test_backoff_grows_to_its_cap_and_is_jittered():
    backoff = Backoff(0.5, 10)
    delays = [backoff.next_s() for _ in range(50)]
    assert 0.25 <= delays[0] <= 0.5
    assert all(delay <= 10 for delay in delays)
    assert len(set(delays[10:])) > 10
    backoff.reset()
    assert backoff.next_s() <= 0.5


async def test_the_ticker_spreads_its_beats(monkeypatch):
    ticker = Ticker(lambda: None)
    beaten: Counter[int] = Counter()

    def beat_of(number):
        async def beat():
            beaten[number] += 1

        return beat

    for number in range(30):
        ticker.add(str(number), beat_of(number))
    ticker.remove("7")
    for _ in range(Ticker.SLOTS):
        before = beaten.total()
        await ticker._tick()
        assert beaten.total() - before <= 3
    assert beaten == Counter({number: 1 for number in range(30) if number != 7})


async def test_trap_27_a_jump_of_the_clock_is_a_wake_up(monkeypatch):
    woken = []
    ticker = Ticker(lambda: woken.append(1))
    await ticker._tick()
    assert woken == []
    real = Ticker._tick.__globals__["now_ms"]
    monkeypatch.setitem(Ticker._tick.__globals__, "now_ms", lambda: real() + 8 * 3600 * 1000)
    await ticker._tick()
    await ticker._tick()
    assert woken == [1]
