"""The broker's control socket for an event loop: any number of requests at a time over one connection."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, TypeVar

import zmq
from zmq.utils.monitor import parse_monitor_message

from hapi import wire
from hapi.errors import ErrorCode, HapiError, NotRunning

_MONITORED = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED
_Reply = TypeVar("_Reply", bound=wire.ControlReply)


class _Open:
    """A request without a reply yet."""

    __slots__ = ("data", "reply")

    def __init__(self, data: bytes, reply: asyncio.Future[wire.ControlReply]) -> None:
        self.data = data
        self.reply = reply


class Line:
    """A connection that outlives the broker: what it has not answered when it goes, the next one is asked again.

    So requests must be such that twice is as good as once. A broker that stays away for `away_s` is given up.
    """

    def __init__(self, endpoint: str, away_s: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[Any] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, 0), (zmq.RCVHWM, 0), (zmq.RECONNECT_IVL, 20)):
            self._socket.setsockopt(option, value)
        self._socket.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
        self._monitor = self._socket.get_monitor_socket(_MONITORED)
        self._away_s = away_s
        self._away: asyncio.TimerHandle | None = None
        self._given_up = False
        self._socket.connect(endpoint)
        self._numbers = itertools.count(1)
        self._open: dict[int, _Open] = {}
        self._loop.add_reader(self._socket.FD, self._drain)
        self._loop.add_reader(self._monitor.FD, self._drain_monitor)
        self._drain_monitor()  # its descriptor tells of what comes after a look at it

    async def ask(self, body: wire.ControlRequest, kind: type[_Reply], timeout_s: float) -> _Reply:
        """The broker's reply. Raises HapiError: its Failure, or `timeout`; NotRunning when there is none any more."""
        if self._given_up:
            raise _gone()
        number = next(self._numbers)
        request = _Open(wire.encode(body), self._loop.create_future())
        self._open[number] = request
        self._send(number, request)
        try:
            async with asyncio.timeout(timeout_s):
                reply = await request.reply
        except TimeoutError:
            raise HapiError(ErrorCode.TIMEOUT, f"The runner has not answered within {timeout_s:g} s.") from None
        finally:
            del self._open[number]
        if isinstance(reply, wire.Failure):
            raise reply.error()
        if not isinstance(reply, kind):
            raise HapiError(ErrorCode.PROTOCOL_MISMATCH, f"The runner sent {type(reply).__name__}.")
        return reply

    def close(self) -> None:
        """Hang up; what is still asked stays without an answer. May be called twice."""
        if self._socket.closed:
            return
        self._loop.remove_reader(self._socket.FD)
        self._loop.remove_reader(self._monitor.FD)
        if self._away is not None:
            self._away.cancel()
        self._socket.disable_monitor()
        self._context.destroy(linger=0)

    def _send(self, number: int, request: _Open) -> None:
        header = wire.encode(wire.Header(to=wire.BROKER, sender=wire.CLI, request=number))
        self._socket.send_multipart((b"", header, request.data), zmq.NOBLOCK)  # its queue has no bound but the plan's
        self._loop.call_soon(self._drain)  # the send may have eaten the descriptor's edge

    def _drain(self) -> None:
        while not self._socket.closed:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            request = self._open.get(wire.decode_header(frames[1]).request)
            if request is not None and not request.reply.done():
                request.reply.set_result(wire.decode(wire.FOR_CLI, frames[2]))

    def _drain_monitor(self) -> None:
        while not self._monitor.closed:
            try:
                event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
            except zmq.Again:
                return
            if event == zmq.EVENT_DISCONNECTED:
                self._away = self._away or self._loop.call_later(self._away_s, self._give_up)
            elif self._away is not None:
                self._away.cancel()
                self._away = None
                for number, request in list(self._open.items()):
                    self._send(number, request)

    def _give_up(self) -> None:
        self._given_up = True
        for request in self._open.values():
            if not request.reply.done():
                request.reply.set_exception(_gone())


def _gone() -> NotRunning:
    return NotRunning("The runner of the load test has ended.", "Its log says why: --keep leaves it.")
