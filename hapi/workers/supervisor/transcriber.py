"""Writes a session's transcript (hapi.transcript): what was said, for people and scripts on this machine."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import msgspec

from hapi import wire
from hapi.clock import iso, now_ms
from hapi.files import is_at
from hapi.transcript import Answered, Line, Remark, Result, Said, TurnOver, Used, older

FILE_BYTES = 4 * 1024 * 1024
TEXT_CHARACTERS = 512 * 1024
VALUE_BYTES = 16 * 1024  # of a tool's input or output; a longer one is cut, and text
_OPEN_CALLS = 200
_NEWLINE = b"\n"

_encoder = msgspec.json.Encoder()
logger = logging.getLogger(__name__)


class Transcriber:
    """The writer. Nothing here raises: a chat goes on without its account. Not thread-safe."""

    def __init__(self, path: Path, limit: int = FILE_BYTES) -> None:
        self._path = path
        self._limit = limit
        self._fd = -1
        self._calls: dict[str, tuple[str | None, bytes]] = {}
        self._said = ""  # in this turn last
        self.lost = 0

    def note(self, event: wire.Event, message: wire.UserMessage | None = None) -> None:
        """Write down an event, if it is one for people; `message` is the one that is on its way to the agent."""
        try:
            line = self._line(event, message, iso(now_ms()))
            if line is not None:
                self._write(_encoder.encode(line) + _NEWLINE)
                self._said = line.id if isinstance(line, Said) else self._said
        except (OSError, TypeError, ValueError, OverflowError, RecursionError) as error:
            self.lost += 1
            if self.lost == 1:
                logger.warning("the transcript misses a line: %s", error)

    def close(self) -> None:
        """Give the file up; may be called twice."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _line(self, event: wire.Event, message: wire.UserMessage | None, at: str) -> Line | None:  # noqa: PLR0911 - one per kind
        match event:
            case wire.Consumed() if message is not None and message.id != self._said:
                return Said(at=at, id=message.id, text=_cut(message.text), files=[a.path for a in message.attachments])
            case wire.AgentText(text):
                return Answered(at, _cut(text))
            case wire.ToolCall():
                return self._used(event, at)
            case wire.ToolResult(call_id, output, is_error):
                self._calls.pop(call_id, None)
                return Result(at=at, call_id=call_id, output=_small(output), is_error=is_error)
            case wire.Note(text, is_error):
                return Remark(at=at, text=_cut(text), is_error=is_error)
            case wire.TurnEnded(stop_reason, more):
                self._calls.clear()
                self._said = ""
                return TurnOver(at=at, stop_reason=stop_reason, more=more)
            case _:
                return None

    def _used(self, call: wire.ToolCall, at: str) -> Used | None:
        """The line of a call, if it says what no earlier one did."""
        value = _small(call.input)
        told = (call.title, _encoder.encode(value))
        if self._calls.get(call.call_id) == told:
            return None
        if len(self._calls) < _OPEN_CALLS:
            self._calls[call.call_id] = told
        return Used(at=at, call_id=call.call_id, name=call.name, title=call.title, input=value)

    def _write(self, data: bytes) -> None:
        if self._fd < 0 or not is_at(self._fd, self._path):
            self._open()
        size = os.fstat(self._fd).st_size
        if size and size + len(data) > self._limit:
            self._path.replace(older(self._path))
            self._open()
            size = 0
        if size and os.pread(self._fd, 1, size - 1) != _NEWLINE:
            data = _NEWLINE + data  # behind a line that a full disk or a crash has cut
        if os.write(self._fd, data) != len(data):
            raise OSError("the disk is full")

    def _open(self) -> None:
        self.close()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        self._fd = os.open(self._path, flags, 0o600)


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_CHARACTERS else f"{text[:TEXT_CHARACTERS]}…"


def _small(value: Any) -> Any:
    """A value that is short as JSON; the beginning of its text else."""
    data = value.encode() if isinstance(value, str) else _encoder.encode(value)
    return value if len(data) <= VALUE_BYTES else f"{data[:VALUE_BYTES].decode(errors='ignore')}…"
