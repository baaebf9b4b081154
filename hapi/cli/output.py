"""What people and programs see: tables, colours, JSON, progress. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Self, TextIO

import msgspec

from hapi.errors import HapiError

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_PHASES = {"working": "green", "waiting": "yellow", "starting": "cyan", "stopping": "yellow", "ended": "dim"}
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_SPINNER = "|/-\\"


def say(text: str = "") -> None:
    """A line of the answer, on stdout."""
    _write(sys.stdout, f"{text}\n")


def note(text: str) -> None:
    """A line that is not the answer, on stderr."""
    sys.stdout.flush()
    _write(sys.stderr, f"{text}\n")


def say_json(value: Any) -> None:
    """The answer as one indented JSON document on stdout."""
    say(msgspec.json.format(msgspec.json.encode(value)).decode())


def show_error(error: HapiError, *, as_json: bool) -> None:
    """An error for people (stderr, with its hint), or as the one JSON document on stdout."""
    if as_json:
        say_json({"error": {"code": error.code.value, "message": error.message, "hint": error.hint}})
        return
    note(f"{paint('Error:', 'red', sys.stderr)} {error.message}")
    if error.hint:
        note(f"{paint('Hint:', 'cyan', sys.stderr)} {error.hint}")


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at `stream`; False for a closed one."""
    try:
        return stream.isatty()
    except ValueError:
        return False


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """`text` in a colour, where a terminal shows it and neither NO_COLOR nor TERM=dumb forbids it."""
    wanted = not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    if not (wanted and is_terminal(stream or sys.stdout)):
        return text
    return f"\033[{_CODES[colour]}m{text}\033[0m"


def paint_phase(phase: str) -> str:
    """A session's phase in the colour that goes with it."""
    colour = _PHASES.get(phase)
    return paint(phase, colour) if colour else phase


def clean(text: str) -> str:
    """Foreign text without control characters: a file name must not steer the terminal."""
    return _UNPRINTABLE.sub("?", text)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Left-aligned columns, two blanks apart; the last column is not padded. Cells may hold colours."""
    cells = [[paint(heading, "bold") for heading in headings], *rows]
    widths = [max(_width(row[column]) for row in cells) for column in range(len(headings))]
    for row in cells:
        padded = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
        say("  ".join(padded).rstrip())


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """`name   value` lines, the values in one column; pairs without a value are left out."""
    shown = [(name, value) for name, value in pairs if value]
    width = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        say(f"{paint(name.ljust(width), 'dim')}  {value}")


def duration(ms: float) -> str:
    """A span of time in its two largest units: `45s`, `3m 20s`, `2h 5m`, `6d 3h`."""
    seconds = max(0, int(ms / 1000))
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h {seconds % 3600 // 60}m"
    return f"{seconds // 86_400}d {seconds % 86_400 // 3600}h"


def size(count: int) -> str:
    """A number of bytes as people read it: `812 B`, `7.9 MB`."""
    if count < 1024:
        return f"{count} B"
    kilobytes = count / 1024
    if kilobytes < 1024:
        return f"{kilobytes:.1f} kB"
    megabytes = kilobytes / 1024
    return f"{megabytes:.1f} MB" if megabytes < 1024 else f"{megabytes / 1024:.1f} GB"


def home_short(path: str) -> str:
    """A path for a table: the home directory as `~`, nothing unprintable."""
    home = os.path.expanduser("~")
    inside = path == home or path.startswith(f"{home}/")
    return clean(f"~{path[len(home) :]}" if inside and home != "/" else path)


def plural(count: int, noun: str) -> str:
    """`1 session`, `2 sessions`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Progress:
    """A waiting line on stderr: only on a terminal, only after a second, gone when the wait is over."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._shown = False

    def now(self, what: str) -> None:
        """From now on this is what is waited for."""
        self._what = what

    def __call__(self, seconds: float) -> None:
        """To be called while waiting, with the seconds passed."""
        if seconds >= 1 and is_terminal(sys.stderr):
            self._shown = True
            turn = _SPINNER[int(seconds * 10) % len(_SPINNER)]
            sys.stderr.write(f"\r{turn} {self._what} {int(seconds)} s ")
            sys.stderr.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _write(stream: TextIO, text: str) -> None:
    """Write it; what the stream's encoding has no sign for (a terminal that is not set to UTF-8) as a question mark."""
    try:
        stream.write(text)
    except UnicodeEncodeError:
        stream.write(text.encode(stream.encoding, "replace").decode(stream.encoding))


def _width(text: str) -> int:
    return len(re.sub(r"\033\[\d+m", "", text))
