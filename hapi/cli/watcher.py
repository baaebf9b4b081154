"""What `hapi top` shows, looked up in the background: the runner's list of sessions, and what their processes take."""

from __future__ import annotations

import threading

import msgspec

from hapi import procs, wire
from hapi.cli import attach
from hapi.cli.sessions import memory, processes
from hapi.cli.table import Row
from hapi.clock import monotonic
from hapi.config import Config
from hapi.control import Control
from hapi.errors import HapiError

REFRESH_S = 1.0
_ASK_S = 3.0
_STOP_S = 30.0


class Sight(msgspec.Struct, frozen=True):
    """How things are, or were when they could last be seen; then `trouble` says why they cannot be."""

    rows: list[Row] = []
    trouble: str = ""


class Watcher:
    """Looks every REFRESH_S, in a thread. Starts no runner: sessions live on without one, and so does the table."""

    def __init__(self, config: Config) -> None:
        self.sight = Sight()
        self._config = config
        self._meter = Meter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Look once, then go on in the background."""
        self.sight = self._look()
        self._thread.start()

    def stop(self) -> None:
        """Look no more. Returns at once; a request under way is left to its deadline."""
        self._over.set()

    def end_session(self, session_id: str) -> str:
        """Stop a session; how that went, in words. Blocks, _STOP_S at most."""
        try:
            reply = Control(self._config).ask(wire.StopSession(session_id), wire.SessionStopped, _STOP_S)
        except HapiError as error:
            return error.words
        return f"{session_id[:8]}: {reply.status.replace('_', ' ')}"

    def _run(self) -> None:
        while not self._over.wait(REFRESH_S):
            self.sight = self._look()

    def _look(self) -> Sight:
        try:
            infos = Control(self._config).ask(wire.ListSessions(), wire.SessionList, _ASK_S).sessions
        except HapiError as error:
            return Sight(self.sight.rows or self._meter.rows(attach.live(self._config)[::-1]), error.message)
        return Sight(self._meter.rows(infos))


class Meter:
    """Processor time per session, from one look to the next."""

    def __init__(self) -> None:
        self._at = 0.0
        self._spent: dict[int, float] = {}

    def rows(self, infos: list[wire.SessionInfo]) -> list[Row]:
        """The sessions with what they take now."""
        now, before, self._spent = monotonic(), self._spent, {}
        elapsed, self._at = now - self._at, now
        return [Row(info, self._cpu(info, before, elapsed), memory(info)) for info in infos]

    def _cpu(self, info: wire.SessionInfo, before: dict[int, float], elapsed: float) -> float | None:
        spent = {pid: seconds for pid in processes(info) if (seconds := procs.cpu_seconds(pid)) is not None}
        self._spent |= spent
        if not before.keys() & spent.keys():
            return None
        return (
            100 * sum(max(0.0, seconds - before.get(pid, 0.0)) for pid, seconds in spent.items()) / max(elapsed, 0.01)
        )
