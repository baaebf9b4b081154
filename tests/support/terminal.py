"""A session's terminals without the session: programs in pseudo-terminals, the socket, and viewers of bytes."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from hapi.lifecycle import Phase
from hapi.terminal.protocol import TO_VIEWER, Attach, Attached, Frames, Input, Output, Replay, frame
from hapi.wire import SessionInfo
from hapi.workers.supervisor.pty import Pty, terminal_environment
from hapi.workers.supervisor.shells import Habitat, shell_environment
from hapi.workers.supervisor.terminal import Terminal
from hapi.workers.supervisor.terminals import Terminals, ended

DEADLINE_S = 20.0


class Stage:
    """Terminals on the running loop. Waits for its children on SIGCHLD, as a supervisor does."""

    def __init__(self, directory: Path, environment: dict[str, str] | None = None, **options: Any) -> None:
        self.directory = directory
        self.path = directory / "terminal.sock"
        self.info = SessionInfo(
            session_id="1f0c22ab-0000-4000-8000-000000000001",
            namespace="default",
            agent="demo",
            directory=str(directory),
            phase=Phase.IDLE,
            started_by="terminal",
            started_at=0,
            driver="pty",
        )
        base = environment or {"PATH": os.environ["PATH"], "SHELL": "/bin/bash"}
        base = {"HOME": str(directory), **base}  # no start-up files of whoever runs the tests
        self.habitat = Habitat(str(directory), shell_environment(base, self.info.session_id, None))
        self.terminals = Terminals(self.path, lambda: self.info, self.habitat, **options)
        self._agents: dict[int, Terminal] = {}
        self._children: set[int] = set()
        self._viewers: list[RawViewer] = []

    def run(self, *argv: str, cols: int = 80, rows: int = 24) -> Terminal:
        """A program in the terminal `agent`."""
        pty = Pty(cols, rows)
        process = subprocess.Popen(argv, env=terminal_environment(os.environ), cwd=self.directory, **pty.child())
        process.returncode = 0
        terminal = Terminal("agent", pty, process.pid)
        self.terminals.agent(terminal)
        self._agents[process.pid] = terminal
        return terminal

    def python(self, source: str, **size: int) -> Terminal:
        """A Python program in the terminal `agent`."""
        return self.run(sys.executable, "-c", source, **size)

    def reap(self) -> None:
        """Collect what has ended; called on SIGCHLD."""
        self._children |= {*self._agents, *(shell.leader for shell in self.terminals.shells.values())}
        for pid in list(self._children):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            self._children.remove(pid)
            if pid in self._agents:
                self._agents.pop(pid).ended(ended(status))
            else:
                self.terminals.reaped(pid, status)

    async def connect(self) -> RawViewer:
        """A viewer that has said nothing yet."""
        viewer = await RawViewer.connect(self.path)
        self._viewers.append(viewer)
        return viewer

    async def attach(self, **wish: Any) -> tuple[RawViewer, Attached]:
        """A viewer that is attached; the first Replay is still to be read."""
        viewer = await self.connect()
        viewer.send(Attach(**wish))
        return viewer, await viewer.next(Attached)

    async def close(self) -> None:
        """End everything; a program that survives the hang-up is killed."""
        self.reap()
        await self.terminals.close()
        for viewer in self._viewers:
            await viewer.close()
        self._put_down()

    def _put_down(self) -> None:
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@asynccontextmanager
async def stage(directory: Path, **options: Any):
    """A stage that listens, and is cleared afterwards."""
    made = Stage(directory, **options)
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGCHLD, made.reap)
    await made.terminals.open()
    try:
        yield made
    finally:
        loop.remove_signal_handler(signal.SIGCHLD)
        await made.close()


class RawViewer:
    """A viewer that speaks the protocol and does nothing by itself: no more is read than a test asks for."""

    def __init__(self, stream: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self._reader, self._writer = stream
        self._frames = Frames(TO_VIEWER)
        self._messages: list[Any] = []
        self.output = b""
        self.lost = 0

    @classmethod
    async def connect(cls, path: Path) -> RawViewer:
        """Only connect."""
        return cls(await asyncio.open_unix_connection(path, limit=2**16))

    def send(self, message: Any) -> None:
        self._writer.write(frame(message))

    def send_raw(self, data: bytes) -> None:
        self._writer.write(data)

    def type(self, data: bytes) -> None:
        self.send(Input(data))

    @property
    def socket(self) -> socket.socket:
        return self._writer.get_extra_info("socket")

    async def next(self, kind: type | None = None) -> Any:
        """The next message (of that kind; others before it are taken in). None at the end of the connection."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                while not self._messages:
                    data = await self._reader.read(65536)
                    if not data:
                        return None
                    self._messages += self._frames.feed(data)
                message = self._messages.pop(0)
                self._note(message)
                if kind is None or isinstance(message, kind):
                    return message

    async def until(self, text: bytes) -> bytes:
        """Read until the output has `text`, since the last such call; what was read up to its end."""
        while text not in self.output:
            if await self.next() is None:
                raise AssertionError(f"the connection ended before {text!r}; there was {self.output[-500:]!r}")
        end = self.output.index(text) + len(text)
        seen, self.output = self.output[:end], self.output[end:]
        return seen

    async def everything(self) -> list[Any]:
        """All messages to the end of the connection."""
        found = []
        while (message := await self.next()) is not None:
            found.append(message)
        return found

    def _note(self, message: Any) -> None:
        if isinstance(message, Replay | Output):
            self.output += message.data
            self.lost += message.lost if isinstance(message, Replay) else 0

    def end(self) -> None:
        """Say that nothing more will come."""
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.transport.abort()  # what the other side does not read is no reason to wait
        with suppress(ConnectionError):
            await self._writer.wait_closed()
