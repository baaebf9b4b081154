"""The life of one viewer for the web: attach, show what comes, send what is typed, until either side has enough."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Protocol

from hapi.errors import HapiError
from hapi.terminal import protocol
from hapi.terminal.protocol import Attach, CloseTerminal, Ended, FromViewer, Input, Output, Replay, ToViewer
from hapi.wire import Failure
from hapi.workers.hub.feed import Feed
from hapi.workers.hub.problems import HubProblem
from hapi.workers.hub.viewer import Viewer

INPUT_LIMIT_BYTES = 4 * 1024 * 1024


class Face(Protocol):
    """What the web is told of a terminal. Each may raise HubProblem: the viewer then ends."""

    async def attached(self) -> None:
        """It is there; its screen comes next."""

    async def redrawn(self) -> None:
        """A whole screen comes next."""

    async def ended(self, end: Ended) -> None:
        """Its program ended; nothing comes after this."""

    async def failed(self, why: str) -> None:
        """It cannot be shown, or no longer."""


class Watching:
    """`run` once; `send` at any time, what is sent before the terminal is there waits."""

    def __init__(self, path: Path, request: Attach, feed: Feed, face: Face) -> None:
        self._path = path
        self._request = request
        self._feed = feed
        self._face = face
        self._typed = bytearray()
        self._orders: dict[type[FromViewer], FromViewer] = {}
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Until the terminal ends or cannot be shown, or the hub is gone. Cancelled: the person looks away."""
        try:
            await self._watch()
        except HubProblem:
            return  # the hub has told the browsers, and the next connection begins anew

    def send(self, message: FromViewer) -> None:
        """Queue a message that is no Input; it replaces one of its kind that still waits, however many the hub sends."""
        self._orders.pop(type(message), None)
        self._orders[type(message)] = message
        self._wake.set()

    def type(self, text: str) -> bool:
        """Queue what a person typed or pasted; False, and nothing of it is taken, when too much waits already."""
        data = text.encode("utf-8", "replace")
        if len(self._typed) + len(data) > INPUT_LIMIT_BYTES:
            return False
        self._typed += data
        self._wake.set()
        return True

    async def _watch(self) -> None:
        try:
            viewer = await Viewer.attach(self._path, self._request)
        except HapiError as error:
            await self._face.failed(error.words)
            return
        try:
            await self._face.attached()
            sending = asyncio.create_task(self._send_all(viewer))
            try:
                await self._show_all(viewer)
            finally:
                sending.cancel()
        finally:
            viewer.close()

    async def _send_all(self, viewer: Viewer) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._orders or self._typed:
                await viewer.send(self._next())

    def _next(self) -> FromViewer:
        """What is asked of the terminal comes before what is typed into it, its end after all of that."""
        kind = next((kind for kind in self._orders if kind is not CloseTerminal), None)
        if kind is None and not self._typed:
            kind = CloseTerminal
        if kind is not None:
            return self._orders.pop(kind)
        data = bytes(self._typed[: protocol.INPUT_CHUNK_BYTES])
        del self._typed[: len(data)]
        return Input(data)

    async def _show_all(self, viewer: Viewer) -> None:
        while True:
            try:
                come = await viewer.receive()
            except HapiError as error:
                await self._face.failed(error.words)
                return
            if not come:
                await self._face.failed("The session's terminal is gone.")
                return
            if await self._show(come):
                return

    async def _show(self, come: list[ToViewer]) -> bool:
        """Show what came together as one; whether that was the end."""
        output = bytearray()
        for message in come:
            if isinstance(message, Output):
                output += message.data
                continue
            if output:
                await self._feed.show(bytes(output))
                output.clear()
            if isinstance(message, Replay):
                await self._face.redrawn()
                await self._feed.redraw(message.data)
            elif isinstance(message, Ended):
                await self._face.ended(message)
                return True
            elif isinstance(message, Failure):
                await self._face.failed(message.error().words)
                return True
        if output:
            await self._feed.show(bytes(output))
        return False
