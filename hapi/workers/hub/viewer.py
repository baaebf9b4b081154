"""Looking at a session's terminal from an event loop: the other end of `Paths.terminal_socket`."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Self

from hapi.errors import ErrorCode, HapiError
from hapi.terminal.protocol import TO_VIEWER, Attach, Attached, Frames, FromViewer, ToViewer, frame
from hapi.wire import Failure

ATTACH_TIMEOUT_S = 10.0
READ_BYTES = 64 * 1024


class Viewer:
    """One connection to a session's terminals. What is not received waits at the session, which bounds it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._frames = Frames(TO_VIEWER)
        self._waiting: list[ToViewer] = []
        self.size = (0, 0)  # the terminal's columns and rows when we came

    @classmethod
    async def attach(cls, path: Path, request: Attach) -> Self:
        """Attach to a terminal. Raises HapiError: the session's refusal, not_running where nobody listens, timeout."""
        try:
            async with asyncio.timeout(ATTACH_TIMEOUT_S):
                viewer = cls(*await asyncio.open_unix_connection(path, limit=READ_BYTES))
                try:
                    await viewer._greet(request)
                except BaseException:
                    viewer.close()
                    raise
        except TimeoutError:
            raise HapiError(ErrorCode.TIMEOUT, "The session's terminal does not answer.") from None
        except OSError:
            hint = "A session of an older version has none."
            raise HapiError(ErrorCode.NOT_RUNNING, "The session has no terminal to show.", hint) from None
        return viewer

    async def receive(self) -> list[ToViewer]:
        """What has come, at least one message; none when the connection is gone.

        Raises HapiError(bad_request, too_large) for what is no message of a session.
        """
        while not self._waiting:
            try:
                data = await self._reader.read(READ_BYTES)
            except OSError:
                return []
            if not data:
                return []
            self._waiting = list(self._frames.feed(data))
        come, self._waiting = self._waiting, []
        return come

    async def send(self, message: FromViewer) -> None:
        """Send, and wait while the session does not read. Does nothing when the connection is gone."""
        try:
            self._writer.write(frame(message))
            await self._writer.drain()
        except OSError:
            return  # `receive` says it

    def close(self) -> None:
        """Look away. May be called twice."""
        self._writer.close()

    async def _greet(self, request: Attach) -> None:
        await self.send(request)
        come = await self.receive()
        if not come:
            raise HapiError(ErrorCode.SESSION_ENDED, "The session ended before its terminal could be shown.")
        if isinstance(come[0], Failure):
            raise come[0].error()
        if not isinstance(come[0], Attached):
            raise HapiError(ErrorCode.BAD_REQUEST, "What the session says is no terminal's answer.")
        self.size = (come[0].cols, come[0].rows)
        self._waiting = come[1:]
