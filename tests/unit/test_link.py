"""A worker's link against a real ROUTER on a real endpoint: hello, heal, drop, count."""

import asyncio
import shutil
import tempfile
import threading

import msgspec
import pytest
import zmq

from hapi import procs, wire
from hapi.errors import ErrorCode, HapiError
from hapi.workers.link import Link
from tests.support.wait import until_async

ME = procs.own_identity()
WELCOME = wire.Welcome(instance="i")


class Bus:
    """The broker's end, by hand."""

    def __init__(self, folder):
        self.endpoint = f"ipc://{folder}/bus.sock"
        self.context = zmq.Context()
        self.socket = None
        self.peer = b""

    def bind(self):
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.linger = 0
        self.socket.bind(self.endpoint)
        return self

    def unbind(self):
        self.socket.close(linger=0)
        self.socket = None

    async def receive(self, decoder=wire.FOR_BROKER):
        await until_async(lambda: self.socket.poll(0), 3, "a message from the link")
        self.peer, head, body = self.socket.recv_multipart()
        return wire.decode_header(head), wire.decode(decoder, body)

    def send(self, body, request=0, *, reply=False, sender="broker"):
        header = wire.Header("hub", sender, request, reply)
        self.socket.send_multipart([self.peer, wire.encode(header), wire.encode(body)])

    def raw(self, *frames):
        self.socket.send_multipart([self.peer, *frames])

    async def welcome(self):
        """Take the hello and answer it."""
        header, hello = await self.receive()
        assert isinstance(hello, wire.Hello)
        self.send(WELCOME)
        return header, hello

    def close(self):
        if self.socket is not None:
            self.unbind()
        thread = threading.Thread(target=self.context.term, daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive(), "a socket was left open"


@pytest.fixture
def bus():
    folder = tempfile.mkdtemp(prefix="hl", dir="/tmp")
    bus = Bus(folder)
    yield bus
    bus.close()
    shutil.rmtree(folder)


@pytest.fixture
async def connect(bus):
    """Makes links, closes them all."""
    links = []

    def make(decoder=wire.FOR_HUB):
        def hello():
            return wire.Hello(name="hub", process=ME, version="1", generation=len(links))

        links.append(Link(bus.endpoint, "hub", decoder, hello))
        return links[-1]

    yield make
    for link in links:
        link.close()
        link.close()


@pytest.fixture
async def link(bus, connect):
    """A link that is welcome."""
    bus.bind()
    link = connect()
    await bus.welcome()
    assert (await receive(link))[1] == WELCOME
    return link


async def receive(link):
    return await asyncio.wait_for(link.receive(), 3)


async def test_it_says_hello_and_is_connected_from_the_welcome_on(bus, connect):
    link = connect()
    assert not link.connected
    bus.bind()
    header, hello = await bus.receive()
    assert (header.to, header.sender, hello.name, hello.process) == ("broker", "hub", "hub", ME)
    assert not link.connected
    bus.send(WELCOME)
    assert (await receive(link))[1] == WELCOME
    assert link.connected


async def test_nothing_is_queued_for_a_broker_that_is_away(bus, connect):
    link = connect()
    assert link.send("broker", wire.Beat()) is False
    with pytest.raises(HapiError) as caught:
        await link.request("broker", wire.Beat(), 3)
    assert caught.value.code is ErrorCode.NOT_RUNNING
    assert link.counters["unsent"] == 2
    bus.bind()
    assert isinstance((await bus.receive())[1], wire.Hello)


async def test_messages_both_ways_in_order(bus, link):
    for number in range(500):
        bus.send(wire.Accepted(str(number)))
        assert link.send("broker", wire.Accepted(str(number)))
    assert [(await receive(link))[1].detail for _ in range(500)] == [str(number) for number in range(500)]
    assert [(await bus.receive())[1].detail for _ in range(500)] == [str(number) for number in range(500)]


async def test_a_new_broker_is_told_again(bus, link):
    bus.unbind()
    await until_async(lambda: not link.connected, 3, "the link notices")
    assert link.counters["disconnects"] == 1
    assert link.send("broker", wire.Beat()) is False
    bus.bind()
    await bus.welcome()
    await receive(link)
    assert link.send("broker", wire.Beat())
    assert (await bus.receive())[1] == wire.Beat()


async def test_a_broker_that_forgot_us_gets_a_hello(bus, link):
    bus.send(wire.HelloWanted())
    assert isinstance((await bus.receive())[1], wire.Hello)


async def test_a_request_and_its_answer(bus, link):
    asking = [asyncio.ensure_future(link.request("session:a", wire.AbortTurn(), 3)) for _ in range(3)]
    headers = [(await bus.receive(wire.FOR_SESSION))[0] for _ in range(3)]
    assert len({header.request for header in headers}) == 3
    for header in reversed(headers):
        bus.send(wire.Accepted(str(header.request)), header.request, reply=True)
    assert [(await task).detail for task in asking] == [str(header.request) for header in headers]


async def test_a_failure_is_raised(bus, link):
    asking = asyncio.ensure_future(link.request("broker", wire.StopSession("x"), 3))
    header, _ = await bus.receive()
    bus.send(wire.Failure("unknown_session", "No session 'x'."), header.request, reply=True)
    with pytest.raises(HapiError, match="No session") as caught:
        await asking
    assert caught.value.code is ErrorCode.UNKNOWN_SESSION


async def test_an_answer_too_late_is_counted(bus, link):
    with pytest.raises(HapiError) as caught:
        await link.request("broker", wire.Accepted(), 0.02)
    assert caught.value.code is ErrorCode.TIMEOUT
    header, _ = await bus.receive()
    for number in (header.request, 999):
        bus.send(wire.Accepted(), number, reply=True)
    await until_async(lambda: link.counters["late_replies"] == 2, 3, "both are counted")


async def test_replies_go_to_who_asked(bus, link):
    bus.send(wire.Shutdown("x"), request=5, sender="session:a")
    header, _ = await receive(link)
    assert link.reply(header, wire.Accepted()) is True
    answer, _ = await bus.receive()
    assert (answer.to, answer.request, answer.reply) == ("session:a", 5, True)
    assert link.reply(wire.Header("hub", "broker", 0), wire.Accepted()) is False
    assert link.reply(wire.Header("hub", "broker", 5, reply=True), wire.Accepted()) is False


HEAD = wire.encode(wire.Header("hub", "broker", 3))
NOISE = {
    "one frame": ([b"x"], False),
    "three frames": ([HEAD, b"x", b"y"], False),
    "no header": ([b"\xc1", wire.encode(wire.Shutdown("x"))], False),
    "another version": ([HEAD.replace(b"hapi/1", b"hapi/2"), wire.encode(wire.Shutdown("x"))], False),
    "garbage": ([HEAD, b"\xc1"], True),
    "a message for others": ([HEAD, wire.encode(wire.GetStatus())], True),
    "an unknown tag": ([HEAD, msgspec.msgpack.encode({"type": "never"})], True),
    "an oversized body": ([HEAD, bytes(9_000_000)], True),
    "a nested header": ([bytes([HEAD[0] + 1]) + HEAD[1:] + b"\x91" * 100_000 + b"\xc0", b""], False),
}


@pytest.mark.parametrize("name", NOISE)
async def test_noise_is_counted_and_answered_where_it_can_be(bus, link, name):
    frames, answered = NOISE[name]
    bus.raw(*frames)
    bus.send(wire.Shutdown("after"))
    assert (await receive(link))[1] == wire.Shutdown("after")
    assert link.counters["undecodable"] == 1
    if answered:
        header, failure = await bus.receive()
        assert (header.request, header.reply) == (3, True)
        assert failure.code in {"bad_request", "too_large"}


async def test_two_links_in_one_process(bus, connect):
    bus.bind()
    peers = set()
    links = [connect(), connect()]
    for _ in links:
        await bus.welcome()
        peers.add(bus.peer)
    for link in links:
        await receive(link)
    assert len(peers) == 2


async def test_a_closed_link_sends_nothing(link):
    link.close()
    assert link.send("broker", wire.Beat()) is False
    assert not link.connected


async def test_the_level_is_the_one_that_the_broker_names(bus, connect):
    bus.bind()
    link = connect()
    assert link.protocol == 1
    await bus.receive()
    bus.send(wire.Welcome(instance="i", protocol=2))
    await receive(link)
    assert link.protocol == 2
