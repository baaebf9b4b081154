"""The codec: whatever the bytes, the answer is a message or a HapiError of the right code; never another exception."""

import typing
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapi import wire
from hapi.errors import ErrorCode, HapiError, NotRunning, exit_status
from hapi.ids import ProcessId

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("*.msgpack"))
HEADER = (Path(__file__).parent.parent / "golden" / "header" / "hapi-1.msgpack").read_bytes()
RECEIVERS = {
    "control": (wire.FOR_CONTROL, wire.ControlRequest),
    "cli": (wire.FOR_CLI, wire.ControlReply),
    "broker": (wire.FOR_BROKER, wire.ToBroker),
    "session": (wire.FOR_SESSION, wire.ToSession),
    "hub": (wire.FOR_HUB, wire.ToHub),
    "reaper": (wire.FOR_REAPER, wire.ToReaper),
}
DECODERS = [decoder for decoder, _ in RECEIVERS.values()]
decoders = st.sampled_from(DECODERS)
goldens = st.sampled_from(GOLDEN)
DEEP = 100_000


def code(call, *arguments):
    """The code of the HapiError that a call raises; None when it returns."""
    try:
        call(*arguments)
    except HapiError as error:
        assert error.message
        return error.code
    return None


@given(decoders, st.binary(max_size=400))
def test_arbitrary_bytes_as_a_body(decoder, data):
    assert code(wire.decode, decoder, data) in {None, ErrorCode.BAD_REQUEST}


@given(st.binary(max_size=200))
def test_arbitrary_bytes_as_a_header(data):
    assert code(wire.decode_header, data) in {None, ErrorCode.PROTOCOL_MISMATCH}


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(), st.lists), decoders)
def test_arbitrary_values_as_body_and_header(value, decoder):
    data = msgspec.msgpack.encode(value)
    assert code(wire.decode, decoder, data) is ErrorCode.BAD_REQUEST
    assert code(wire.decode_header, data) is ErrorCode.PROTOCOL_MISMATCH


@settings(max_examples=300)
@given(goldens, decoders, st.data())
def test_flipped_bytes_in_a_body(path, decoder, data):
    raw = bytearray(path.read_bytes())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    assert code(wire.decode, decoder, bytes(raw)) in {None, ErrorCode.BAD_REQUEST}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_a_truncated_body_is_refused_at_every_length(path):
    data = path.read_bytes()
    for decoder in DECODERS:
        assert {code(wire.decode, decoder, data[:length]) for length in range(len(data))} == {ErrorCode.BAD_REQUEST}


def test_a_truncated_header_is_refused_at_every_length():
    found = {code(wire.decode_header, HEADER[:length]) for length in range(len(HEADER))}
    assert found == {ErrorCode.PROTOCOL_MISMATCH}


def test_every_flip_of_one_header_byte():
    for at in range(len(HEADER)):
        for bit in range(8):
            data = bytearray(HEADER)
            data[at] ^= 1 << bit
            found = code(wire.decode_header, bytes(data))
            assert found in {None, ErrorCode.PROTOCOL_MISMATCH}
            if at < 8:  # the array's head, the protocol's name and version
                assert found is ErrorCode.PROTOCOL_MISMATCH


@pytest.mark.parametrize("first", ["hapi/2", "hapi/10", "hapi", "HAPI/1", "", 1, None, ["hapi/1"]])
def test_another_version_is_refused(first):
    data = msgspec.msgpack.encode([first, "broker", "cli", 1, False])
    with pytest.raises(HapiError) as caught:
        wire.decode_header(data)
    assert caught.value.code is ErrorCode.PROTOCOL_MISMATCH
    assert "restart" in caught.value.hint


@pytest.mark.parametrize(
    ("values", "header"),
    [
        (["hapi/1", "a", "b"], wire.Header("a", "b")),
        (["hapi/1", "a", "b", 7], wire.Header("a", "b", 7)),
        (["hapi/1", "a", "b", 7, True, "from the future", {"x": [1]}], wire.Header("a", "b", 7, reply=True)),
        (["hapi/1", "a"], None),
        (["hapi/1", "a", 5], None),
        (["hapi/1", "a", "b", "7"], None),
        (["hapi/1", "a", "b", 7, 1], None),
        ({"to": "a", "sender": "b"}, None),
    ],
)
def test_headers_old_and_new(values, header):
    data = msgspec.msgpack.encode(values)
    if header is None:
        assert code(wire.decode_header, data) is ErrorCode.PROTOCOL_MISMATCH
    else:
        assert wire.decode_header(data) == header


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("message", [{"type": "unheard_of"}, {"type": 5}, {"type": None}, {}, [], "hello", None])
def test_unknown_tags(receiver, message):
    assert code(wire.decode, RECEIVERS[receiver][0], msgspec.msgpack.encode(message)) is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("receiver", RECEIVERS)
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_each_receiver_takes_its_own_messages_and_no_others(receiver, path):
    decoder, union = RECEIVERS[receiver]
    data = path.read_bytes()
    wanted = {kind.__struct_config__.tag: kind for kind in typing.get_args(union)}
    if path.stem in wanted:
        assert type(wire.decode(decoder, data)) is wanted[path.stem]
        assert wire.encode(wire.decode(decoder, data)) == data
    else:
        assert code(wire.decode, decoder, data) is ErrorCode.BAD_REQUEST


@given(goldens, decoders, st.text(min_size=1, max_size=20).filter(lambda key: key != "type"), st.integers())
def test_unknown_fields_are_skipped(path, decoder, key, value):
    content = msgspec.msgpack.decode(path.read_bytes())
    plain = code(wire.decode, decoder, path.read_bytes())
    extra = msgspec.msgpack.encode(content | {f"future {key}": {"x": [value % 2**32, {"deep": key}]}})
    assert code(wire.decode, decoder, extra) == plain
    if plain is None:
        assert wire.decode(decoder, extra) == wire.decode(decoder, path.read_bytes())


@pytest.mark.parametrize(
    ("decoder", "old", "expected"),
    [
        (wire.FOR_CONTROL, {"type": "stop_runner"}, wire.StopRunner("hapi-cli")),
        (wire.FOR_CONTROL, {"type": "stop_session", "target": "x"}, wire.StopSession("x", "user")),
        (wire.FOR_CONTROL, {"type": "list_sessions"}, wire.ListSessions(ended=False)),
        (
            wire.FOR_CONTROL,
            {"type": "spawn", "session_id": "s", "directory": "/", "agent": "demo", "started_by": "runner"},
            wire.Spawn(session_id="s", directory="/", agent="demo", started_by="runner"),
        ),
        (wire.FOR_SESSION, {"type": "welcome", "instance": "i"}, wire.Welcome(instance="i")),
        (
            wire.FOR_BROKER,
            {"type": "hello", "name": "hub", "process": {"pid": 1, "start_ticks": 2, "boot_id": "b"}, "version": "1"},
            wire.Hello(name="hub", process=ProcessId(1, 2, "b"), version="1"),
        ),
        (wire.FOR_CLI, {"type": "failure", "code": "x", "message": "m"}, wire.Failure("x", "m", "")),
    ],
)
def test_fields_that_an_old_peer_does_not_know_get_their_defaults(decoder, old, expected):
    assert wire.decode(decoder, msgspec.msgpack.encode(old)) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "stop_session"},
        {"type": "stop_session", "target": 5},
        {"type": "stop_session", "target": "x", "by": "nobody"},
        {"type": "spawn", "session_id": "s", "directory": "/", "agent": "demo", "started_by": "cron"},
        {"type": "spawn", "session_id": "s", "directory": "/", "agent": "demo", "started_by": "runner", "args": "x"},
    ],
)
def test_missing_and_mistyped_fields(wrong):
    assert code(wire.decode, wire.FOR_CONTROL, msgspec.msgpack.encode(wrong)) is ErrorCode.BAD_REQUEST


def test_defaults_are_not_shared_between_messages():
    first = wire.Snapshot(info=None)
    first.requests.append("x")
    assert wire.Snapshot(info=None).requests == []


def test_the_limit_is_exact():
    room = wire.MAX_BODY_BYTES - len(wire.encode(wire.AgentText("x" * 70_000))) + 70_000
    data = wire.encode(wire.AgentText("x" * room))
    assert len(data) == wire.MAX_BODY_BYTES
    assert code(wire.encode, wire.AgentText("x" * (room + 1))) is ErrorCode.TOO_LARGE


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_an_oversized_body_is_refused_unread(receiver):
    assert code(wire.decode, RECEIVERS[receiver][0], bytes(wire.MAX_BODY_BYTES + 1)) is ErrorCode.TOO_LARGE
    assert code(wire.decode, RECEIVERS[receiver][0], bytes(wire.MAX_BODY_BYTES)) is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_a_body_nested_without_end_is_refused(receiver):
    data = b"\x82\xa4type\xa4beat\xa1x" + b"\x91" * DEEP + b"\xc0"
    assert code(wire.decode, RECEIVERS[receiver][0], data) is ErrorCode.BAD_REQUEST


def test_a_header_nested_without_end_is_refused():
    """One element more than a header has, and a RecursionError went through the loop of whoever got it."""
    data = bytes([HEADER[0] + 1]) + HEADER[1:] + b"\x91" * DEEP + b"\xc0"
    assert code(wire.decode_header, data) is ErrorCode.PROTOCOL_MISMATCH


@pytest.mark.parametrize("error_code", ErrorCode)
def test_every_error_crosses_the_wire(error_code):
    sent = HapiError(error_code, "What went wrong.", "What to do.")
    got = wire.decode(wire.FOR_CLI, wire.encode(wire.failure(sent))).error()
    assert (got.code, got.message, got.hint) == (sent.code, sent.message, sent.hint)


def test_a_code_that_a_newer_peer_invented():
    error = wire.Failure("quantum_decoherence", "It is and is not.").error()
    assert (error.code, error.message) == (ErrorCode.INTERNAL, "It is and is not.")
    assert exit_status("quantum_decoherence") == 1


@pytest.mark.parametrize(
    ("error_code", "status"), [("usage", 2), ("not_running", 3), ("internal", 4), ("unknown_session", 1)]
)
def test_exit_statuses(error_code, status):
    assert exit_status(error_code) == status
    assert NotRunning().code is ErrorCode.NOT_RUNNING
