"""The broker's control socket for an event loop: any number of requests at a time over one connection."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, TypeVar

import zmq

from hapi import wire
from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError

REPEAT_S = 5.0  # a request that was on its way when the broker died has no answer: it is asked again
_Reply = TypeVar("_Reply", bound=wire.ControlReply)


class Line:
    """A connection that outlives the broker: what is asked while there is none waits for the next one.

    Requests are repeated every REPEAT_S, so they must be such that twice is as good as once.
    """

    def __init__(self, endpoint: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.RECONNECT_IVL, 20)):
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
        self._socket.connect(endpoint)
        self._numbers = itertools.count(1)
        self._open: dict[int, asyncio.Future[wire.ControlReply]] = {}
        self._loop.add_reader(self._socket.FD, self._drain)

    async def ask(self, body: wire.ControlRequest, kind: type[_Reply], timeout_s: float) -> _Reply:
        """The broker's reply. Raises HapiError: its Failure, or `timeout`."""
        deadline = monotonic() + timeout_s
        data = wire.encode(body)
        while (left := deadline - monotonic()) > 0:
            number = next(self._numbers)
            future: asyncio.Future[wire.ControlReply] = self._loop.create_future()
            self._open[number] = future
            self._send(number, data)
            try:
                async with asyncio.timeout(min(left, REPEAT_S)):
                    reply = await future
            except TimeoutError:
                continue
            finally:
                del self._open[number]
            if isinstance(reply, wire.Failure):
                raise reply.error()
            if not isinstance(reply, kind):
                raise HapiError(ErrorCode.PROTOCOL_MISMATCH, f"The runner sent {type(reply).__name__}.")
            return reply
        raise HapiError(ErrorCode.TIMEOUT, f"The runner has not answered within {timeout_s:g} s.")

    def close(self) -> None:
        """Hang up; what is still asked stays without an answer. May be called twice."""
        if not self._socket.closed:
            self._loop.remove_reader(self._socket.FD)
            self._context.destroy(linger=0)

    def _send(self, number: int, data: bytes) -> None:
        header = wire.encode(wire.Header(to=wire.BROKER, sender=wire.CLI, request=number))
        self._socket.send_multipart(
            (b"", header, data), zmq.NOBLOCK
        )  # never full: the queue has no bound but the plan's
        self._loop.call_soon(self._drain)  # the send may have eaten the descriptor's edge

    def _drain(self) -> None:
        while not self._socket.closed:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            future = self._open.get(wire.decode_header(frames[1]).request)
            if future is not None and not future.done():
                future.set_result(wire.decode(wire.FOR_CLI, frames[2]))
