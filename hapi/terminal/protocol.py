"""What a session's supervisor and those who look at its terminals say to each other (docs/protocol.md, "Terminals").

A stream socket per session, at `Paths.terminal_socket`. A frame is four bytes of length, big-endian, and one tagged
msgspec struct in MessagePack. The viewer speaks first, with Attach; the answer is Attached and a Replay, or a Failure
and the end of the connection. Not over the broker: a terminal must not notice that one dies, and bulk output must not
stand in the way of anything. New fields get defaults, unknown ones are skipped, nothing is retyped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

import msgspec

from hapi.errors import ErrorCode, HapiError
from hapi.wire import Failure, SessionInfo

TERMINAL_LEVEL = 1
AGENT = "agent"  # the terminal of the session's own program; other names are users' shells
MAX_FRAME_BYTES = 4 * 1024 * 1024
INPUT_CHUNK_BYTES = 64 * 1024  # how a viewer cuts a long paste
LENGTH_BYTES = 4
MAX_COLS, MAX_ROWS = 1000, 500


class Attach(msgspec.Struct, tag="attach", omit_defaults=True, kw_only=True):
    """Look at a terminal, and type into it unless `read_only`. Answer: Attached, Replay, or Failure.

    `open_shell`: if there is no terminal of that name, start the user's shell in the session's directory. `viewer`: who
    looks (`cli`, `web`, …), for people. `replay`: draw the screen first. `answers`: what shows the output answers a
    program's questions to its terminal; where it does not (it may show the same output twice), we answer them.
    """

    terminal: str = AGENT
    cols: int = 80
    rows: int = 24
    read_only: bool = False
    open_shell: bool = False
    replay: bool = True
    viewer: str = "cli"
    level: int = TERMINAL_LEVEL
    answers: bool = True


class Input(msgspec.Struct, tag="input"):
    """Bytes for the program, as typed."""

    data: bytes


class Resize(msgspec.Struct, tag="resize"):
    """The viewer's window has another size; the terminal takes the size of whoever was active last."""

    cols: int
    rows: int


class Redraw(msgspec.Struct, tag="redraw", omit_defaults=True):
    """Draw the screen again. Answer: Replay. `history`: with what scrolled off it, for whom that is not there yet."""

    history: bool = True


class CloseTerminal(msgspec.Struct, tag="close_terminal"):
    """End the shell in this terminal. That of the session's own program is not closed so: stop the session."""


class Attached(msgspec.Struct, tag="attached", omit_defaults=True, kw_only=True):
    """The viewer is attached. `created`: a shell was started for it; `viewers`: how many look now, with this one."""

    info: SessionInfo
    terminal: str
    cols: int
    rows: int
    created: bool = False
    viewers: int = 1
    level: int = TERMINAL_LEVEL


class Replay(msgspec.Struct, tag="replay", omit_defaults=True, kw_only=True):
    """The whole screen: `data` begins by clearing what was there. `lost`: bytes of output that this viewer, or the
    screen's history, has not kept.
    """

    data: bytes
    lost: int = 0


class Output(msgspec.Struct, tag="output"):
    """What the program wrote, byte by byte as it was."""

    data: bytes


class Resized(msgspec.Struct, tag="resized"):
    """Another viewer's size is in force now."""

    cols: int
    rows: int


class Ended(msgspec.Struct, tag="ended", omit_defaults=True, kw_only=True):
    """The program ended, or the session was stopped; nothing comes after this. `reason` is for people."""

    code: int | None = None
    signal: int | None = None
    reason: str = ""


FromViewer = Attach | Input | Resize | Redraw | CloseTerminal
ToViewer = Attached | Replay | Output | Resized | Ended | Failure

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
FROM_VIEWER: msgspec.msgpack.Decoder[FromViewer] = msgspec.msgpack.Decoder(FromViewer)
TO_VIEWER: msgspec.msgpack.Decoder[ToViewer] = msgspec.msgpack.Decoder(ToViewer)


def fitting(cols: int, rows: int) -> tuple[int, int]:
    """The nearest size that a terminal may have: at least 1 by 1, at most MAX_COLS by MAX_ROWS."""
    return min(max(cols, 1), MAX_COLS), min(max(rows, 1), MAX_ROWS)


def frame(message: Any) -> bytes:
    """A message with its length before it. Raises HapiError(too_large)."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise _too_large(len(body))
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


class Frames(Generic[_T]):
    """Cuts a stream of bytes into messages. Not thread-safe; one per connection."""

    def __init__(self, decoder: msgspec.msgpack.Decoder[_T]) -> None:
        self._decoder = decoder
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[_T]:
        """The messages that are complete now. Raises HapiError: too_large, or bad_request for what is no message."""
        self._buffer += data
        while len(self._buffer) >= LENGTH_BYTES:
            size = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
            if size > MAX_FRAME_BYTES:
                raise _too_large(size)
            if len(self._buffer) < LENGTH_BYTES + size:
                return
            body = bytes(self._buffer[LENGTH_BYTES : LENGTH_BYTES + size])
            del self._buffer[: LENGTH_BYTES + size]
            try:
                yield self._decoder.decode(body)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise HapiError(ErrorCode.BAD_REQUEST, f"Not a message of a terminal: {error}") from None


def _too_large(size: int) -> HapiError:
    return HapiError(ErrorCode.TOO_LARGE, f"A frame of {size} bytes is over the limit of {MAX_FRAME_BYTES}.")
