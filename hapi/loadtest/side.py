"""The two ways into a runner look the same to the load test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

Heard = Callable[[str, str], None]  # session id, an agent's words


class Side(Protocol):
    """From where sessions are spawned, spoken to and stopped. Every method may raise HapiError.

    What agents say is handed to the `Heard` that the side was made with, as soon as it is seen.
    """

    name: str
    """As people call it."""

    async def open(self) -> None:
        """Connect, to a runner that was started."""

    async def spawn(self, agent: str, timeout_s: float) -> str:
        """Start a session and return its id when it is ready."""
        ...

    async def say(self, session_id: str, key: str, text: str, timeout_s: float) -> None:
        """Say something; returns when it is taken. Twice under the same `key` is once."""

    async def stop(self, session_id: str, timeout_s: float) -> None:
        """End a session; returns when it has ended."""

    async def reread(self, session_id: str) -> list[str]:
        """All that the agent has said, from where it is kept."""
        ...

    async def forget(self, at_once: int) -> int:
        """Remove what the sessions leave behind on this side; how much could not be."""
        ...

    async def close(self) -> None:
        """Disconnect. May be called twice, and without `open`."""
