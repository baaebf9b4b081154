"""A session's terminals, and the socket at which they are looked at (docs/protocol.md, "Terminals").

The agent's own program has the terminal `agent` where it runs in one; users open shells beside it, under names of
their choice. The broker has no part in this: it may die and come back while people type.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path

from hapi import procs, wire
from hapi.errors import ErrorCode, HapiError
from hapi.terminal.protocol import AGENT, Attach, Ended
from hapi.workers.supervisor import shells
from hapi.workers.supervisor.pty import Pty
from hapi.workers.supervisor.shells import Habitat
from hapi.workers.supervisor.terminal import Terminal
from hapi.workers.supervisor.viewing import Connection

MAX_SHELLS = 4
MAX_VIEWERS = 64
MAX_NAME = 128
IDLE_SHELL_S = 15 * 60.0
HANG_UP_S = 1.5
FLUSH_S = 1.0
_BACKLOG = 16

logger = logging.getLogger(__name__)


class Terminals:
    """The terminals of one session. `open` before the first viewer can come, `close` before the session's end."""

    def __init__(
        self, path: Path, info: Callable[[], wire.SessionInfo], habitat: Habitat, *, idle_s: float = IDLE_SHELL_S
    ) -> None:
        """`info` says what the session is now; `idle_s`: how long a shell lives that nobody looks at."""
        self.info = info
        self._path = path
        self._habitat = habitat
        self._idle_s = idle_s
        self._loop = asyncio.get_running_loop()
        self._server: asyncio.Server | None = None
        self._agent: Terminal | None = None
        self._shells: dict[str, Terminal] = {}
        self._idle: dict[str, asyncio.TimerHandle] = {}
        self._connections: set[Connection] = set()
        self._closing = False

    @property
    def shells(self) -> Mapping[str, Terminal]:
        """The shells that live, by name."""
        return self._shells

    @property
    def viewers(self) -> int:
        """How many are connected."""
        return len(self._connections)

    async def open(self) -> None:
        """Listen. Raises HapiError: already_running when somebody answers there, disk when it cannot be made."""
        listening = _bound(self._path)
        self._server = await self._loop.create_unix_server(lambda: Connection(self), sock=listening, backlog=_BACKLOG)

    def agent(self, terminal: Terminal) -> None:
        """The agent's program has a terminal: whoever asks for `agent` gets it."""
        self._agent = terminal

    def reaped(self, pid: int, status: int) -> bool:
        """A child was waited for: true if it was a shell of ours, which has ended with that wait status."""
        for terminal in list(self._shells.values()):
            if terminal.leader == pid:
                self._shell_ended(terminal, ended(status))
                return True
        return False

    async def close(self, reason: str = "the session was stopped") -> None:
        """Hang up the shells, give viewers what waits for them, for a second at most, and be gone from the disk.

        The terminals end with that reason, unless they have ended.
        """
        self._closing = True
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for terminal in list(self._shells.values()):
            terminal.hang_up()
            self._shell_ended(terminal, Ended(signal=signal.SIGHUP, reason=reason))
        if self._agent is not None:
            self._agent.ended(Ended(reason=reason))
        await self._flush()

    # ------------------------------------------------------------------------------------------------- for connections

    def arrived(self, connection: Connection) -> None:
        """Count a connection in. Raises HapiError(at_capacity)."""
        self._connections.add(connection)
        if len(self._connections) > MAX_VIEWERS:
            message = f"{MAX_VIEWERS} terminals look at this session already."
            raise HapiError(ErrorCode.AT_CAPACITY, message, "Detach one of them.")

    def left(self, connection: Connection) -> None:
        """Count a connection out; a shell that nobody looks at any more gets a time to live."""
        self._connections.discard(connection)
        terminal = connection.terminal
        if terminal is not None and terminal.viewers == 0 and self._shells.get(terminal.name) is terminal:
            self._idle[terminal.name] = self._loop.call_later(self._idle_s, self._idle_over, terminal)

    def attached(self, terminal: Terminal) -> None:
        """Somebody looks at it: it lives on."""
        if terminal is not self._agent and (timer := self._idle.pop(terminal.name, None)) is not None:
            timer.cancel()

    def find(self, wish: Attach) -> tuple[Terminal, bool]:
        """The terminal that is wished for, and whether it was started for it. Raises HapiError."""
        if self._closing:
            raise HapiError(ErrorCode.SESSION_ENDED, "The session has ended.")
        if wish.terminal == AGENT:
            return self._agents_own(), False
        known = self._shells.get(wish.terminal)
        if known is not None:
            return known, False
        if not wish.open_shell:
            raise HapiError(ErrorCode.BAD_REQUEST, f"There is no terminal {wish.terminal[:MAX_NAME]} in this session.")
        return self._open_shell(wish), True

    def close_terminal(self, terminal: Terminal) -> None:
        """End a shell. Raises HapiError(bad_request) for the agent's own terminal."""
        if terminal is self._agent:
            message = "The agent's own terminal is not closed by itself."
            raise HapiError(ErrorCode.BAD_REQUEST, message, f"Stop the session: hapi stop {self.info().session_id}")
        self._hang_up(terminal)

    # ------------------------------------------------------------------------------------------------- shells

    def _agents_own(self) -> Terminal:
        if self._agent is None:
            info = self.info()
            if info.driver == "pty":
                raise HapiError(ErrorCode.BAD_REQUEST, "The session is still starting.", "Try again in a moment.")
            message = "This session is a chat: its agent has no terminal of its own."
            raise HapiError(ErrorCode.BAD_REQUEST, message, f"Take it into one: hapi resume {info.session_id}")
        if self._agent.end is not None:
            raise HapiError(ErrorCode.SESSION_ENDED, "The agent has ended.", self._agent.end.reason)
        return self._agent

    def _open_shell(self, wish: Attach) -> Terminal:
        if not wish.terminal or len(wish.terminal) > MAX_NAME or not wish.terminal.isprintable():
            raise HapiError(ErrorCode.BAD_REQUEST, f"A terminal's name has 1 to {MAX_NAME} printable characters.")
        if len(self._shells) >= MAX_SHELLS and not self._make_room():
            message = f"This session has {MAX_SHELLS} shells already."
            raise HapiError(ErrorCode.AT_CAPACITY, message, "Close one of them.")
        pty = Pty(wish.cols, wish.rows)
        try:
            process = shells.start(self._habitat, pty)
        except BaseException:
            pty.close()
            raise
        process.returncode = 0  # it is waited for by whoever calls `reaped`
        terminal = self._shells[wish.terminal] = Terminal(wish.terminal, pty, process.pid)
        logger.info("shell %s for %s: pid %d", wish.terminal, wish.viewer, process.pid)
        return terminal

    def _make_room(self) -> bool:
        """Of the shells that nobody looks at and that run nothing, end the one that was left first; whether there is one.

        A browser's page that is left, or whose hub went, leaves its shell behind: it must not keep its person out.
        """
        for name in self._idle:
            terminal = self._shells[name]
            if not procs.descendants(terminal.leader):
                logger.info("shell %s: nobody looks at it, and another one is wanted", name)
                terminal.hang_up()
                self._shell_ended(terminal, Ended(signal=signal.SIGHUP, reason="another shell took its place"))
                return True
        return False

    def _hang_up(self, terminal: Terminal) -> None:
        terminal.hang_up()
        reason = "the shell did not end by itself"
        self._loop.call_later(HANG_UP_S, self._shell_ended, terminal, Ended(signal=signal.SIGHUP, reason=reason))

    def _idle_over(self, terminal: Terminal) -> None:
        self._idle.pop(terminal.name, None)
        if terminal.viewers == 0 and terminal.end is None:
            logger.info("shell %s: nobody looked at it for %g s", terminal.name, self._idle_s)
            self._hang_up(terminal)

    def _shell_ended(self, terminal: Terminal, end: Ended) -> None:
        if self._shells.get(terminal.name) is terminal:  # not another one that was opened under its name since
            del self._shells[terminal.name]
            if (timer := self._idle.pop(terminal.name, None)) is not None:
                timer.cancel()
        terminal.ended(end)

    async def _flush(self) -> None:
        waiting = [asyncio.ensure_future(connection.gone.wait()) for connection in self._connections]
        if not waiting:
            return
        _, late = await asyncio.wait(waiting, timeout=FLUSH_S)
        for task in late:
            task.cancel()
        for connection in list(self._connections):
            connection.abort()


def ended(status: int) -> Ended:
    """A wait status as the last message of a terminal."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return Ended(code=code, reason=f"exit code {code}")
    return Ended(signal=-code, reason=procs.signal_name(-code))


def _bound(path: Path) -> socket.socket:
    """A socket at that path, for its owner only. One that nobody listens at any more is replaced."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        os.fchmod(listening.fileno(), 0o600)  # Linux: the file is made with this mode
        try:
            listening.bind(str(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or _answers(path):
                raise
            path.unlink(missing_ok=True)
            listening.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise HapiError(ErrorCode.ALREADY_RUNNING, f"Somebody else listens at {path}.") from None
        raise HapiError(ErrorCode.DISK, f"Cannot listen at {path}: {error.strerror}.") from None
    return listening


def _answers(path: Path) -> bool:
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    probe.setblocking(False)
    try:
        probe.connect(str(path))
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        probe.close()
    return True
