"""The broker's two ROUTER sockets: `broker.sock` for the CLI, `bus.sock` for the workers. Bytes in, bytes out."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zmq

from hapi import wire
from hapi.broker.effects import ReplyTo
from hapi.errors import ErrorCode, HapiError

_QUEUE = 10_000
_NOW = int(zmq.NOBLOCK)  # plain integers: pyzmq's own flags are enumerations, which take a microsecond to combine
_NOW_AND_MORE = int(zmq.NOBLOCK | zmq.SNDMORE)

Pass = tuple[bytes, bytes]  # a sender's identity, and a header of its
Message = tuple[bytes, bytes, list[zmq.Frame]]  # identity, header, and what is behind it: one body, if all is well


class Transport:
    """Owns the ZeroMQ context. Sends never block; what cannot be delivered is counted. Close once, at the end."""

    def __init__(self, control_endpoint: str, bus_endpoint: str, counters: Counter[str]) -> None:
        self._counters = counters
        self._context = zmq.Context()
        self._control_endpoint = control_endpoint
        self.control = self._bind(control_endpoint)
        self.bus = self._bind(bus_endpoint)
        self._receive = self.bus.recv  # bound once, for the hot path
        self._send = super(zmq.Socket, self.bus).send  # pyzmq's own wrapper around it takes half of the time

    def pass_on(self, passes: Mapping[Pass, bytes], limit: int) -> tuple[int, Message | None]:
        """The hot path: forward what `passes` knows to which identity, `limit` messages at most, up to one that it does
        not know, or that is not a header with one body. Returns how many were taken from the queue, and that one (it is
        counted, too): it wants a decision.

        The frames tell where a message ends: to ask the socket takes longer.
        """
        receive, forward = self._receive, self.forward
        taken = forwarded = 0
        message: Message | None = None
        while taken < limit and message is None:
            try:
                identity = receive(_NOW)
            except zmq.Again:
                break
            taken += 1
            first = receive(_NOW, False)  # a ROUTER never gives an identity without a frame behind it
            header = first.bytes
            target = passes.get((identity, header))
            if target is None or not first.more:
                message = identity, header, self._behind(first)
                continue
            body = receive(_NOW, False)
            if body.more:
                message = identity, header, [body, *self._behind(body)]
                continue
            forwarded += forward(target, header, body)
        self._counters["forwarded"] += forwarded
        return taken, message

    def _behind(self, frame: zmq.Frame) -> list[zmq.Frame]:
        """What is behind the frame just received in its message, not copied."""
        frames: list[zmq.Frame] = []
        while frame.more:
            frame = self._receive(_NOW, False)
            frames.append(frame)
        return frames

    def leave(self) -> None:
        """Take no more clients; those that are connected can still be answered. Who comes later waits for the next."""
        self.control.unbind(self._control_endpoint)

    def close(self) -> None:
        """Leave; queued answers get 200 ms to go out."""
        for sock in (self.control, self.bus):
            sock.close(linger=200)
        self._context.term()

    def send(self, identity: bytes, to: str, body: Any, request: int = 0) -> None:
        """A message of the broker's own to a worker; one that is too large is counted and not sent."""
        try:
            data = wire.encode(body)
        except HapiError:
            self._counters["too_large"] += 1
            return
        self.forward(identity, wire.encode(wire.Header(to, wire.BROKER, request)), data)

    def forward(self, identity: bytes, header: bytes | zmq.Frame, body: bytes | zmq.Frame) -> bool:
        """Pass frames on to a worker; False (and counted) when it is gone or its queue is full."""
        try:
            self._send(identity, _NOW_AND_MORE)  # whether the others can go, too, is decided here
            self._send(header, _NOW_AND_MORE)
            self._send(body, _NOW)
        except zmq.Again:
            self._counters["dropped"] += 1
            return False
        except zmq.ZMQError:  # EHOSTUNREACH: nobody has that identity any more
            self._counters["unroutable"] += 1
            return False
        return True

    def answer(self, to: ReplyTo, body: Any) -> None:
        """Answer a request; a CLI that went away in between is counted and forgotten."""
        header = wire.encode(wire.Header(to.sender, wire.BROKER, to.request, reply=True))
        try:
            data = wire.encode(body)
        except HapiError as error:
            data = wire.encode(wire.failure(error))
        if to.channel == "bus":
            self.forward(to.identity, header, data)
            return
        try:
            self.control.send_multipart((to.identity, b"", header, data), zmq.NOBLOCK)
        except zmq.ZMQError:
            self._counters["answers_unwanted"] += 1

    def _bind(self, endpoint: str) -> zmq.Socket[bytes]:
        _refuse_squatter(Path(endpoint.removeprefix("ipc://")))
        sock: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.ROUTER_MANDATORY, 1)
        sock.setsockopt(zmq.MAXMSGSIZE, wire.MAX_FRAME_BYTES)
        sock.setsockopt(zmq.SNDHWM, _QUEUE)
        sock.setsockopt(zmq.RCVHWM, _QUEUE)
        sock.setsockopt(zmq.BACKLOG, 4_096)  # all sessions dial at once when a broker is back
        sock.setsockopt(zmq.IPC_FILTER_UID, os.getuid())  # the kernel's word on who connects (SO_PEERCRED)
        try:
            sock.bind(endpoint)
        except zmq.ZMQError as error:
            raise HapiError(ErrorCode.START_FAILED, f"Cannot listen on {endpoint}: {error}", "hapi doctor") from None
        return sock


def _refuse_squatter(path: Path) -> None:
    """The path must be free, or hold a dead socket of ours. Raises HapiError(start_failed)."""
    if path.is_symlink() or (path.exists() and not path.is_socket()):
        raise HapiError(ErrorCode.START_FAILED, f"{path} is in the way: it is not a socket.", f"Remove {path}.")
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return  # nobody listens: what a killed broker leaves behind
    hint = "Another program listens there although the runner's lock is free. Find it with hapi doctor."
    raise HapiError(ErrorCode.START_FAILED, f"{path} is in use.", hint)
