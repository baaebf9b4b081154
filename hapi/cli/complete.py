"""What may come next on a command line: asked by the shells' scripts (`hapi completion`) at every press of Tab.

Answered by `hapi.__main__` before a command line parser is imported. The commands' words are in the table
`hapi.cli.words`; sessions, agents and namespaces are read from the disk, and nobody is asked. Whatever is wrong, there
is nothing to offer.
"""

from __future__ import annotations

import os
import sys
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hapi import config
from hapi.cli.words import COMMANDS, Words
from hapi.errors import HapiError
from hapi.paths import all_namespaces

SESSIONS = 100  # that are offered, the newest first
LOOKED_AT = 2_000
_SHORT = 8  # of an id; more where that fits several
_GLOBAL = {"--namespace": ("namespace", ""), "--help": (None, "")}
_IGNORED = {"-h", "-V"}

Offer = tuple[str, str]  # a word, and what it is


class _Record(msgspec.Struct):
    """What counts here of a session's record."""

    session_id: str
    agent: str
    directory: str
    phase: str
    title: str | None = None


def main(arguments: list[str]) -> int:
    """`__complete INDEX WORD…`: print the words that may stand at that index, each with a tab and what it is."""
    try:
        found = offers(arguments[1:], int(arguments[0]))
        sys.stdout.write("".join(f"{word}\t{what}\n" for word, what in found))
    except (IndexError, ValueError, OSError, HapiError, msgspec.MsgspecError):
        return 1
    return 0


def offers(words: list[str], index: int) -> list[Offer]:
    """The words that may stand at `index` of a command line, `hapi` itself being number 0."""
    before, current = _joined(words[1:index], words[index] if index < len(words) else "")
    place = _Place(before)
    option, equals, value = current.partition("=")
    if equals and current.startswith("-"):
        return [
            (f"{option}={word}", what) for word, what in place.values(place.kind_of(option)) if word.startswith(value)
        ]
    found = place.options() if current.startswith("-") and place.wanted is None else place.words()
    return [(word, what) for word, what in found if word.startswith(current)]


def _joined(before: list[str], current: str) -> tuple[list[str], str]:
    """The words without the equals signs that bash makes words of."""
    return [word for word in before if word != "="], "" if current == "=" else current


class _Place:
    """Where on the command line we are: in which command, at which of its words, behind which option."""

    def __init__(self, before: list[str]) -> None:
        self.command = ""
        self.wanted: str | None = None  # the kind of value that the option before asks for
        self._position = 0
        self._namespace: str | None = None
        self._foreign = False
        words = iter(before)
        for word in words:
            self._take(word, words)

    def _take(self, word: str, rest: Iterator[str]) -> None:
        child = f"{self.command} {word}".strip()
        if self._foreign or word == "--":
            self._foreign = True
        elif word.startswith("-"):
            self._take_option(word, rest)
        elif child in COMMANDS and not self._position:
            self.command = child
        else:
            self._position += 1
            self._foreign = not self.command  # an agent, whose words are its own

    def _take_option(self, word: str, rest: Iterator[str]) -> None:
        name, equals, value = word.partition("=")
        kind = self.kind_of(name)
        if kind is None:
            return
        if not equals:
            given = next(rest, None)
            self.wanted = kind if given is None else None
            value = given or ""
        if name == "--namespace":
            self._namespace = value or None

    @property
    def _words(self) -> Words:
        return COMMANDS[self.command]

    def kind_of(self, option: str) -> str | None:
        """What the option's value is; None for an option that takes none."""
        return (_GLOBAL | self._words.options).get(option, (None, ""))[0]

    def options(self) -> list[Offer]:
        """The options of the command."""
        found = {} if self._foreign else _GLOBAL | self._words.options
        return [(name, what) for name, (_, what) in found.items() if name not in _IGNORED]

    def words(self) -> list[Offer]:
        """What may stand here and is no option; [] where that is a file, or anything."""
        if self.wanted is not None:
            return self.values(self.wanted)
        if self._foreign:
            return []
        prefix = f"{self.command} " if self.command else ""
        below = [
            (key, words)
            for key, words in COMMANDS.items()
            if key.startswith(prefix) and key.count(" ") == prefix.count(" ")
        ]
        commands = [(key.removeprefix(prefix), words.what) for key, words in below if key]
        if commands and not self._position:
            return [*commands, *(self.values("agent") if not self.command else [])]
        kinds = self._words.arguments
        return self.values(kinds[self._position]) if self._position < len(kinds) else []

    def values(self, kind: str | None) -> list[Offer]:
        """The values of that kind."""
        match (kind or "").split():
            case ["session"]:
                return sessions(config.load(self._namespace).paths.sessions, ended=True)
            case ["live"]:
                return sessions(config.load(self._namespace).paths.sessions, ended=False)
            case ["agent"]:
                return _agents(self._namespace)
            case ["namespace"]:
                return [(name, "") for name in all_namespaces(config.home_directory())]
            case ["choice", *choices]:
                return [(choice, "") for choice in choices]
        return []


def _agents(namespace: str | None) -> list[Offer]:
    from hapi.agents import table  # late: a third of the time, where it is needed

    return [(name, "agent") for name in table.names(config.load(namespace))]


def sessions(directory: Path, *, ended: bool) -> list[Offer]:
    """The sessions on disk by the beginnings of their ids, the newest first; those that have ended only if wanted."""
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if entry.name[0] != ".")
    except FileNotFoundError:
        return []
    found: list[Offer] = []
    for path in sorted((directory / name / "state.json" for name in names), key=_changed, reverse=True)[:LOOKED_AT]:
        record = _read(path)
        if record is not None and (ended or record.phase != "ended") and len(found) < SESSIONS:
            found.append((_short(record.session_id, names), _what(record)))
    return found


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0


def _read(path: Path) -> _Record | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Record)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _short(session_id: str, names: list[str]) -> str:
    """The shortest beginning of an id, _SHORT at least, that is no other's among the sorted names."""
    at = bisect_left(names, session_id)
    near = [name for name in names[max(0, at - 1) : at + 2] if name != session_id]
    shared = max((_shared(name, session_id) for name in near), default=0)
    return session_id[: max(_SHORT, shared + 1)]


def _shared(one: str, other: str) -> int:
    """How many characters two words have in common at their beginnings."""
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _what(record: _Record) -> str:
    home = os.path.expanduser("~")
    place = f"~{record.directory[len(home) :]}" if record.directory.startswith(f"{home}/") else record.directory
    text = f"{record.agent} {place} {record.phase}" + (f": {record.title}" if record.title else "")
    return "".join(character if character.isprintable() else "?" for character in text)
