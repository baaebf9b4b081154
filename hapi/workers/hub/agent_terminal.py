"""The web's view of the terminal that the agent itself runs in (§6.2): one view for all browsers, while any looks.

The hub says when the first viewer comes and the last one goes, not who looks when we connect again. So whoever looked
before is taken to look still; and a connector that finds a session already there shows it for a while, unasked.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from hapi.errors import HapiError
from hapi.terminal.protocol import Attach, Ended, Redraw, Resize
from hapi.workers.hub.context import Context
from hapi.workers.hub.door import Door
from hapi.workers.hub.feed import Feed
from hapi.workers.hub.schema import AgentTerminalOutput, AgentTerminalReset, Notice
from hapi.workers.hub.timing import pause, within
from hapi.workers.hub.viewer import Viewer
from hapi.workers.hub.watching import Watching

SIZE_PATIENCE_S = 0.5  # a browser says its size right behind its coming
UNASKED_S = 600.0
_EARLY_KEYS = 4096


class AgentFace:
    """Tells the web of the agent's terminal. Its end is the session's, which is told as such."""

    def __init__(self, door: Door, session_id: str) -> None:
        self._door = door
        self._session_id = session_id

    def output(self, text: str) -> Notice:
        """The event of a piece of output."""
        return AgentTerminalOutput(session_id=self._session_id, data=text)

    async def attached(self) -> None:
        """The screen that follows says it."""

    async def redrawn(self) -> None:
        await self._door.emit(AgentTerminalReset(session_id=self._session_id))

    async def ended(self, end: Ended) -> None:
        """The hub itself writes that the session ended."""

    async def failed(self, why: str) -> None:
        await self._door.emit(self.output(f"\r\n[{why}]\r\n"))


class AgentTerminal:
    """Attached to the agent's terminal while somebody watches it. All methods return at once."""

    def __init__(self, context: Context, session_id: str, door: Door, path: Path) -> None:
        self._context = context
        self._session_id = session_id
        self._door = door
        self._path = path
        self._watched = False
        self._size: tuple[int, int] | None = None
        self._sized = asyncio.Event()
        self._early = ""
        self._watching: Watching | None = None
        self._task: asyncio.Task[None] | None = None
        self._unasked: asyncio.Task[None] | None = None

    def refresh(self) -> None:
        """A browser looks: it must see the whole screen."""
        self._is_watched()
        if self._watching is not None:
            self._watching.send(Redraw())
        elif self._task is None:
            self._sized.clear()
            self._task = self._context.start(self._watch(SIZE_PATIENCE_S), "agent terminal")

    def resize(self, cols: int, rows: int) -> None:
        """A browser's view has this size; one that nobody looks at has none that matters."""
        if not self._watched:
            return
        self._is_watched()
        changed = self._size != (cols, rows)
        self._size = (cols, rows)
        self._sized.set()
        if self._watching is not None:
            self._watching.send(Resize(cols, rows))
            if changed:  # what it has was drawn for another width
                self._watching.send(Redraw(history=False))

    def type(self, text: str) -> None:
        """Keys of a browser; those that come before we are attached wait."""
        if not self._watched:
            return
        self._is_watched()
        if self._watching is None:
            taken = self._task is not None and len(self._early) < _EARLY_KEYS
            self._early += text if taken else ""
        else:
            taken = self._watching.type(text)
        if not taken:
            self._context.counters["terminal_input_dropped"] += 1

    def idle(self) -> None:
        """The last browser looked away."""
        self._watched = False
        self.disconnected()

    def connected(self, *, found: bool) -> None:
        """There is a connection (again). `found`: the session was there before this connector."""
        if self._watched:
            self._resume()
        elif found and self._unasked is None:
            self._watched = True
            self._unasked = self._context.start(self._look_away(), "agent terminal, unasked")
            self._resume()

    def disconnected(self) -> None:
        """Nobody can be shown anything."""
        if self._unasked is not None:
            self._watched = False
        for task in (self._task, self._unasked):
            if task is not None:
                task.cancel()
        self._task = self._unasked = self._watching = None
        self._early = ""

    def _resume(self) -> None:
        if self._task is None:
            self._task = self._context.start(self._watch(0.0), "agent terminal")

    def _is_watched(self) -> None:
        self._watched = True
        if self._unasked is not None:
            self._unasked.cancel()
            self._unasked = None

    async def _look_away(self) -> None:
        await pause(UNASKED_S)
        self._unasked = None
        self.idle()

    async def _watch(self, patience_s: float) -> None:
        await within(self._sized, patience_s)
        face = AgentFace(self._door, self._session_id)
        cols, rows = self._size or await self._size_in_force()
        request = Attach(cols=cols, rows=rows, viewer="web", answers=False)
        watching = self._watching = Watching(self._path, request, Feed(self._door, face.output), face)
        early, self._early = self._early, ""
        watching.type(early)
        await watching.run()
        if self._watching is watching:
            self._watching = self._task = None

    async def _size_in_force(self) -> tuple[int, int]:
        """No browser has said its size: the terminal keeps its own."""
        try:
            viewer = await Viewer.attach(self._path, Attach(read_only=True, replay=False, viewer="web"))
        except HapiError:
            return 80, 24  # the same refusal is told by who attaches next
        viewer.close()
        return viewer.size
