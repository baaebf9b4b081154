"""Some agents go on talking for a moment after they have answered the prompt. What they say then belongs to its end."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

SILENCE_S = 0.12
LONGEST_S = 2.0
_WORDS = {"agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update"}


class Stragglers:
    """Shows what comes between turns after a moment of silence, by `flush`; from then on it knows that this agent is
    one of those, and has the end of each turn wait for the silence, so that its last words come in one piece.
    """

    def __init__(self, flush: Callable[[], None]) -> None:
        self._flush = flush
        self._timer: asyncio.TimerHandle | None = None
        self._expected = False
        self._silent = asyncio.Event()

    def heard(self, kind: object, *, between_turns: bool) -> None:
        """The agent sent an update of that kind."""
        if not isinstance(kind, str) or kind not in _WORDS:
            return
        if between_turns:
            self._expected = True
        if between_turns or self._timer is not None:
            self._arm()

    def flush(self) -> None:
        """Show now what came between the turns."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            self._flush()
        self._silent.set()

    async def wait(self) -> None:
        """At the end of a turn of an agent that is known for it: until it is silent, LONGEST_S at most."""
        if self._expected:
            self._silent.clear()
            self._arm()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._silent.wait(), LONGEST_S)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(SILENCE_S, self.flush)
