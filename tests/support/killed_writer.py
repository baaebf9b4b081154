"""`python -m tests.support.killed_writer KIND DIRECTORY KILLS SEED`: a process in a write loop is SIGKILLed at random
moments, again and again; after each death the file must hold the last write that was confirmed, or the one under way.

Prints the number of writes that were confirmed. Any other find is an AssertionError.
"""

from __future__ import annotations

import os
import random
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from hapi import settings
from hapi.journal import Journal
from hapi.lifecycle import Phase
from hapi.store import SessionDirectory
from hapi.wire import AgentText, SessionInfo, UserMessage

FILL = "x" * 3_000  # a write should be more than one block now and then
LONGEST_S = 0.01

Write = Callable[[int], None]
INFO = SessionInfo(
    session_id="s", namespace="default", agent="demo", directory="/", phase=Phase.IDLE, started_by="runner", started_at=1
)  # fmt: skip


class SettingsFile:
    """Numbers go to a key of ours; a key of somebody else's must stay."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "settings.json"
        settings.update(self._path, {"theirs": FILL, "number": 0})

    def writer(self) -> Write:
        return lambda number: void(settings.update(self._path, {"number": number, "fill": FILL[: number % 3_000]}))

    def newest(self) -> int:
        found = settings.read(self._path)
        assert found["theirs"] == FILL
        return int(found["number"])


class StateFile:
    """A session's record."""

    def __init__(self, directory: Path) -> None:
        self._directory = SessionDirectory(directory / "s")
        self._directory.create()
        self._directory.write_state(INFO)

    def writer(self) -> Write:
        return lambda number: self._directory.write_state(
            msgspec.structs.replace(INFO, started_at=number, title=FILL[: number % 3_000])
        )

    def newest(self) -> int:
        found = self._directory.read_state()
        return 0 if found.title is None else found.started_at


class JournalFile:
    """An event and a message for each number, the events confirmed and compacted away now and then."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "journal"
        self._seen: set[int] = set()

    def writer(self) -> Write:
        journal = Journal(self._path)

        def write(number: int) -> None:
            journal.received(UserMessage(id=f"m{number}", text=FILL[: number % 3_000], created_at=number))
            journal.emit(AgentText(f"{number}"), number)
            if number % 7 == 0:
                journal.delivered(journal.state.last_seq)
                journal._compact()

        return write

    def newest(self) -> int:
        journal = Journal(self._path)
        journal.close()
        numbers = [int(name[1:]) for name in journal.state.fates]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
        for event in journal.state.unconfirmed.values():
            assert isinstance(event.event, AgentText)
        return max(numbers, default=0)


KINDS = {"settings": SettingsFile, "state": StateFile, "journal": JournalFile}


def void(_: object) -> None:
    """For a lambda whose value nobody wants."""


def write_for_ever(write: Write, number: int, confirm: int) -> None:
    while True:
        number += 1
        write(number)
        os.write(confirm, b"%12d" % number)


def one_life(file: SettingsFile | StateFile | JournalFile, number: int, moment_s: float) -> int:
    """Fork a writer, kill it `moment_s` after its first confirmed write; the last number that it confirmed."""
    confirmed, confirm = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            write_for_ever(file.writer(), number, confirm)
        finally:
            os._exit(1)
    os.close(confirm)
    select.select([confirmed], [], [], 30)
    select.select([], [], [], moment_s)  # the moment of the fault, not a wait for anything
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the writer failed by itself"
    with os.fdopen(confirmed, "rb") as pipe:
        data = pipe.read()
    return int(data[-12:]) if data else number


def main() -> None:
    kind, directory, kills, seed = sys.argv[1:]
    file = KINDS[kind](Path(directory))
    chance = random.Random(int(seed))
    number = confirmed = 0
    for _ in range(int(kills)):
        last = one_life(file, number, chance.uniform(0, LONGEST_S))
        found = file.newest()
        assert found in {last, last + 1}, f"confirmed {last}, found {found}"
        confirmed += last - number
        number = found
    sys.stdout.write(f"{confirmed}\n")


if __name__ == "__main__":
    main()
