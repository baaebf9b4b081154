"""What the web app's pages do with terminals: Socket.IO on `/terminal`, and an emulator that shows what came."""

from __future__ import annotations

import asyncio
import re
import secrets
import threading
from collections.abc import Coroutine
from typing import Any, Self

import pyte
import socketio
from pyte.modes import LNM

from tests.support.hub import WebClient
from tests.support.wait import until

NAMESPACE = "/terminal"
SOON = 15
_REDRAWN = "\x18\x1b\\"  # a whole screen begins so: what came before need not be drawn
_NOT_PYTES = re.compile(r"\x1b\[[<=>][\d;]*[A-Za-z]")  # keyboard and other private modes, of which pyte prints a part


class _Screen(pyte.Screen):
    """As the app's: a line feed begins a new line (xterm.js' `convertEol`), until a program says otherwise."""

    def __init__(self, cols: int, rows: int) -> None:
        super().__init__(cols, rows)
        self.set_mode(LNM)


class Page:
    """One terminal in one page."""

    def __init__(self, cols: int, rows: int) -> None:
        self.screen = _Screen(cols, rows)
        self._stream = pyte.Stream(self.screen)
        self._lock = threading.Lock()
        self._unseen: list[str] = []
        self.came = 0
        self.raw = ""  # the newest of it
        self.ready = 0
        self.errors: list[str] = []
        self.exits: list[tuple[int | None, str | None]] = []

    def show(self, data: str) -> None:
        """Output came."""
        with self._lock:
            self.came += len(data)
            self.raw = (self.raw + data)[-100_000:]
            self._unseen.append(data)

    @property
    def text(self) -> str:
        """What is on the screen."""
        with self._lock:
            came = "".join(self._unseen)
            self._unseen.clear()
            self._stream.feed(_NOT_PYTES.sub("", came[max(came.rfind(_REDRAWN), 0) :]))
            return "\n".join(line.rstrip() for line in self.screen.display)

    def sees(self, words: str, deadline_s: float = SOON) -> str:
        """Wait until `words` are on the screen; the screen."""
        until(lambda: words in self.text, deadline_s, f"{words!r} is on the screen:\n{self.text}")
        return self.text

    def misses(self, words: str) -> None:
        """Wait until `words` are not on the screen."""
        until(lambda: words not in self.text, SOON, f"{words!r} is gone from the screen:\n{self.text}")


class WebTerminals:
    """A browser's connection. `drop` and `connect` are a network that fails and comes back."""

    def __init__(self, web: WebClient) -> None:
        self._web = web
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client: Any = None
        self._pages: dict[str, Page] = {}  # by terminal id; an agent's terminal by its session's

    def __enter__(self) -> Self:
        self.connect()
        return self

    def __exit__(self, *_: object) -> None:
        self.drop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SOON)
        self._loop.close()

    def connect(self) -> None:
        """Connect, as the page does by itself."""
        self._do(self._connect())

    def drop(self) -> None:
        """The connection breaks. No page says goodbye."""
        if self._client is not None:
            self._do(self._client.disconnect())
            self._client = None

    def open(self, session: str, cols: int = 80, rows: int = 24, terminal_id: str = "") -> tuple[str, Page]:
        """Open a shell, or come back to one; its id, and the page."""
        terminal_id = terminal_id or f"term-{session}-{secrets.token_hex(8)}"
        page = self._pages.setdefault(terminal_id, Page(cols, rows))
        self.send("terminal:create", sessionId=session, terminalId=terminal_id, cols=cols, rows=rows)
        return terminal_id, page

    def ready(self, session: str, **more: Any) -> tuple[str, Page]:
        """As `open`, and wait until the shell is there."""
        known = self._pages.get(more.get("terminal_id", ""))
        before = 0 if known is None else known.ready
        if known is not None:
            known.errors.clear()
        terminal_id, page = self.open(session, **more)
        until(lambda: page.ready > before or page.errors, SOON, "the shell is there")
        assert not page.errors, page.errors
        return terminal_id, page

    def type(self, terminal_id: str, text: str) -> None:
        """Keys for a shell."""
        self.send("terminal:write", terminalId=terminal_id, data=text)

    def watch(self, session: str, cols: int = 80, rows: int = 24) -> Page:
        """Look at an agent's own terminal."""
        page = self._pages.setdefault(session, Page(cols, rows))
        self.send("agent-terminal:subscribe", sessionId=session)
        self.send("agent-terminal:resize", sessionId=session, cols=cols, rows=rows)
        return page

    def press(self, session: str, keys: str) -> None:
        """Keys for an agent's own terminal."""
        self.send("agent-terminal:input", sessionId=session, data=keys)

    def send(self, event: str, **data: Any) -> None:
        """Any event."""
        self._do(self._client.emit(event, data, namespace=NAMESPACE))

    async def _connect(self) -> None:
        client = self._client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        client.on("*", self._heard, namespace=NAMESPACE)
        await client.connect(self._web.url, auth={"token": self._web.jwt}, namespaces=[NAMESPACE])

    async def _heard(self, event: str, data: dict[str, Any]) -> None:
        key = data["sessionId"] if event == "agent-terminal:output" else data.get("terminalId", "")
        page = self._pages.get(key)
        if page is None:
            return
        if event.endswith(":output"):
            page.show(data["data"])
        elif event == "terminal:ready":
            page.ready += 1
        elif event == "terminal:error":
            page.errors.append(data["message"])
        elif event == "terminal:exit":
            page.exits.append((data["code"], data["signal"]))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(SOON)
