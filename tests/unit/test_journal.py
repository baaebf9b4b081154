"""The journal: whatever happens to the file, what was before the damage counts and nothing is lost without a trace."""

import struct
import subprocess
import sys
import tempfile
import zlib
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hapi import journal as module
from hapi.journal import Journal, JournalState
from hapi.wire import AgentText, NumberedEvent, ToolResult, UserMessage

FRAME = struct.Struct("<II")


def message(name, text="hello"):
    return UserMessage(id=name, text=text, created_at=1)


def summary(state):
    return (dict(state.queue), dict(state.fates), dict(state.unconfirmed), state.last_seq, state.delivered)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal"


@pytest.fixture
def opened(path):
    """Opens journals and closes them all."""
    made = []

    def open_journal():
        made.append(Journal(path))
        return made[-1]

    yield open_journal
    for journal in made:
        journal.close()


def fill(journal):
    """Some of everything; returns the state after each entry, with the file's size then."""
    states = [(0, summary(JournalState()))]
    for step in (
        lambda: journal.received(message("a")),
        lambda: journal.received(message("b")),
        lambda: journal.taken("a"),
        lambda: journal.emit(AgentText("one"), 1),
        lambda: journal.emit(AgentText("two"), 2),
        lambda: journal.removed("b"),
        lambda: journal.delivered(1),
        lambda: journal.received(message("c")),
    ):
        step()
        states.append((journal._path.stat().st_size, summary(journal.state)))
    return states


def test_what_the_entries_add_up_to(opened):
    journal = opened()
    fill(journal)
    state = journal.state
    assert list(state.queue) == ["c"]
    assert state.fates == {"a": "taken", "b": "removed", "c": "queued"}
    assert [event.event for event in state.unconfirmed.values()] == [AgentText("two")]
    assert (state.last_seq, state.delivered) == (2, 1)


def test_a_new_journal_is_private_and_empty(opened, path):
    journal = opened()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (path.read_bytes(), journal.damaged) == (b"", 0)


def test_truncated_at_every_byte(tmp_path, opened, path):
    states = fill(opened())
    data = path.read_bytes()
    for length in range(len(data) + 1):
        torn = tmp_path / f"torn-{length}"
        torn.write_bytes(data[:length])
        good, expected = max(state for state in states if state[0] <= length)
        reopened = Journal(torn)
        assert summary(reopened.state) == expected
        assert reopened.damaged == length - good
        assert torn.read_bytes() == data[:good]
        aside = [found.read_bytes() for found in tmp_path.glob(f"torn-{length}.bad-*")]
        assert aside == ([data[good:length]] if length > good else [])
        reopened.emit(AgentText("after"), 3)
        reopened.close()
        again = Journal(torn)
        assert (again.damaged, list(again.state.unconfirmed.values())[-1].event) == (0, AgentText("after"))
        again.close()


def test_every_flipped_byte_is_seen(tmp_path, opened, path):
    states = fill(opened())
    data = path.read_bytes()
    for at in range(len(data)):
        bad = bytearray(data)
        bad[at] ^= 0x40
        flipped = tmp_path / "flipped"
        flipped.write_bytes(bad)
        good, expected = max(state for state in states if state[0] <= at)
        reopened = Journal(flipped)
        reopened.close()
        assert summary(reopened.state) == expected
        assert reopened.damaged == len(data) - good
        assert flipped.with_name(f"flipped.bad-{good}").read_bytes() == bytes(bad[good:])


@pytest.mark.parametrize(
    "tail",
    [
        bytes(4096),
        b"\xff" * 64,
        b"not a journal",
        FRAME.pack(17 * 1024 * 1024, 0) + bytes(100),
        FRAME.pack(1, zlib.crc32(b"\xc1")) + b"\xc1",
        FRAME.pack(5, zlib.crc32(b"\x81\xa1a\x01\x00")) + b"\x81\xa1a\x01\x00",
    ],
    ids=["a hole", "ones", "words", "a frame without end", "a sum over nonsense", "trailing bytes in a frame"],
)
def test_what_a_power_cut_leaves_at_the_end(opened, path, tail):
    states = fill(opened())
    with path.open("ab") as file:
        file.write(tail)
    reopened = opened()
    assert summary(reopened.state) == states[-1][1]
    assert reopened.damaged == len(tail)


def test_a_message_is_taken_in_once(opened):
    journal = opened()
    assert journal.received(message("a")) is True
    size = journal._path.stat().st_size
    assert journal.received(message("a", "again")) is False
    journal.taken("a")
    assert journal.received(message("a", "and again")) is False
    assert journal.removed("a") is False
    assert (list(journal.state.queue), size < journal._path.stat().st_size) == ([], True)
    reopened = opened()
    assert reopened.received(message("a")) is False


def test_a_retried_message_is_queued_again(opened):
    journal = opened()
    journal.received(message("a"))
    journal.taken("a")
    journal.requeue(message("a", "once more"))
    assert opened().state.queue["a"].text == "once more"
    assert journal.state.fates["a"] == "queued"


@pytest.mark.parametrize(
    ("seqs", "delivered", "left"),
    [([0], 0, [1, 2, 3]), ([1], 1, [2, 3]), ([3, 1, 2], 3, []), ([99], 3, []), ([-1], 0, [1, 2, 3])],
)
def test_delivered(opened, seqs, delivered, left):
    journal = opened()
    for number in range(3):
        journal.emit(AgentText(str(number)), number)
    for seq in seqs:
        journal.delivered(seq)
    for found in (journal, opened()):
        assert (found.state.delivered, list(found.state.unconfirmed)) == (delivered, left)
        assert found.state.last_seq == 3


def test_numbers_go_on_after_all_is_delivered(opened):
    journal = opened()
    assert journal.emit(AgentText("x"), 5) == NumberedEvent(1, 5, AgentText("x"))
    journal.delivered(1)
    assert opened().emit(AgentText("y"), 6).seq == 2


def test_a_long_journal_is_rewritten_without_what_is_delivered(opened, path, monkeypatch):
    monkeypatch.setattr(module, "COMPACT_BYTES", 5_000)
    journal = opened()
    journal.received(message("kept"))
    journal.received(message("old"))
    journal.taken("old")
    for number in range(100):
        journal.emit(AgentText("x" * 100), number)
    assert path.stat().st_size > 10_000
    journal.delivered(98)
    assert path.stat().st_size < 1_000
    before = summary(journal.state)
    assert summary(opened().state) == before
    assert journal.emit(AgentText("after"), 1).seq == 101
    assert opened().state.last_seq == 101
    assert list(opened().state.queue) == ["kept"]
    assert not opened().received(message("old"))
    assert path.stat().st_mode & 0o777 == 0o600


def test_compaction_that_fails_leaves_a_journal_that_works(opened, path, monkeypatch):
    monkeypatch.setattr(module, "COMPACT_BYTES", 100)
    journal = opened()
    for number in range(20):
        journal.emit(AgentText("x"), number)
    blocked = path.with_name(f".{path.name}.{module.os.getpid()}.tmp")
    blocked.mkdir()  # where the new file would be written
    with pytest.raises(OSError, match="directory"):
        journal.delivered(10)
    blocked.rmdir()
    journal.emit(AgentText("after"), 1)
    reopened = opened()
    assert summary(reopened.state) == summary(journal.state)
    assert (reopened.damaged, reopened.state.last_seq) == (0, 21)
    journal.delivered(15)
    assert summary(opened().state) == summary(journal.state)


def test_fates_are_bounded_but_never_those_of_the_queue(opened, monkeypatch):
    monkeypatch.setattr(module, "REMEMBERED_IDS", 10)
    state = JournalState()
    for number in range(30):
        state.apply(module.Received(message(f"q{number}")))
    for number in range(100):
        state.apply(module.Taken(f"t{number}"))
    assert len(state.fates) == 60
    assert len(state.queue) == 30
    assert f"t{99}" in state.fates


def test_a_large_event_survives_a_restart(opened):
    """An event over 16 MiB was written, and taken for damage when read: it and all after it were gone."""
    journal = opened()
    try:
        journal.emit(ToolResult("c", "x" * (17 * 1024 * 1024)), 1)
    except (OSError, ValueError, module.msgspec.MsgspecError):
        pass  # refusing it is fine, too
    journal.emit(AgentText("after"), 2)
    reopened = opened()
    assert (reopened.damaged, reopened.state.last_seq) == (0, journal.state.last_seq)


FULL = """
import resource, signal, sys
from pathlib import Path
from hapi.journal import Journal
from hapi.wire import AgentText, UserMessage
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
journal = Journal(Path(sys.argv[1]))
failed = 0
for number in range(40):
    before = (journal.state.last_seq, list(journal.state.queue), Path(sys.argv[1]).stat().st_size)
    try:
        if number % 2:
            journal.emit(AgentText("x" * 40), number)
        else:
            journal.received(UserMessage(id=str(number), text="x" * 30, created_at=1))
    except OSError as error:
        failed += 1
        after = (journal.state.last_seq, list(journal.state.queue), Path(sys.argv[1]).stat().st_size)
        assert before == after, (before, after)
print(failed, journal.state.last_seq, len(journal.state.queue))
"""


def test_trap_24_a_full_disk_changes_neither_file_nor_state(opened, path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, check=False, timeout=20,
        env={"PYTHONPATH": str(Path(__file__).parent.parent.parent)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    failed, last, queued = map(int, done.stdout.split())
    assert failed > 10
    reopened = opened()
    assert (reopened.damaged, reopened.state.last_seq, len(reopened.state.queue)) == (0, last, queued)
    assert path.stat().st_size <= 1000


class Machine(RuleBasedStateMachine):
    """A journal against a model of three dictionaries, opened anew now and then, torn or not."""

    ids = st.sampled_from("abcdef")

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory(prefix="hj")
        self.path = Path(self.folder.name) / "journal"
        self.journal = Journal(self.path)
        self.queue = OrderedDict()
        self.fates = {}
        self.events = {}
        self.last = self.confirmed = 0

    @rule(name=ids, text=st.text(max_size=5))
    def receive(self, name, text):
        new = name not in self.fates
        assert self.journal.received(message(name, text)) is new
        if new:
            self.queue[name], self.fates[name] = text, "queued"

    @rule(name=ids)
    def take(self, name):
        self.journal.taken(name)
        self.queue.pop(name, None)
        self.fates[name] = "taken"

    @rule(name=ids)
    def remove(self, name):
        assert self.journal.removed(name) is (name in self.queue)
        if self.queue.pop(name, None) is not None:
            self.fates[name] = "removed"

    @rule(name=ids, text=st.text(max_size=5))
    def retry(self, name, text):
        self.journal.requeue(message(name, text))
        self.queue[name], self.fates[name] = text, "queued"

    @rule(text=st.text(max_size=20))
    def emit(self, text):
        self.last += 1
        assert self.journal.emit(AgentText(text), 1).seq == self.last
        self.events[self.last] = text

    @rule(seq=st.integers(-1, 60))
    def deliver(self, seq):
        self.journal.delivered(seq)
        self.confirmed = max(self.confirmed, min(seq, self.last))
        self.events = {number: text for number, text in self.events.items() if number > self.confirmed}

    @precondition(lambda self: self.last)
    @rule()
    def compact(self):
        self.journal._compact()

    @rule()
    def reopen(self):
        self.journal.close()
        self.journal = Journal(self.path)
        assert self.journal.damaged == 0

    @rule(garbage=st.binary(min_size=1, max_size=30))
    def crash_in_a_write(self, garbage):
        self.journal.close()
        with self.path.open("ab") as file:
            file.write(b"\xff" + garbage)
        self.journal = Journal(self.path)
        assert self.journal.damaged == len(garbage) + 1

    @invariant()
    def agrees(self):
        state = self.journal.state
        assert {name: message.text for name, message in state.queue.items()} == self.queue
        assert list(state.queue) == list(self.queue)
        assert dict(state.fates) == self.fates
        assert {number: event.event.text for number, event in state.unconfirmed.items()} == self.events
        assert (state.last_seq, state.delivered) == (self.last, self.confirmed)

    def teardown(self):
        if hasattr(self, "journal"):
            self.journal.close()
            self.folder.cleanup()


Machine.TestCase.settings = settings(max_examples=15, stateful_step_count=20, deadline=None)
TestAgainstAModel = Machine.TestCase
