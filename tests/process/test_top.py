"""`hapi top` in a terminal: what it shows, what its keys do, and the terminal that it leaves behind."""

from __future__ import annotations

import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hapi import procs, wire
from tests.support.person import Person
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until


@pytest.fixture(scope="module")
def desk() -> Iterator[Runner]:
    path = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    with Runner(path / "h") as home:
        home.start()
        yield home
    shutil.rmtree(path, ignore_errors=True)


def left_clean(person: Person) -> None:
    """The alternate screen was left last, the cursor is seen, and the terminal is as a shell had it."""
    raw = bytes(person.raw)
    assert raw.rindex(b"\x1b[?1049l") > raw.rindex(b"\x1b[?1049h")
    assert not person.screen.cursor.hidden
    assert person.attributes() == person.before


def test_a_session_is_watched_and_stopped(desk: Runner) -> None:
    chat = desk.spawn()["sessionId"]
    with Person(desk, "top", size=(120, 12), COLUMNS="80", LINES="24") as person:
        person.sees("1 session · 1 idle")
        person.sees("ID        AGENT  PHASE")
        desk.ask(wire.SendText(chat, "/say a word ; /tool Read ok ; /slow 30 60"), wire.Accepted)
        person.sees("demo   working")
        person.sees("a word")
        person.resize(60, 8)
        person.sees("q quit")
        person.types("\r")
        person.sees("has no terminal")
        person.types("x")
        person.sees(f"Stop session {chat[:8]}")
        person.types("n")
        person.misses("Stop session")
        person.types("xy")
        person.sees("stopped")
        person.sees("0 sessions")
        person.types("q")
        assert person.ends() == 0
        left_clean(person)


def test_a_terminal_is_lent_and_taken_back(desk: Runner) -> None:
    desk.hapi("run", "--detach", "--", "sh", "-c", "echo hello; exec cat", check=0)
    with Person(desk, "top", size=(100, 12)) as person:
        person.sees("hello")
        person.types("\r")
        person.sees("Ctrl-\\ d")
        person.types("typed\r")
        person.sees("typed\ntyped")
        person.types(b"\x1cd")
        person.sees("hapi top [default]")
        person.types(b"\x1cd")  # once more than needed: no reason to die
        person.types("l")
        person.misses("hapi top")
        person.types(b"\x1a")  # the lent terminal is not ours to suspend
        person.types(b"\x03")
        person.sees("Enter: back")
        person.types("\r")
        person.sees("hapi top [default]")
        person.types(b"\x1a")
        until(person.stopped, 10, "it is suspended")
        assert person.attributes() == person.before
        person.kills(signal.SIGCONT)
        person.resize(101, 12)
        until(lambda: person.attributes() != person.before, 10, "it has the terminal again")
        person.types(b"\x03")
        assert person.ends() == 0
        left_clean(person)


def test_it_survives_the_runner(desk: Runner) -> None:
    key = desk.spawn()["sessionId"]
    with Person(desk, "top", size=(100, 12)) as person:
        person.sees(key[:8])
        broker = identity(desk.status()["pid"])
        procs.send_signal(broker, signal.SIGKILL)
        gone(broker)
        person.sees("! The runner is not running")
        person.sees(key[:8])
        with Person(desk, "top", size=(100, 12)) as late:
            late.sees("! The runner is not running")
            late.sees(key[:8])
        desk.ensure()
        person.misses("! The runner")
        person.sees(key[:8])
        person.kills(signal.SIGTERM)
        assert person.ends() == 128 + signal.SIGTERM
        left_clean(person)


def test_without_a_terminal_it_says_what_to_write(desk: Runner) -> None:
    done = desk.hapi("top", check=2)
    assert "hapi runner list --json" in done.err


@pytest.mark.parametrize("kind", ["no-such-terminal", "dumb"])
def test_a_terminal_that_cannot_be_used(desk: Runner, kind: str) -> None:
    with Person(desk, "top", TERM=kind) as person:
        person.sees(f"The terminal ({kind}) cannot be used")
        assert person.ends() == 2


def test_processor_time_is_measured() -> None:
    mine = procs.own_identity().pid
    before = procs.cpu_seconds(mine)
    assert before is not None
    until(lambda: (procs.cpu_seconds(mine) or 0) > before, 10, "this loop costs time")
    assert procs.cpu_seconds(2**22 + 1) is None
