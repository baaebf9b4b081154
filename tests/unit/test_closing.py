"""What a dead supervisor's directory still needs: the end of its turn, and the worktree that nobody will use."""

import pytest

from hapi import closing, journal, wire
from hapi.files import FileLock
from hapi.journal import Journal
from hapi.lifecycle import Phase
from hapi.store import SessionDirectory
from tests.support.git import git

ID = "1f0c22ab-0000-4000-8000-000000000001"


@pytest.fixture
def directory(tmp_path):
    found = SessionDirectory(tmp_path / ID)
    found.create()
    return found


def message(local_id="l1"):
    return wire.UserMessage(id="m1", text="do it", created_at=1, local_id=local_id)


def write(directory, *steps):
    """A journal in which these happened."""
    written = Journal(directory.journal)
    for step in steps:
        step(written)
    written.close()


def receive(written):
    written.received(message())


def take(written):
    written.taken("m1")


def consume(written):
    written.emit(wire.Consumed(["l1"]), 1)


def end(written):
    written.emit(wire.TurnEnded("end_turn"), 1)


def events(directory):
    return [numbered.event for numbered in journal.read(directory.journal).unconfirmed.values()]


@pytest.mark.parametrize(
    ("steps", "unknown", "kinds"),
    [
        ([], 0, []),
        ([receive], 0, []),
        ([receive, take], 1, [wire.Indeterminate, wire.Note, wire.Note, wire.TurnEnded]),
        ([receive, take, consume], 0, [wire.Consumed, wire.Note, wire.TurnEnded]),
        ([receive, take, consume, end], 0, [wire.Consumed, wire.TurnEnded]),
    ],
    ids=["nothing", "queued", "taken", "consumed", "ended"],
)
def test_a_death_after_each_step(directory, steps, unknown, kinds):
    write(directory, *steps)
    assert closing.close(directory) == unknown
    assert [type(event) for event in events(directory)] == kinds
    assert closing.close(directory) == 0
    assert [type(event) for event in events(directory)] == kinds


def test_what_waits_in_the_queue_stays_there(directory):
    write(directory, receive)
    closing.close(directory)
    assert list(journal.read(directory.journal).queue) == ["m1"]


def test_a_message_from_this_machine_is_named_in_words(directory):
    write(directory, lambda written: written.received(message(local_id=None)), take)
    assert closing.close(directory) == 1
    first, note, *_ = events(directory)
    assert first == wire.Indeterminate([])
    assert "do it" in note.text


def test_a_message_of_unknown_fate_may_come_again(directory):
    write(directory, receive, take)
    closing.close(directory)
    write(directory, lambda written: written.received(message()))
    assert list(journal.read(directory.journal).queue) == ["m1"]


def test_the_open_turn_survives_compaction(directory, monkeypatch):
    monkeypatch.setattr(journal, "COMPACT_BYTES", 1)
    write(directory, receive, lambda written: written.emit(wire.UserText("x"), 1), take, lambda j: j.delivered(1))
    state = journal.read(directory.journal)
    assert (state.in_flight, state.turn_open) == (message(), True)
    write(directory, consume, lambda j: j.delivered(2))
    state = journal.read(directory.journal)
    assert (state.in_flight, state.turn_open) == (None, True)
    assert state.fates == {"m1": "taken"}


def test_a_directory_that_has_a_supervisor_is_left_alone(directory):
    write(directory, receive, take)
    lock = FileLock(directory.lock)
    assert lock.acquire()
    assert closing.close(directory) == 0
    assert events(directory) == []
    lock.release()


def test_no_directory_is_made(tmp_path):
    assert closing.close(SessionDirectory(tmp_path / "gone")) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("phase", "generation", "dirty", "kept"),
    [
        (Phase.STARTING, 1, False, False),
        (Phase.STARTING, 1, True, True),
        (Phase.STARTING, 2, False, True),
        (Phase.IDLE, 1, False, True),
    ],
)
def test_the_worktree_of_a_spawn_that_died(directory, tmp_path, phase, generation, dirty, kept):
    repository, place = tmp_path / "r", tmp_path / "r-worktrees" / "w"
    repository.mkdir()
    git(repository, "init", "-q")
    git(repository, "commit", "-q", "--allow-empty", "-m", "x")
    git(repository, "worktree", "add", "-q", "-b", "hapi-w", str(place))
    if dirty:
        (place / "work.txt").write_text("hours of it")
    info = wire.SessionInfo(
        session_id=ID, namespace="default", agent="demo", directory=str(place), phase=phase, started_by="runner",
        started_at=1, generation=generation, worktree=wire.WorktreeInfo(str(repository), "hapi-w", "w", str(place), 1),
    )  # fmt: skip
    directory.write_state(info)
    closing.close(directory)
    assert place.exists() is kept


@pytest.mark.parametrize(("text", "quoted"), [("a  b\nc", "“a b c”"), ("x" * 100, "“" + "x" * 60 + "…”")])
def test_quotes(text, quoted):
    assert closing.quote(text) == quoted
