"""What was said in a session, for people and scripts on this machine: JSON lines, oldest first.

    sessions/<uuid>/transcript      the newest lines; over 4 MiB it becomes
    sessions/<uuid>/transcript.1    the lines before them; what is older is gone

Written by the session's supervisor, without a sync: it is an account of the chat, not the record that anything hangs
on (that is the journal). What the disk refuses is missing, and counted. A line is one object with `at` (ISO 8601, UTC)
and `type`; readers skip lines and keys that they do not know. `hapi logs --json` prints the lines as they are.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec

from hapi.files import is_at

LAST_WORDS = 200
_NEWLINE = b"\n"


class Said(msgspec.Struct, tag="user", omit_defaults=True, kw_only=True):
    """A person's message, when the agent got it. `id` is the message's: with `hapi send --id KEY` that key."""

    at: str
    id: str
    text: str
    files: list[str] = []


class Answered(msgspec.Struct, tag="agent"):
    """A finished block of the agent's answer."""

    at: str
    text: str


class Used(msgspec.Struct, tag="tool", omit_defaults=True, kw_only=True, rename="camel"):
    """The agent uses a tool; another line with the same `callId` when it says more about it."""

    at: str
    call_id: str
    name: str
    title: str | None = None
    input: Any = None


class Result(msgspec.Struct, tag="tool_result", omit_defaults=True, kw_only=True, rename="camel"):
    """What the tool said."""

    at: str
    call_id: str
    output: Any = None
    is_error: bool = False


class Remark(msgspec.Struct, tag="note", omit_defaults=True, kw_only=True, rename="camel"):
    """A remark of ours."""

    at: str
    text: str
    is_error: bool = False


class TurnOver(msgspec.Struct, tag="turn", omit_defaults=True, kw_only=True, rename="camel"):
    """The agent is done with a message; `more`: another one follows at once."""

    at: str
    stop_reason: str
    more: bool = False


Line = Said | Answered | Used | Result | Remark | TurnOver

_decoder: msgspec.json.Decoder[Line] = msgspec.json.Decoder(Line)


class Tail:
    """The reader of what is added from now on (or, `whole`, of all there is, and then what is added), through rotations."""

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self._part = b""
        self._before = whole
        if not whole:
            self._open_at_end()

    def lines(self) -> list[bytes]:
        """The complete lines that are new, without their ends. Raises OSError."""
        found: list[bytes] = []
        if self._before:
            self._before = False
            found += _complete(older(self._path))
        while True:
            if self._file is None and not self._open():
                return found
            found += self._rest()
            if self._is_current():
                return found
            found += self._rest()  # what came before it was renamed
            self.close()

    def close(self) -> None:
        """Give the file up; may be called twice."""
        if self._file is not None:
            self._file.close()
            self._file, self._part = None, b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self) -> bool:
        try:
            self._file = os.fdopen(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        except FileNotFoundError:
            return False
        return True

    def _open_at_end(self) -> None:
        if self._open() and self._file is not None:
            self._file.seek(0, os.SEEK_END)

    def _rest(self) -> list[bytes]:
        data = self._part + (self._file.read() if self._file is not None else b"")
        *whole, self._part = data.split(_NEWLINE)
        return [line for line in whole if line]

    def _is_current(self) -> bool:
        """Whether nothing newer is under the name; also when there is nothing."""
        return self._file is None or not self._path.exists() or is_at(self._file.fileno(), self._path)


def older(path: Path) -> Path:
    """Where the lines before those of `path` are."""
    return path.with_name(f"{path.name}.1")


def decode(line: bytes) -> Line | None:
    """A line; None for one that is damaged, or of a kind that this version does not know."""
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def last_line(text: str) -> str | None:
    """The last line of a text that says something, on one line and without what steers a terminal; None if none does."""
    lines = (line.strip() for line in reversed(text.splitlines()))
    found = next((line for line in lines if any(map(str.isalnum, line))), None)
    return None if found is None else "".join(c for c in found[:LAST_WORDS] if c.isprintable())


def _complete(path: Path) -> list[bytes]:
    try:
        return [line for line in path.read_bytes().split(_NEWLINE) if line]
    except FileNotFoundError:
        return []
