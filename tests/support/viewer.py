"""A session in a terminal for tests, and somebody who looks at it through the session's socket."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

from hapi import config, wire
from hapi.ids import new_session_id
from hapi.terminal.client import connect
from hapi.terminal.protocol import AGENT, Attach, Ended, Output, Replay
from tests.support.runner import Runner

DEADLINE_S = 20.0


def spawn(runner: Runner, *command: str, **more: Any) -> wire.SessionInfo:
    """A session that runs a command in a terminal. Raises HapiError as the broker answers."""
    order = wire.Spawn(
        session_id=more.pop("session_id", None) or new_session_id(),
        directory=str(more.pop("directory", runner.project)),
        agent=more.pop("agent", command[0].rpartition("/")[2] if command else ""),
        started_by="terminal",
        env=more.pop("env", runner.environment),
        driver="pty",
        command=list(command),
        **more,
    )
    return runner.ask(order, wire.Spawned).info


class Viewer:
    """Attached to a terminal until it is closed. `seen`: the output that no `until` has taken yet."""

    def __init__(self, runner: Runner, session_id: str, **wish: Any) -> None:
        path = config.load(environ=runner.environment).paths.terminal_socket(session_id)
        self.connection = connect(path, Attach(terminal=wish.pop("terminal", AGENT), **wish))
        self.seen = b""
        self.end: Ended | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: type[BaseException] | None, _value: object, _trace: TracebackType | None) -> None:
        self.connection.close()

    def type(self, text: str) -> None:
        """Type it."""
        self.connection.type(text.encode())

    def until(self, text: str) -> str:
        """Wait for this output; what came before it and itself."""
        wanted = text.encode()
        self._read_until(lambda: wanted in self.seen, f"{text!r}")
        before, _, self.seen = self.seen.partition(wanted)
        return (before + wanted).decode(errors="replace")

    def ended(self) -> Ended:
        """Wait for the end of the program."""
        self._read_until(lambda: self.end is not None, "the end")
        assert self.end is not None
        return self.end

    def _read_until(self, done: Any, what: str) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            left = deadline - time.monotonic()
            message = self.connection.receive(left) if left > 0 else None
            assert message is not None, f"not within {DEADLINE_S} s: {what}; there was {self.seen[-1000:]!r}"
            if isinstance(message, Output | Replay):
                self.seen += message.data
            elif isinstance(message, Ended):
                self.end = message
