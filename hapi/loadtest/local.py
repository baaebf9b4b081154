"""Straight into the runner: its control socket for all requests, the sessions' transcripts for the answers."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hapi import transcript, wire
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.ids import new_session_id
from hapi.loadtest.line import Line
from hapi.loadtest.side import Heard
from hapi.store import SessionDirectory

_SLICE_MS = 30_000
_WAIT_S, _PAUSE_S = 60.0, 0.1
_OVER = frozenset({ErrorCode.SESSION_ENDED, ErrorCode.UNKNOWN_SESSION, ErrorCode.NOT_RUNNING})


class Local:
    """A `Side` without a hub. An answer is seen when the session is idle again."""

    name = "the runner's control socket"

    def __init__(self, config: Config, project: Path, away_s: float, heard: Heard) -> None:
        """`away_s`: how long a broker that dies may take to come back."""
        self._away_s = away_s
        self._config = config
        self._project = project
        self._heard = heard
        self._tails: dict[str, transcript.Tail] = {}
        self._said: dict[str, int] = {}
        self._listeners: dict[str, asyncio.Task[None]] = {}
        self._line: Line | None = None

    async def open(self) -> None:
        self._line = Line(self._config.paths.control_endpoint, self._away_s)

    async def spawn(self, agent: str, timeout_s: float) -> str:
        order = wire.Spawn(
            session_id=new_session_id(), directory=str(self._project), agent=agent, started_by="terminal"
        )
        await self.line.ask(order, wire.Spawned, timeout_s)
        self._tails[order.session_id] = transcript.Tail(self._transcript(order.session_id))
        return order.session_id

    async def say(self, session_id: str, key: str, text: str, timeout_s: float) -> None:
        await self.line.ask(wire.SendText(session_id, text, key), wire.Accepted, timeout_s)
        self._said[session_id] = self._said.get(session_id, 0) + 1
        if session_id not in self._listeners:
            self._listeners[session_id] = asyncio.create_task(self._listen(session_id))

    async def stop(self, session_id: str, timeout_s: float) -> None:
        stopped = await self.line.ask(wire.StopSession(session_id), wire.SessionStopped, timeout_s)
        if stopped.status == "still_alive":
            raise HapiError(ErrorCode.STILL_ALIVE, f"Processes of a session survive its stop: {stopped.survivors}")

    async def reread(self, session_id: str) -> list[str]:
        with transcript.Tail(self._transcript(session_id), whole=True) as tail:
            return _answers(tail.lines())

    async def forget(self, at_once: int) -> int:  # noqa: ARG002 - nothing is kept but in the home, which goes
        return 0

    async def close(self) -> None:
        listeners = list(self._listeners.values())
        for task in listeners:
            task.cancel()
        await asyncio.gather(*listeners, return_exceptions=True)
        for tail in self._tails.values():
            tail.close()
        if self._line is not None:
            self._line.close()

    @property
    def line(self) -> Line:
        """The connection. Raises HapiError before `open`."""
        if self._line is None:
            raise HapiError(ErrorCode.NOT_RUNNING, "There is no connection to the runner.")
        return self._line

    async def _listen(self, session_id: str) -> None:
        """Hand on what the agent says until it is idle and has been said no more; the last answer is in by then."""
        try:
            seen = -1
            while seen != self._said[session_id]:
                seen = self._said[session_id]
                if not await self._wait_and_hear(session_id):
                    seen = -1
        finally:  # at once, not in a callback: what is said from now on gets another listener
            del self._listeners[session_id]

    async def _wait_and_hear(self, session_id: str) -> bool:
        """Wait a while for the session to be idle, and hand on what was said; whether it is idle, or over."""
        try:
            waited = await self.line.ask(wire.WaitSession(session_id, "idle", _SLICE_MS), wire.Waited, _WAIT_S)
        except HapiError as error:
            if error.code in _OVER:
                return True
            await asyncio.sleep(_PAUSE_S)  # the runner starts or stops; `close` ends this
            return False
        for text in _answers(self._tails[session_id].lines()):
            self._heard(session_id, text)
        return waited.reached

    def _transcript(self, session_id: str) -> Path:
        return SessionDirectory(self._config.paths.session(session_id)).transcript


def _answers(lines: list[bytes]) -> list[str]:
    decoded = map(transcript.decode, lines)
    return [line.text for line in decoded if isinstance(line, transcript.Answered)]
