"""The web's terminal page (§6.1): a person's shell beside the agent.

The browser names the terminal, and comes back to it by that name: after a lost connection by itself, after "CLI
disconnected." when the person presses Retry. The shell is the session's and lives meanwhile; it has a name made of the
browser's, so that a new connector finds it too. A page that is left is not told to anybody: the hub closes its terminal
after 15 min without input and output.
"""

from __future__ import annotations

import hashlib

from hapi import procs
from hapi.terminal.protocol import Ended
from hapi.workers.hub.door import Door
from hapi.workers.hub.schema import Notice, TerminalError, TerminalExit, TerminalOutput, TerminalReady

_NAME_DIGITS = 16


def shell_name(terminal_id: str) -> str:
    """The session's name for the shell of a browser's terminal."""
    return f"web-{hashlib.sha256(terminal_id.encode('utf-8', 'replace')).hexdigest()[:_NAME_DIGITS]}"


class ShellFace:
    """Tells the web of one shell."""

    def __init__(self, door: Door, session_id: str, terminal_id: str) -> None:
        self._door = door
        self._session_id = session_id
        self._terminal_id = terminal_id

    def output(self, text: str) -> Notice:
        """The event of a piece of output."""
        return TerminalOutput(session_id=self._session_id, terminal_id=self._terminal_id, data=text)

    async def attached(self) -> None:
        await self._door.emit(TerminalReady(session_id=self._session_id, terminal_id=self._terminal_id))

    async def redrawn(self) -> None:
        """The screen itself begins by clearing the page."""

    async def ended(self, end: Ended) -> None:
        """The page leaves itself after this."""
        name = None if end.signal is None else procs.signal_name(end.signal)
        notice = TerminalExit(session_id=self._session_id, terminal_id=self._terminal_id, code=end.code, signal=name)
        await self._door.emit(notice)

    async def failed(self, why: str) -> None:
        """The page offers to try again."""
        await self._door.emit(TerminalError(session_id=self._session_id, terminal_id=self._terminal_id, message=why))
