"""The viewer's end of a session's terminal socket (hapi.terminal.protocol), for programs without an event loop."""

from __future__ import annotations

import select
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError
from hapi.terminal.protocol import (
    INPUT_CHUNK_BYTES,
    TO_VIEWER,
    Attach,
    Attached,
    Frames,
    FromViewer,
    Input,
    ToViewer,
    frame,
)
from hapi.wire import Failure

CONNECT_S = 10.0
_READ_BYTES = 256 * 1024


class ConnectionLost(HapiError):
    """The supervisor closed the connection, or died, without saying that the program ended."""

    def __init__(self, why: str = "") -> None:
        super().__init__(ErrorCode.CONNECTION_LOST, f"The connection to the session was lost{why and f': {why}'}.")


def connect(path: Path, attach: Attach, timeout_s: float = CONNECT_S) -> Connection:
    """Attach to a terminal of the session whose socket is at `path`.

    Raises HapiError: session_ended when nobody listens there, timeout when nobody answers within `timeout_s`,
    connection_lost, and whatever the supervisor refuses it with.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        sock.connect(str(path))
        sock.setblocking(False)
        connection = Connection(sock)
        connection.send(attach)
        connection.attached = _attached(connection, timeout_s)
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        raise HapiError(ErrorCode.SESSION_ENDED, "The session has no terminal now.", "hapi runner list") from None
    except (TimeoutError, BlockingIOError):
        sock.close()
        raise _silent(timeout_s) from None
    except OSError as error:
        sock.close()
        raise ConnectionLost(error.strerror or str(error)) from None
    except BaseException:
        sock.close()
        raise
    return connection


class Connection:
    """One attached viewer. What is sent is queued and goes out as the supervisor takes it; nothing here blocks unless
    it says so. `attached` tells how it stood when it began.
    """

    attached: Attached

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._frames = Frames(TO_VIEWER)
        self._out = bytearray()
        self._messages: deque[ToViewer] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        """For select and poll."""
        return self._socket.fileno()

    @property
    def unsent(self) -> int:
        """How many bytes wait to be sent: whoever has more to say should wait for `flush` to bring them down."""
        return len(self._out)

    def send(self, message: FromViewer) -> None:
        """Queue a message, and send what goes without waiting. Raises ConnectionLost."""
        self._out += frame(message)
        self.flush()

    def type(self, data: bytes) -> None:
        """Send bytes for the program, however many. Raises ConnectionLost."""
        for start in range(0, len(data), INPUT_CHUNK_BYTES):
            self._out += frame(Input(data[start : start + INPUT_CHUNK_BYTES]))
        self.flush()

    def flush(self) -> None:
        """Send what goes without waiting. Raises ConnectionLost."""
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            return
        except OSError as error:
            if not self._last_words():
                raise ConnectionLost(error.strerror or str(error)) from None
            self._out.clear()

    def take(self) -> Sequence[ToViewer]:
        """What has arrived, without waiting. Raises ConnectionLost when nothing has and nothing will."""
        if not self._messages:
            self._read()
        taken = list(self._messages)
        self._messages.clear()
        return taken

    def receive(self, timeout_s: float) -> ToViewer | None:
        """Wait for the next message, sending meanwhile what is queued; None after `timeout_s`. Raises ConnectionLost."""
        deadline = monotonic() + timeout_s
        while not self._messages:
            left = deadline - monotonic()
            events = select.POLLIN | (select.POLLOUT if self._out else 0)
            if left <= 0 or not (ready := _poll(self._socket, events, left)):
                return None
            if ready & select.POLLOUT:
                self.flush()
            if ready & ~select.POLLOUT:
                self._read()
        return self._messages.popleft()

    def close(self) -> None:
        """Detach. May be called twice."""
        self._socket.close()

    def _read(self) -> None:
        """Read once. Raises ConnectionLost at the end of the stream, HapiError for what is no message."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            raise ConnectionLost(error.strerror or str(error)) from None
        if not data:
            raise ConnectionLost
        self._messages.extend(self._frames.feed(data))

    def _last_words(self) -> bool:
        """The other end takes nothing more; whether it has said something before (why, as a rule)."""
        try:
            self._read()
        except ConnectionLost:
            pass
        return bool(self._messages)


def _attached(connection: Connection, timeout_s: float) -> Attached:
    answer = connection.receive(timeout_s)
    if isinstance(answer, Attached):
        return answer
    if isinstance(answer, Failure):
        raise answer.error()
    if answer is None:
        raise _silent(timeout_s)
    raise HapiError(ErrorCode.PROTOCOL_MISMATCH, f"The session answered with {type(answer).__name__}.")


def _silent(timeout_s: float) -> HapiError:
    return HapiError(ErrorCode.TIMEOUT, f"The session does not answer within {timeout_s:g} s.", "hapi doctor")


def _poll(sock: socket.socket, events: int, timeout_s: float) -> int:
    poll = select.poll()
    poll.register(sock, events)
    return sum(found for _, found in poll.poll(max(1, round(timeout_s * 1000))))
