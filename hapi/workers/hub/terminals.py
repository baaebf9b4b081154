"""A session's terminals for the web: which event of the hub's goes to which of them."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from hapi.terminal.protocol import Attach, CloseTerminal, Redraw, Resize, fitting
from hapi.workers.hub import incoming
from hapi.workers.hub.agent_terminal import AgentTerminal
from hapi.workers.hub.context import Context
from hapi.workers.hub.door import Door
from hapi.workers.hub.feed import Feed
from hapi.workers.hub.problems import HubProblem
from hapi.workers.hub.user_terminal import ShellFace, shell_name
from hapi.workers.hub.watching import Watching

MAX_SHELLS = 32  # at a time; the hub and the session allow fewer, this bounds what a broken hub can ask for
TOO_MANY = "Too many terminals are open."

_log = logging.getLogger("hapi.hub")


class Terminals:
    """All methods return at once; what they begin ends with `disconnected`, or with the context."""

    def __init__(self, context: Context, session_id: str, door: Door) -> None:
        self._context = context
        self._session_id = session_id
        self._door = door
        self._path = context.config.paths.terminal_socket(session_id)
        self._agent = AgentTerminal(context, session_id, door, self._path)
        self._shells: dict[str, Watching] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def receive(self, event: str, data: Any) -> None:
        """An event of the hub's. Raises msgspec.ValidationError."""
        kind, _, verb = event.partition(":")
        if kind == "agent-terminal":
            order = incoming.read(data, incoming.AgentTerminalOrder)
            if order.session_id == self._session_id:
                self._to_agent(verb, order)
        else:
            asked = incoming.read(data, incoming.TerminalOrder)
            if asked.session_id == self._session_id:
                self._to_shell(verb, asked)

    def connected(self, *, agent_found: bool) -> None:
        """There is a connection. `agent_found`: the agent has a terminal that was there before this connector."""
        self._agent.connected(found=agent_found)

    def disconnected(self) -> None:
        """The connection is gone. The hub has told the browsers; the shells live on."""
        self._agent.disconnected()
        for task in list(self._tasks.values()):
            task.cancel()
        self._tasks.clear()
        self._shells.clear()

    def _to_agent(self, verb: str, order: incoming.AgentTerminalOrder) -> None:
        if verb == "refresh":
            self._agent.refresh()
        elif verb == "input":
            self._agent.type(order.data)
        elif verb == "resize":
            self._agent.resize(*fitting(order.cols, order.rows))
        elif verb == "idle":
            self._agent.idle()

    def _to_shell(self, verb: str, asked: incoming.TerminalOrder) -> None:
        shell = self._shells.get(asked.terminal_id)
        if verb == "open":
            self._open(asked, shell)
        elif shell is None:
            return  # it has ended meanwhile, and the hub was told
        elif verb == "write":
            if not shell.type(asked.data):
                self._context.counters["terminal_input_dropped"] += 1
        elif verb == "resize":
            shell.send(Resize(*fitting(asked.cols, asked.rows)))
        elif verb == "close":
            shell.send(CloseTerminal())

    def _open(self, asked: incoming.TerminalOrder, known: Watching | None) -> None:
        cols, rows = fitting(asked.cols, asked.rows)
        face = ShellFace(self._door, self._session_id, asked.terminal_id)
        if known is not None:  # the browser came back over another connection of its own
            known.send(Resize(cols, rows))
            known.send(Redraw())
            self._context.start(_say_ready(face), "terminal ready")
            return
        if len(self._shells) >= MAX_SHELLS:
            self._context.start(_refuse(face), "terminal refused")
            return
        name = shell_name(asked.terminal_id)
        request = Attach(terminal=name, cols=cols, rows=rows, open_shell=True, viewer="web", answers=False)
        watching = Watching(self._path, request, Feed(self._door, face.output), face)
        self._shells[asked.terminal_id] = watching
        self._tasks[asked.terminal_id] = self._context.start(self._show(asked.terminal_id, watching), "terminal")

    async def _show(self, terminal_id: str, watching: Watching) -> None:
        await watching.run()
        if self._shells.get(terminal_id) is watching:
            del self._shells[terminal_id], self._tasks[terminal_id]


async def _say_ready(face: ShellFace) -> None:
    try:
        await face.attached()
    except HubProblem as problem:
        _log.info("a browser's terminal: %s", problem)


async def _refuse(face: ShellFace) -> None:
    try:
        await face.failed(TOO_MANY)
    except HubProblem as problem:
        _log.info("a browser's terminal: %s", problem)
