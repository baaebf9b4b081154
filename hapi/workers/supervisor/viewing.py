"""A connection of somebody who looks at a terminal: bytes to messages, and what to do when either side is slow."""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
import struct
from typing import Protocol, cast

import msgspec

from hapi import wire
from hapi.errors import ErrorCode, HapiError
from hapi.terminal.protocol import (
    FROM_VIEWER,
    Attach,
    Attached,
    CloseTerminal,
    Ended,
    Frames,
    FromViewer,
    Input,
    Output,
    Redraw,
    Resize,
    Resized,
    fitting,
    frame,
)
from hapi.workers.supervisor.terminal import Terminal

ATTACH_DEADLINE_S = 10.0
LAG_BYTES = 1024 * 1024  # what may wait for a viewer before it is lagging
MAX_INPUT_BYTES = 256 * 1024  # of one message
_READ_BYTES = 64 * 1024
_REPLAY_BYTES = 1024 * 1024  # a longer one goes on as Output; a frame has a limit
_HELD_CHECK_S = 1.0
_MAC_PEER_CREDENTIALS = 1

logger = logging.getLogger(__name__)


class Desk(Protocol):
    """Where connections come in."""

    def arrived(self, connection: Connection) -> None:
        """A connection of our own user. Raises HapiError(at_capacity)."""

    def find(self, wish: Attach) -> tuple[Terminal, bool]:
        """The terminal that is wished for, and whether it was made for it. Raises HapiError."""

    def attached(self, terminal: Terminal) -> None:
        """Somebody looks at it now."""

    def left(self, connection: Connection) -> None:
        """The connection is gone."""

    def close_terminal(self, terminal: Terminal) -> None:
        """Somebody who looks at it wants it ended. Raises HapiError."""

    def info(self) -> wire.SessionInfo:
        """The session as it is now."""


class Connection(asyncio.BufferedProtocol):
    """One viewer, from its connection to its last byte. Reads nothing from another user."""

    def __init__(self, desk: Desk) -> None:
        self.cols = self.rows = 0
        self.read_only = True
        self.lagging = False
        self.answers = True
        self.terminal: Terminal | None = None
        self.gone = asyncio.Event()
        self._desk = desk
        self._loop = asyncio.get_running_loop()
        self._frames: Frames[FromViewer] = Frames(FROM_VIEWER)
        self._space = bytearray(_READ_BYTES)
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None
        self._held: asyncio.TimerHandle | None = None
        self._lost = 0
        self._told_size = (0, 0)

    # ------------------------------------------------------------------------------------------------- transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Turn strangers away, and whoever is one too many."""
        self._transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("socket")
        uid = peer_uid(peer)
        if uid != os.getuid():
            logger.warning("turned away a viewer of uid %s", uid)
            self._transport.abort()
            return
        self._transport.set_write_buffer_limits(high=LAG_BYTES, low=0)
        self._deadline = self._loop.call_later(ATTACH_DEADLINE_S, self._transport.abort)
        try:
            self._desk.arrived(self)
        except HapiError as error:
            self._refuse(error)

    def connection_lost(self, _: Exception | None) -> None:
        """Nobody looks here any more."""
        for timer in (self._deadline, self._held):
            if timer is not None:
                timer.cancel()
        if self.terminal is not None:
            self.terminal.detach(self)
        self._desk.left(self)
        self.gone.set()

    def get_buffer(self, _: int) -> bytearray:
        """Where the next bytes go."""
        return self._space

    def buffer_updated(self, size: int) -> None:
        """Bytes came."""
        self._take(bytes(memoryview(self._space)[:size]))

    def pause_writing(self) -> None:
        """More than LAG_BYTES wait for the viewer."""
        self.lagging = True

    def resume_writing(self) -> None:
        """The viewer has taken all that waited for it."""
        if self.terminal is not None and not self._transport.is_closing():
            self.terminal.wait_for_screen(self)

    # ------------------------------------------------------------------------------------------------- to the viewer

    def show(self, framed: bytes, size: int) -> None:
        """Output; a viewer that lags misses it."""
        if self.lagging:
            self._lost += size
        else:
            self._transport.write(framed)

    def resized_to(self, cols: int, rows: int) -> None:
        """Another size is in force. One that lags hears of it before its Replay."""
        if not self.lagging:
            self._told_size = (cols, rows)
            self._transport.write(frame(Resized(cols, rows)))

    def finish(self, ended: Ended) -> None:
        """The last message."""
        self.catch_up()
        self._transport.write(frame(ended))
        self._transport.close()

    def go_on(self) -> None:
        """The program has read: take what waits in the connection."""
        if self._held is not None:
            self._held.cancel()
            self._held = None
            self._transport.resume_reading()
            self._take(b"")

    def abort(self) -> None:
        """Close at once, whatever waits."""
        self._transport.abort()

    def catch_up(self) -> None:
        """What was missed while it lagged: another size, and the screen."""
        self.lagging = False
        if self.terminal is None:
            return
        if self.terminal.size != self._told_size:
            self.resized_to(*self.terminal.size)
        if self._lost:
            self._replay(self.terminal)

    def _replay(self, terminal: Terminal, *, history: bool = True) -> None:
        lost, self._lost = self._lost, 0
        whole = terminal.replay(lost, history=history)
        self._transport.write(frame(msgspec.structs.replace(whole, data=whole.data[:_REPLAY_BYTES])))
        for start in range(_REPLAY_BYTES, len(whole.data), _REPLAY_BYTES):
            self._transport.write(frame(Output(whole.data[start : start + _REPLAY_BYTES])))

    def _refuse(self, error: HapiError) -> None:
        self._transport.write(frame(wire.failure(error)))
        self._transport.close()

    # ------------------------------------------------------------------------------------------------- from the viewer

    def _take(self, data: bytes) -> None:
        try:
            for message in self._frames.feed(data):
                if self._transport.is_closing():
                    return
                self._handle(message)
                if self._held is not None:
                    return  # what else has come stays in `_frames`
        except HapiError as error:
            self._refuse(error)

    def _handle(self, message: FromViewer) -> None:
        terminal = self.terminal
        if terminal is None:
            if not isinstance(message, Attach):
                raise HapiError(ErrorCode.BAD_REQUEST, "A viewer begins with `attach`.")
            self._attach(message)
            return
        match message:
            case Input():
                self._input(terminal, message.data)
            case Resize():
                self._set_size(message.cols, message.rows)
                terminal.resized(self)
                self._told_size = terminal.size
            case Redraw():
                if not self.lagging:  # then it gets one anyway
                    self._replay(terminal, history=message.history)
            case CloseTerminal():
                if self.read_only:
                    raise HapiError(ErrorCode.BAD_REQUEST, "Who only looks cannot close a terminal.")
                self._desk.close_terminal(terminal)
            case Attach():
                raise HapiError(ErrorCode.BAD_REQUEST, "This viewer is attached already.")

    def _attach(self, wish: Attach) -> None:
        terminal, created = self._desk.find(wish)
        if self._deadline is not None:
            self._deadline.cancel()
        self.read_only, self.answers = wish.read_only, wish.answers
        self._set_size(wish.cols, wish.rows)
        terminal.attach(self)
        self.terminal = terminal
        self._desk.attached(terminal)
        cols, rows = terminal.size
        self._told_size = (cols, rows)
        attached = Attached(
            info=self._desk.info(),
            terminal=terminal.name,
            cols=cols,
            rows=rows,
            created=created,
            viewers=terminal.viewers,
        )
        self._transport.write(frame(attached))
        if wish.replay:
            self._replay(terminal)

    def _set_size(self, cols: int, rows: int) -> None:
        self.cols, self.rows = fitting(cols, rows)

    def _input(self, terminal: Terminal, data: bytes) -> None:
        if len(data) > MAX_INPUT_BYTES:
            message = f"An input of {len(data)} bytes is over the limit of {MAX_INPUT_BYTES}."
            raise HapiError(ErrorCode.TOO_LARGE, message, "Send it in pieces.")
        terminal.typed(self, data)
        if terminal.crowded and not self.read_only:
            self._hold(terminal)

    def _hold(self, terminal: Terminal) -> None:
        """Read no more until the program has read; look now and then whether the viewer is still there at all."""
        self._transport.pause_reading()
        terminal.wait_for_room(self)
        self._held = self._loop.call_later(_HELD_CHECK_S, self._still_there)

    def _still_there(self) -> None:
        if self._held is None:
            return
        peer = self._transport.get_extra_info("socket")
        poll = select.poll()
        poll.register(peer.fileno(), 0)
        if poll.poll(0):
            self._transport.abort()
            return
        self._held = self._loop.call_later(_HELD_CHECK_S, self._still_there)


def peer_uid(peer: socket.socket) -> int:
    """The kernel's word on who connected."""
    if hasattr(socket, "SO_PEERCRED"):
        _, uid, _ = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    else:
        _, uid = struct.unpack("2I", peer.getsockopt(0, _MAC_PEER_CREDENTIALS, 8)[:8])
    return int(uid)
