"""A worker's connection to the broker: one DEALER socket on the asyncio loop, which heals itself.

The socket reconnects for ever; after each connection the link says Hello, and it counts as connected from the
broker's Welcome on. Nothing is queued for a broker that is away: what must not be lost is kept by the sender (a
session's journal) and sent again after the next Welcome.

The socket is driven by its descriptor and not by `zmq.asyncio`: that costs a third of the time per message.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

import msgspec
import zmq
from zmq.utils.monitor import parse_monitor_message

from hapi import wire
from hapi.errors import ErrorCode, HapiError

INBOX_LIMIT = 10_000
_DRAIN_BATCH = 200
_RETRY_HELLO_S = 0.02
_NOW = int(zmq.NOBLOCK)  # plain integers: pyzmq's own flags are enumerations, which take a microsecond to combine
_NOW_AND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)
_READABLE = int(zmq.POLLIN)
_MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED

logger = logging.getLogger(__name__)


class Link:
    """Messages to and from the broker for the worker `name`. Use on one running loop only; `close` when done.

    `hello` is called for every introduction, so that it tells the newest state.
    """

    def __init__(
        self, endpoint: str, name: str, decoder: msgspec.msgpack.Decoder[Any], hello: Callable[[], wire.Hello]
    ) -> None:
        self.name = name
        self.connected = False
        self.protocol = wire.OLDEST_LEVEL  # until the broker's welcome says more
        self.counters: Counter[str] = Counter()
        self._decoder = decoder
        self._hello = hello
        self._hello_due = False
        self._inbox: deque[tuple[wire.Header, Any]] = deque()
        self._arrived = asyncio.Event()
        self._requests: dict[int, asyncio.Future[Any]] = {}
        self._last_request = 0
        self._loop = asyncio.get_running_loop()
        self._context = zmq.Context(io_threads=1)
        self._socket = _dealer(self._context)
        self._frame_out = super(zmq.Socket, self._socket).send  # below pyzmq's wrapper, which takes half of the time
        self._monitor = self._socket.get_monitor_socket(_MONITORED)
        self._loop.add_reader(self._socket.FD, self._drain)
        self._loop.add_reader(self._monitor.FD, self._drain_monitor)
        self._socket.connect(endpoint)
        self._loop.call_soon(self._drain_monitor)  # not now: `hello` may need what our owner has yet to set

    def send(self, to: str, body: Any) -> bool:
        """Send now or not at all: False (and counted) while there is no broker or its queue is full."""
        return self._send(wire.Header(to, self.name), body)

    def reply(self, header: wire.Header, body: Any) -> bool:
        """Answer the request that came with `header`; nothing happens when none was asked."""
        if not header.request or header.reply:
            return False
        return self._send(wire.Header(header.sender, self.name, header.request, reply=True), body)

    async def request(self, to: str, body: Any, timeout_s: float) -> Any:
        """Ask a peer and return its answer.

        Raises HapiError: the peer's Failure, `timeout` after `timeout_s`, or `not_running` when it cannot be sent.
        """
        self._last_request += 1
        number = self._last_request
        answer: asyncio.Future[Any] = self._loop.create_future()
        self._requests[number] = answer
        try:
            if not self._send(wire.Header(to, self.name, number), body):
                raise HapiError(ErrorCode.NOT_RUNNING, "The broker cannot be reached at the moment.", "Try again.")
            timer = self._loop.call_later(timeout_s, _give_up, answer)  # `wait_for` takes half as long again
            try:
                reply = await answer
            finally:
                timer.cancel()
        except TimeoutError:
            raise HapiError(ErrorCode.TIMEOUT, f"{to} did not answer within {timeout_s:g} s.") from None
        finally:
            del self._requests[number]
        if isinstance(reply, wire.Failure):
            raise reply.error()
        return reply

    async def receive(self) -> tuple[wire.Header, Any]:
        """The next message that is not the answer to a request of ours, in order of arrival."""
        while not self._inbox:
            self._arrived.clear()
            await self._arrived.wait()
        item = self._inbox.popleft()
        if len(self._inbox) == INBOX_LIMIT - 1:
            self._loop.call_soon(self._drain)
        return item

    def close(self) -> None:
        """Leave; pending sends get a moment to go out. May be called twice."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        self._socket.disable_monitor()
        self._monitor.close(linger=0)
        self._socket.close(linger=200)
        self._context.term()
        self.connected = False

    def _send(self, header: wire.Header, body: Any) -> bool:
        if not self.connected and not isinstance(body, wire.Hello):
            self.counters["unsent"] += 1
            return False
        data = wire.encode(body)
        try:
            self._frame_out(wire.encode(header), _NOW_AND_MORE)
            self._frame_out(data, _NOW)
        except zmq.Again:
            self.counters["unsent"] += 1
            return False
        if int(self._socket.getsockopt(zmq.EVENTS)) & _READABLE:  # the send may have eaten the descriptor's edge
            self._loop.call_soon(self._drain)
        return True

    def _drain(self) -> None:
        if self._hello_due:
            self._say_hello()
        for _ in range(_DRAIN_BATCH):
            if len(self._inbox) >= INBOX_LIMIT or self._socket.closed:
                return
            try:
                frames = self._message()
            except zmq.Again:
                return
            self._take(frames)
        self._loop.call_soon(self._drain)

    def _message(self) -> list[zmq.Frame]:
        """Frame by frame: `recv_multipart` takes twice as long. Raises zmq.Again."""
        frames = [self._socket.recv(_NOW, False)]
        while frames[-1].more:
            frames.append(self._socket.recv(_NOW, False))
        return frames

    def _take(self, frames: list[zmq.Frame]) -> None:
        header: wire.Header | None = None
        try:
            if len(frames) != 2:
                raise HapiError(ErrorCode.BAD_REQUEST, f"A message has two frames, not {len(frames)}.")
            header = wire.decode_header(frames[0].bytes)
            body = wire.decode(self._decoder, frames[1].bytes)
        except HapiError as error:
            self.counters["undecodable"] += 1
            logger.warning("dropped a message: %s", error)
            if header is not None:
                self.reply(header, wire.failure(error))
            return
        self._dispatch(header, body)

    def _dispatch(self, header: wire.Header, body: Any) -> None:
        if header.reply:
            waiting = self._requests.get(header.request)
            if waiting is None or waiting.done():
                self.counters["late_replies"] += 1
            else:
                waiting.set_result(body)
            return
        if isinstance(body, wire.HelloWanted):
            self._say_hello()
            return
        if isinstance(body, wire.Welcome):
            self.connected, self.protocol = True, body.protocol
        self._inbox.append((header, body))
        self._arrived.set()

    def _drain_monitor(self) -> None:
        while not self._monitor.closed:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
            except zmq.Again:
                return
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self._say_hello()
            elif event == zmq.EVENT_DISCONNECTED:
                self.connected = False
                self.counters["disconnects"] += 1

    def _say_hello(self) -> None:
        self._hello_due = not self._send(wire.Header(wire.BROKER, self.name), self._hello())
        if self._hello_due and not self._socket.closed:
            self._loop.call_later(_RETRY_HELLO_S, self._drain)


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())


def _dealer(context: zmq.Context[Any]) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.IMMEDIATE, 1)  # queue nothing for a broker that is not there
    socket.setsockopt(zmq.RECONNECT_IVL, 20)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, 500)
    socket.setsockopt(zmq.SNDHWM, 2_000)
    socket.setsockopt(zmq.RCVHWM, 2_000)
    socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
    return socket
