"""What was asked of the runner and what it answered: the checker's one side. Written down as it happens."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

UNKNOWN = "unknown"  # the answer was lost: it may have been done or not


@dataclass
class Spawn:
    """`outcome`: started, failed (a typed error, in `detail`) or unknown. `session_id` None: the hub never said it."""

    by: str
    directory: str
    session_id: str | None = None
    outcome: str = UNKNOWN
    detail: str = ""


@dataclass
class Message:
    """`marker` is the last word of the agent's answer and of nothing else; `outcome`: accepted, refused, unknown."""

    by: str
    session_id: str
    text: str
    marker: str
    local_id: str | None = None
    outcome: str = UNKNOWN


@dataclass
class Stop:
    """`outcome`: stopped, already_gone, still_alive, archived, failed, unknown."""

    by: str
    session_id: str
    outcome: str = UNKNOWN


@dataclass
class Asked:
    """All of it. `cuts`: what we did to a session that may end it or its turn: (session, what)."""

    spawns: list[Spawn] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    cuts: list[tuple[str, str]] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    seen_twice: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def cuts_of(self, session_id: str) -> list[str]:
        """What was done to that session, oldest first; requests to stop it included."""
        return [what for cut, what in self.cuts if cut == session_id]


class Log:
    """One line of JSON per action and fault, with the seconds since the start. Thread-safe."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file: TextIO = path.open("w", encoding="utf-8", buffering=1)
        self._started = time.monotonic()
        self.write("begin", seed=seed, at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))

    @property
    def passed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    def write(self, what: str, **more: Any) -> None:
        """Append a line."""
        line = json.dumps({"t": round(self.passed_s, 3), "what": what, **more}, default=str)
        with self._lock:
            self._file.write(line + "\n")

    def close(self) -> None:
        """No more lines."""
        self._file.close()
