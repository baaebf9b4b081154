"""ACP's newline-delimited JSON over an agent's pipes. Nothing an agent prints can break it.

Session updates go straight to `on_update`, in order and before the answer to the prompt that caused them. Lines that are
no JSON object are counted and passed over.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from hapi.crashpoints import crash_point

GARBAGE_SHOWN = 200
_UPDATE = "session/update"
_PROMPT = "session/prompt"

logger = logging.getLogger(__name__)


class AgentTransport:
    """One agent's stdin and stdout as messages."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_update: Callable[[dict[str, Any]], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.first_garbage = ""
        self._reader = reader
        self._writer = writer
        self._on_update = on_update
        self._writing = asyncio.Lock()
        self.on_prompt_sent: Callable[[], None] | None = None
        self.only: str | None = None  # the one conversation whose updates count; None: whichever they name

    async def send(self, message: dict[str, Any]) -> None:
        """Write one message; waits while the agent does not read. Raises OSError when it is gone.

        `on_prompt_sent` is called once, when the next prompt is in the agent's pipe.
        """
        async with self._writing:
            self._writer.write(msgspec.json.encode(message) + b"\n")
            await self._writer.drain()
        if message.get("method") == _PROMPT and self.on_prompt_sent is not None:
            crash_point("supervisor.in.prompted")
            told, self.on_prompt_sent = self.on_prompt_sent, None
            told()

    async def receive(self) -> dict[str, Any] | None:
        """The next request or response; None at the end of the stream."""
        while True:
            try:
                line = await self._reader.readline()
            except ValueError:  # longer than the limit: the reader dropped it
                self.counters["oversized_lines"] += 1
                continue
            except OSError:
                return None
            if not line:
                return None
            message = self._parse(line)
            if message is not None:
                return message

    def _parse(self, line: bytes) -> dict[str, Any] | None:
        try:
            message = msgspec.json.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if line.strip():
                self.counters["lines_not_json"] += 1
                self.first_garbage = self.first_garbage or line.decode(errors="replace").strip()[:GARBAGE_SHOWN]
            return None
        if not isinstance(message, dict):
            self.counters["lines_not_object"] += 1
            return None
        if message.get("method") != _UPDATE:
            return message
        params = message.get("params")
        update = params.get("update") if isinstance(params, dict) else None
        if not isinstance(update, dict):
            self.counters["updates_malformed"] += 1
            return None
        if self.only is not None and message["params"].get("sessionId") not in {None, self.only}:
            self.counters["updates_of_copies"] += 1
            return None
        try:
            self._on_update(update)
        except Exception:  # an update that trips us must not cost the whole conversation
            self.counters["updates_failed"] += 1
            logger.exception("an update of kind %s failed", update.get("sessionUpdate"))
        return None
