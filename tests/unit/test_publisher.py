"""What goes to the hub: whole windows, in order, again until it is confirmed. Over a real link and a real journal."""

import asyncio
import shutil
import tempfile
import threading
from pathlib import Path

import pytest
import zmq

from hapi import procs, wire
from hapi.journal import Journal
from hapi.lifecycle import Phase
from hapi.workers.link import Link
from hapi.workers.supervisor import publisher as publisher_module
from hapi.workers.supervisor.publisher import WINDOW, WINDOW_BYTES, Publisher
from hapi.workers.supervisor.transcriber import Transcriber
from tests.support.wait import until_async

NAME = "session:1f0c"
INFO = wire.SessionInfo(
    session_id="1f0c", namespace="default", agent="demo", directory="/", phase=Phase.IDLE, started_by="runner",
    started_at=1,
)  # fmt: skip


class Stage:
    """A publisher whose messages arrive at a ROUTER of ours."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(f"ipc://{folder}/bus.sock")
        self.journal = Journal(self.folder / "journal")
        self.snapshots = 0
        self.requests = []

    async def open(self):
        hello = wire.Hello(name=NAME, process=procs.own_identity(), version="1")
        self.link = Link(f"ipc://{self.folder}/bus.sock", NAME, wire.FOR_SESSION, lambda: hello)
        await until_async(lambda: self.socket.poll(0), 3, "a hello")
        self.peer = self.socket.recv_multipart()[0]
        header = wire.encode(wire.Header(NAME, "broker"))
        self.socket.send_multipart([self.peer, header, wire.encode(wire.Welcome(instance="i"))])
        await asyncio.wait_for(self.link.receive(), 3)
        self.publisher = Publisher(self.link, self.journal, self._snapshot, Transcriber(self.folder / "transcript"))
        return self

    def _snapshot(self):
        self.snapshots += 1
        return wire.Snapshot(info=INFO, requests=self.requests)

    async def settled(self):
        for _ in range(5):
            await asyncio.sleep(0)

    async def arrived(self, *, gathered=True):
        """All that has been sent, in order; `gathered`: also what waits for company. A message of our own marks the end."""
        await self.settled()
        if gathered:
            await until_async(lambda: self.publisher._gathering is None, 3, "nothing waits for company")
        assert self.link.send("broker", wire.Beat())
        found = []
        while True:
            await until_async(lambda: self.socket.poll(0), 3, "the mark")
            _, head, body = self.socket.recv_multipart()
            if wire.decode_header(head).to == "broker":
                return found
            found.append(wire.decode(wire.FOR_HUB, body))

    async def events(self):
        """The numbers of the events that arrived."""
        return [event.seq for body in await self.arrived() if isinstance(body, wire.Events) for event in body.events]

    def emit(self, count=1, text="x"):
        for _ in range(count):
            self.publisher.emit(wire.AgentText(text))

    def close(self):
        self.link.close()
        self.journal.close()
        self.socket.close()
        thread = threading.Thread(target=self.context.term, daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture
async def stage():
    folder = tempfile.mkdtemp(prefix="hp", dir="/tmp")
    stage = await Stage(folder).open()
    yield stage
    stage.close()
    shutil.rmtree(folder)


async def test_nothing_goes_out_without_a_connector(stage):
    stage.emit(3)
    stage.publisher.changed()
    stage.publisher.live("b", "t")
    assert await stage.arrived() == []
    assert stage.journal.state.last_seq == 3


async def test_a_new_connector_hears_the_state_before_the_events(stage):
    stage.emit(3)
    stage.publisher.hub_is(up=True)
    snapshot, events, *_ = await stage.arrived()
    assert (snapshot, [event.seq for event in events.events]) == (wire.Snapshot(info=INFO), [1, 2, 3])


async def test_many_changes_are_one_snapshot(stage):
    stage.publisher.hub_is(up=True)
    for _ in range(50):
        stage.publisher.changed()
    assert await stage.arrived() == [wire.Snapshot(info=INFO)]
    stage.publisher.changed()
    assert len(await stage.arrived()) == 1
    assert stage.snapshots == 2


async def test_a_short_turn_is_one_snapshot_and_one_batch(stage, monkeypatch):
    """Each batch costs the hub a barrier, and each snapshot a keepalive. Its end waits for nothing."""
    monkeypatch.setattr(publisher_module, "GATHER_S", 30.0)
    stage.publisher.hub_is(up=True)
    await stage.arrived()
    stage.publisher.changed(soon=True)
    stage.publisher.emit(wire.Consumed(["u"]))
    stage.emit()
    assert await stage.arrived(gathered=False) == []
    stage.publisher.emit(wire.TurnEnded("end_turn"))
    stage.publisher.changed()
    snapshot, batch = await stage.arrived(gathered=False)
    assert (snapshot, [event.seq for event in batch.events]) == (wire.Snapshot(info=INFO), [1, 2, 3])
    assert stage.publisher._gathering is None


async def test_what_waits_for_company_goes_without_it(stage):
    stage.publisher.hub_is(up=True)
    await stage.arrived()
    stage.publisher.changed(soon=True)
    stage.emit(2)
    snapshot, batch = await stage.arrived()
    assert (snapshot, [event.seq for event in batch.events]) == (wire.Snapshot(info=INFO), [1, 2])


async def test_at_the_end_nothing_waits_for_company(stage, monkeypatch):
    monkeypatch.setattr(publisher_module, "GATHER_S", 30.0)
    stage.publisher.hub_is(up=True)
    await stage.arrived()
    stage.publisher.changed(soon=True)
    stage.emit(1)
    assert await stage.publisher.flush(0.0) is False
    snapshot, batch = await stage.arrived(gathered=False)
    assert (snapshot, [event.seq for event in batch.events]) == (wire.Snapshot(info=INFO), [1])


async def test_one_window_at_a_time(stage):
    stage.publisher.hub_is(up=True)
    stage.emit(WINDOW * 2 + 5)
    first = await stage.events()
    assert first[0] == 1 and len(first) <= WINDOW
    assert await stage.events() == []
    seen = list(first)
    while seen[-1] < WINDOW * 2 + 5:
        stage.publisher.delivered(seen[-1])
        seen += await stage.events()
    assert seen == list(range(1, WINDOW * 2 + 6))


async def test_a_window_is_bounded_in_bytes(stage):
    stage.emit(5, "x" * (WINDOW_BYTES // 2))
    stage.publisher.hub_is(up=True)
    assert len(await stage.events()) in {1, 2}


async def test_a_part_confirmed_is_not_sent_again(stage):
    stage.publisher.hub_is(up=True)
    stage.emit(4)
    seen = await stage.events()
    stage.publisher.delivered(seen[-1])
    seen += await stage.events()
    assert seen == [1, 2, 3, 4]
    stage.publisher.delivered(1)
    assert await stage.events() == []


async def test_trap_33_a_connector_that_died_is_replaced_without_loss(stage):
    stage.publisher.hub_is(up=True)
    stage.emit(4)
    await stage.arrived()
    stage.publisher.delivered(2)
    stage.publisher.hub_is(up=False)
    stage.emit(1)
    assert await stage.events() == []
    stage.publisher.hub_is(up=True)
    assert await stage.events() == [3, 4, 5]


async def test_trap_33_what_is_not_confirmed_is_sent_again(stage):
    stage.publisher.hub_is(up=True)
    stage.emit(2)
    assert await stage.events() in ([1], [1, 2])
    stage.publisher._send_again()
    assert await stage.events() == [1, 2]


async def test_what_a_restart_finds_in_the_journal_is_sent(stage):
    for number in range(3):
        stage.journal.emit(wire.AgentText(str(number)), 1)
    stage.journal.delivered(1)
    publisher = Publisher(stage.link, stage.journal, stage._snapshot, Transcriber(stage.folder / "transcript"))
    publisher.hub_is(up=True)
    assert await stage.events() == [2, 3]


async def test_flush_waits_for_the_last_confirmation(stage):
    assert await stage.publisher.flush(5) is True
    stage.emit(2)
    assert await stage.publisher.flush(5) is False
    stage.publisher.hub_is(up=True)
    assert await stage.publisher.flush(0.02) is False
    waiting = asyncio.ensure_future(stage.publisher.flush(3))
    await stage.settled()
    stage.publisher.delivered(1)
    await stage.settled()
    assert not waiting.done()
    stage.publisher.delivered(2)
    assert await waiting is True


async def test_live_thinking_is_not_kept(stage):
    stage.publisher.hub_is(up=True)
    stage.publisher.live("b", "t")
    assert wire.LiveReasoning("b", "t") in await stage.arrived()
    assert stage.journal.state.last_seq == 0


async def test_an_event_too_large_for_the_bus_does_not_block_the_rest(stage):
    """It raised in every attempt to send, for ever, and nothing after it reached the hub."""
    stage.publisher.hub_is(up=True)
    await stage.arrived()
    try:
        stage.publisher.emit(wire.ToolResult("c", "x" * (wire.MAX_BODY_BYTES + 10)))
    except OSError:
        pass  # refused at the door is fine, too
    stage.emit(1, "after")
    last = stage.journal.state.last_seq
    seen = []
    for _ in range(3):
        seen += await stage.events()
        if seen:
            stage.publisher.delivered(seen[-1])
    assert last in seen


async def test_an_event_that_cannot_be_encoded_is_refused_as_one_that_the_disk_does_not_take(stage):
    """It ended the task that serves the queue, and with it the session."""
    with pytest.raises(OSError, match="cannot be encoded"):
        stage.publisher.emit(wire.ToolCall("c", "x", {"n": 2**64}))
    stage.emit(1, "after")


async def test_a_state_too_large_for_the_bus_is_cut_until_it_fits(stage):
    """It raised for ever, and the hub heard of no change."""
    size = wire.MAX_BODY_BYTES // 2
    stage.requests = [
        wire.PermissionRequest(request_id=str(n), tool="t", arguments="x" * size, created_at=1) for n in range(3)
    ]
    stage.publisher.hub_is(up=True)
    (found,) = [body for body in await stage.arrived() if isinstance(body, wire.Snapshot)]
    assert [request.request_id for request in found.requests] == ["0", "1", "2"]


async def test_what_becomes_of_messages_is_on_record_in_a_full_journal_too(stage, monkeypatch):
    """Whoever waits for the session would wait for ever. Seen to fail: when the limit holds for every event."""
    monkeypatch.setattr(publisher_module, "JOURNAL_LIMIT_BYTES", 0)
    message = wire.UserMessage(id="m1", text="hello", created_at=1)
    stage.journal.received(message)
    stage.journal.taken("m1")
    with pytest.raises(OSError, match="full"):
        stage.publisher.emit(wire.AgentText("hi"))
    stage.publisher.emit(wire.Consumed([]))
    assert stage.journal.state.in_flight is None
    stage.publisher.emit(wire.TurnEnded("end_turn"))
    assert not stage.journal.state.turn_open
