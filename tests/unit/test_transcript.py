"""The account of a chat: what is written down, how much of it is kept, and that no reader misses a line."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapi import transcript, wire
from hapi.transcript import Answered, Result, Said, Tail, TurnOver, Used, decode, last_line, older
from hapi.workers.supervisor.transcriber import TEXT_CHARACTERS, VALUE_BYTES, Transcriber

MESSAGE = wire.UserMessage(
    id="m1", text="Look.", created_at=1, attachments=[wire.Attachment("a", "x.png", "image/png", 3, "/tmp/x.png")]
)


@pytest.fixture
def opened():
    """Closes what it is given."""
    with contextlib.ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture
def path(tmp_path):
    return tmp_path / "transcript"


def written(path):
    return [decode(line) for line in path.read_bytes().splitlines()]


def bare(lines):
    """Without their times."""
    return [{key: value for key, value in json.loads(line).items() if key != "at"} for line in lines]


def test_a_turn_as_it_is_written_down(path):
    writer = Transcriber(path)
    writer.note(wire.Consumed(["l1"]), MESSAGE)
    writer.note(wire.Reasoning("b", "hm"))
    writer.note(wire.AgentText("**One** moment."))
    writer.note(wire.ToolCall("c1", "Bash", {"command": "ls"}, title="List"))
    writer.note(wire.ToolCall("c1", "Bash", {"command": "ls"}, "in_progress", title="List"))
    writer.note(wire.ToolResult("c1", "a.txt", is_error=True))
    writer.note(wire.Usage(input_tokens=1))
    writer.note(wire.Note("careful", is_error=True))
    writer.note(wire.TurnEnded("end_turn"))
    writer.close()
    assert bare(path.read_bytes().splitlines()) == [
        {"type": "user", "id": "m1", "text": "Look.", "files": ["/tmp/x.png"]},
        {"type": "agent", "text": "**One** moment."},
        {"type": "tool", "callId": "c1", "name": "Bash", "title": "List", "input": {"command": "ls"}},
        {"type": "tool_result", "callId": "c1", "output": "a.txt", "isError": True},
        {"type": "note", "text": "careful", "isError": True},
        {"type": "turn", "stopReason": "end_turn"},
    ]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_message_that_is_put_on_record_at_the_second_try_was_said_once(path):
    writer = Transcriber(path)
    for event in (wire.Consumed(["l1"]), wire.Consumed(["l1"]), wire.TurnEnded("end_turn"), wire.Consumed(["l1"])):
        writer.note(event, MESSAGE)
    assert [type(line) for line in written(path)] == [Said, TurnOver, Said]


def test_a_call_is_told_again_when_there_is_more_to_tell(path):
    writer = Transcriber(path)
    writer.note(wire.ToolCall("c1", "Bash", {}))
    writer.note(wire.ToolCall("c1", "Bash", {"command": "ls"}))
    writer.note(wire.ToolCall("c1", "Bash", {"command": "ls"}))
    assert [line.input for line in written(path)] == [{}, {"command": "ls"}]


def test_what_is_long_is_cut(path):
    writer = Transcriber(path)
    writer.note(wire.AgentText("x" * (TEXT_CHARACTERS + 5)))
    writer.note(wire.ToolCall("c1", "Write", {"text": "ä" * VALUE_BYTES}))
    writer.note(wire.ToolResult("c1", "ö" * VALUE_BYTES))
    text, call, result = written(path)
    assert (len(text.text), text.text[-1]) == (TEXT_CHARACTERS + 1, "…")
    assert call.input.startswith('{"text":"ää')
    assert {len(call.input.encode()) <= VALUE_BYTES + 3, len(result.output.encode()) <= VALUE_BYTES + 3} == {True}


def test_the_files_are_bounded(path):
    writer = Transcriber(path, limit=2_000)
    for number in range(200):
        writer.note(wire.AgentText(f"line {number}"))
    sizes = [path.stat().st_size, older(path).stat().st_size]
    assert all(1_000 < size <= 2_000 for size in sizes)
    kept = [line.text for line in [*written(older(path)), *written(path)]]
    assert kept == [f"line {number}" for number in range(200 - len(kept), 200)]


def test_one_line_may_be_longer_than_a_file(path):
    writer = Transcriber(path, limit=100)
    for text in ("a", "b" * 500, "c"):
        writer.note(wire.AgentText(text))
    assert [len(line.text) for line in [*written(older(path)), *written(path)]] == [500, 1]


def test_a_line_that_was_cut_does_not_take_the_next_one_with_it(path):
    path.write_bytes(b'{"type":"agent","at":"x","text":"half')
    Transcriber(path).note(wire.AgentText("whole"))
    assert [line and line.text for line in written(path)] == [None, "whole"]


def test_a_transcript_that_is_removed_is_begun_anew(path):
    writer = Transcriber(path)
    writer.note(wire.AgentText("one"))
    path.unlink()
    writer.note(wire.AgentText("two"))
    assert [line.text for line in written(path)] == ["two"]


def test_a_disk_that_refuses_harms_nothing(path):
    path.mkdir()
    writer = Transcriber(path)
    writer.note(wire.AgentText("lost"))
    writer.note(wire.AgentText("lost, too"))
    path.rmdir()
    writer.note(wire.AgentText("kept"))
    assert writer.lost == 2
    assert [line.text for line in written(path)] == ["kept"]


def test_what_cannot_be_written_down_is_left_out(path):
    writer = Transcriber(path)
    writer.note(wire.ToolResult("c1", {"n": 2**70}))
    writer.note(wire.ToolResult("c2", "\ud800"))
    writer.note(wire.AgentText("fine"))
    assert writer.lost >= 1
    assert written(path)[-1].text == "fine"


def test_lines_of_another_version_are_passed_over():
    assert decode(b'{"type":"dance","at":"x"}') is None
    assert decode(b"garbage \xff") is None
    assert decode(b'{"type":"agent","at":"x","text":"hi","new":1}') == Answered("x", "hi")


# ------------------------------------------------------------------------------------------------------- reading


def test_all_of_it_and_then_what_is_added(path, opened):
    writer = Transcriber(path, limit=150)
    for number in range(3):
        writer.note(wire.AgentText(f"line {number}"))
    tail = opened(Tail(path, whole=True))
    assert [decode(line).text for line in tail.lines()] == ["line 0", "line 1", "line 2"]
    assert tail.lines() == []
    writer.note(wire.AgentText("line 3"))
    assert [decode(line).text for line in tail.lines()] == ["line 3"]


def test_only_what_is_added(path, opened):
    writer = Transcriber(path)
    writer.note(wire.AgentText("old"))
    tail = opened(Tail(path))
    writer.note(wire.AgentText("new"))
    assert [decode(line).text for line in tail.lines()] == ["new"]


def test_a_transcript_that_is_not_there_yet(path, opened):
    tail = opened(Tail(path))
    assert tail.lines() == []
    Transcriber(path).note(wire.AgentText("first"))
    assert [decode(line).text for line in tail.lines()] == ["first"]


def test_half_a_line_waits_for_its_other_half(path, opened):
    tail = opened(Tail(path))
    whole = b'{"type":"turn","at":"x","stopReason":"end_turn"}\n'
    with path.open("ab", buffering=0) as file:
        file.write(whole[:10])
        assert tail.lines() == []
        file.write(whole[10:])
    assert [decode(line) for line in tail.lines()] == [TurnOver(at="x", stop_reason="end_turn")]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=30))
def test_a_reader_that_keeps_up_misses_nothing(tmp_path_factory, batches):
    """However the lines fall between its looks, as long as a whole file does not pass by in one."""
    path = tmp_path_factory.mktemp("t") / "transcript"
    writer, tail = Transcriber(path, limit=600), Tail(path)
    said, seen = [], []
    for batch in batches:
        for _ in range(batch):
            said.append(f"line {len(said)}")
            writer.note(wire.AgentText(said[-1]))
        seen += [decode(line).text for line in tail.lines()]
    tail.close()
    writer.close()
    assert seen == said


def test_every_kind_of_line_can_be_read_back():
    at = "2026-01-01T00:00:00.000Z"
    lines = [
        Said(at=at, id="m", text="t", files=["/f"]),
        Answered(at, "t"),
        Used(at=at, call_id="c", name="n", title="t", input=[1]),
        Result(at=at, call_id="c", output={"a": 1}, is_error=True),
        transcript.Remark(at=at, text="t", is_error=True),
        TurnOver(at=at, stop_reason="s", more=True),
    ]
    from hapi.workers.supervisor.transcriber import _encoder

    assert [decode(_encoder.encode(line)) for line in lines] == lines


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Done.", "Done."),
        ("One.\n\nTwo.\n```\n", "Two."),
        ("\x1b[31mred\x1b[0m\x07", "[31mred[0m"),
        ("…\n---\n", None),
        ("", None),
        ("x" * 500, "x" * 200),
    ],
)
def test_last_words(text, line):
    assert last_line(text) == line
