"""The life of a session: its phases, and the one table of legal moves. Pure.

starting ──► idle ⇄ working ⇄ waiting
    │          │       │         │
    └──────────┴───────┴─────────┴──► stopping ──► ended
               (any of them may also end by itself)
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a session is. `waiting` means: for a person's answer to a permission request."""

    STARTING = "starting"
    IDLE = "idle"
    WORKING = "working"
    WAITING = "waiting"
    STOPPING = "stopping"
    ENDED = "ended"


BUSY = frozenset({Phase.WORKING, Phase.WAITING})
READY = frozenset({Phase.IDLE, Phase.WORKING, Phase.WAITING})

MOVES: dict[Phase, frozenset[Phase]] = {
    Phase.STARTING: frozenset({Phase.IDLE, Phase.STOPPING, Phase.ENDED}),
    Phase.IDLE: frozenset({Phase.WORKING, Phase.STOPPING, Phase.ENDED}),
    Phase.WORKING: frozenset({Phase.IDLE, Phase.WAITING, Phase.STOPPING, Phase.ENDED}),
    Phase.WAITING: frozenset({Phase.WORKING, Phase.IDLE, Phase.STOPPING, Phase.ENDED}),
    Phase.STOPPING: frozenset({Phase.ENDED}),
    Phase.ENDED: frozenset(),
}


class EndReason(StrEnum):
    """Why a session ended, in the words people read. Each is only used when it is true."""

    COMPLETED = "completed"
    STOPPED_BY_USER = "stopped by user"
    STOPPED_FROM_HUB = "stopped from hub"
    AGENT_EXITED = "agent exited"
    AGENT_CRASHED = "agent crashed"
    SUPERVISOR_LOST = "supervisor lost"
    SPAWN_FAILED = "spawn failed"
    MEMORY_LIMIT = "limit: memory"
    HANDED_OVER = "handed over"
    MACHINE_REBOOTED = "machine rebooted"


class IllegalMove(Exception):
    """A move that the table does not allow; carries the session's history, newest last."""

    def __init__(self, current: Phase, wanted: Phase, history: tuple[Phase, ...]) -> None:
        story = " → ".join((*history, wanted))
        super().__init__(f"A session cannot go from {current} to {wanted}: {story}")
        self.current = current
        self.wanted = wanted
        self.history = history


class Lifecycle:
    """The phase of one session and the moves it made. Not thread-safe; one owner, the supervisor."""

    HISTORY_LIMIT = 32

    def __init__(self, phase: Phase = Phase.STARTING) -> None:
        self.phase = phase
        self._history: tuple[Phase, ...] = (phase,)

    @property
    def history(self) -> tuple[Phase, ...]:
        """The last `HISTORY_LIMIT` phases, newest last."""
        return self._history

    def move(self, wanted: Phase) -> bool:
        """Go to `wanted`; False when already there. Raises IllegalMove when the table forbids it."""
        if wanted is self.phase:
            return False
        if wanted not in MOVES[self.phase]:
            raise IllegalMove(self.phase, wanted, self._history)
        self.phase = wanted
        self._history = (*self._history, wanted)[-self.HISTORY_LIMIT :]
        return True
