"""The protocol of terminals: frames cut anywhere; and what a program in a terminal, and a shell, gets to see."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi.errors import ErrorCode, HapiError
from hapi.ids import SESSION_MARK
from hapi.terminal.protocol import (
    FROM_VIEWER,
    LENGTH_BYTES,
    MAX_FRAME_BYTES,
    TO_VIEWER,
    Attach,
    CloseTerminal,
    Ended,
    Frames,
    Input,
    Output,
    Redraw,
    Resize,
    frame,
)
from hapi.wire import WorktreeInfo
from hapi.workers.supervisor import shells
from hapi.workers.supervisor.escapes import whole
from hapi.workers.supervisor.pty import terminal_environment
from hapi.workers.supervisor.terminals import ended

MESSAGES = st.one_of(
    st.builds(Attach, terminal=st.text(max_size=20), cols=st.integers(0, 2000), read_only=st.booleans()),
    st.builds(Input, st.binary(max_size=300)),
    st.builds(Resize, st.integers(0, 9999), st.integers(0, 9999)),
    st.just(Redraw()),
    st.just(CloseTerminal()),
)


@given(st.lists(MESSAGES, max_size=6), st.data())
def test_a_stream_that_is_cut_anywhere_holds_the_same_messages(messages, data):
    stream = b"".join(map(frame, messages))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    frames, found = Frames(FROM_VIEWER), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += frames.feed(stream[start:end])
    assert found == messages


def test_a_reader_that_stops_in_the_middle_finds_the_rest_later():
    frames = Frames(FROM_VIEWER)
    for message in frames.feed(frame(Input(b"1")) + frame(Input(b"2")) + frame(Redraw())):
        assert message == Input(b"1")
        break
    assert list(frames.feed(b"")) == [Input(b"2"), Redraw()]


@given(st.binary(max_size=200))
def test_noise_is_refused_or_waited_for_never_worse(noise):
    frames = Frames(FROM_VIEWER)
    try:
        list(frames.feed(noise))
    except HapiError as error:
        assert error.code in {ErrorCode.TOO_LARGE, ErrorCode.BAD_REQUEST}


def test_the_limit_of_a_frame_holds_on_both_sides():
    room = MAX_FRAME_BYTES - len(frame(Output(b""))) + LENGTH_BYTES - 3  # a long `data` has a longer head
    (whole,) = Frames(TO_VIEWER).feed(frame(Output(bytes(room))))
    assert len(whole.data) == room
    with pytest.raises(HapiError) as refused:
        frame(Output(bytes(room + 1)))
    assert refused.value.code is ErrorCode.TOO_LARGE
    with pytest.raises(HapiError) as refused:
        list(Frames(TO_VIEWER).feed((MAX_FRAME_BYTES + 1).to_bytes(4, "big")))
    assert refused.value.code is ErrorCode.TOO_LARGE


def test_what_a_newer_peer_adds_is_skipped():
    body = b"\x83\xa4type\xa6resize\xa4cols\x50\xa4rows\x18".replace(b"\x83", b"\x84") + b"\xa5depth\x01"
    assert list(Frames(FROM_VIEWER).feed(len(body).to_bytes(4, "big") + body)) == [Resize(80, 24)]


@pytest.mark.parametrize(
    ("status", "end"),
    [
        (0, Ended(code=0, reason="exit code 0")),
        (7 << 8, Ended(code=7, reason="exit code 7")),
        (9, Ended(signal=9, reason="SIGKILL")),
        (1 | 0x80, Ended(signal=1, reason="SIGHUP")),
        (60, Ended(signal=60, reason="signal 60")),
    ],
)
def test_a_wait_status_in_words(status, end):
    assert ended(status) == end


@pytest.mark.parametrize(
    "sequence",
    [
        b"\x1b[6n",
        b"\x1b[?2004$p",
        b"\x1b]11;?\x07",
        b"\x1b]11;?\x1b\\",
        b"\x1bP$qm\x1b\\",
        b"\x1b_Ga=q;\x1b\\",
        b"\x1b(B",
        b"\x1bZ",
    ],
)
def test_a_sequence_is_not_cut(sequence):
    for text in (b"", b"text", b"\x1b[31mred"):
        data = text + sequence
        assert whole(data) == len(data)
        assert whole(data + b"more") == len(data) + 4
        for cut in range(len(text) + 1, len(data)):
            assert whole(data[:cut]) == len(text)


def test_a_sequence_without_end_is_cut():
    data = b"\x1b]52;c;" + b"A" * 1000
    assert whole(data) == len(data)


# ----------------------------------------------------------------------------------------------------- environment


@pytest.mark.parametrize(
    "name",
    [
        "ANTHROPIC_API_KEY",
        "OPENAI_API_KEY",
        "GITHUB_TOKEN",
        "CLI_API_TOKEN",
        "npm_config__auth_token",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "PGPASSWORD",
        "MY_SECRET",
        "SSH_PRIVATE_KEY",
        "GROQ_APIKEY",
        "DB_PASSWD",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "npm_config_//registry.example/:_authToken",
        "NGROK_AUTHTOKEN",
        "OPENAI_KEY",
        "GPG_PASSPHRASE",
    ],
)
def test_trap_17_what_holds_a_secret_is_known_by_its_name(name):
    assert shells.is_secret(name)
    assert name not in shells.shell_environment({name: "canary", "PATH": "/bin"}, "id", None)


@pytest.mark.parametrize(
    "name",
    [
        "PATH",
        "HOME",
        "SSH_AUTH_SOCK",
        "LANG",
        "EDITOR",
        "KEYBOARD",
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS",
        "MONKEY",
        "PASSWORD_STORE_DIR",
        "DEPLOY_PUBLIC_KEY",
    ],
)
def test_what_is_none_stays(name):
    assert shells.shell_environment({name: "value"}, "id", None)[name] == "value"


def test_a_shell_has_the_session_mark_the_worktree_and_a_terminal():
    worktree = WorktreeInfo("/p", "hapi-fix", "fix", "/p-worktrees/fix", 17)
    found = shells.shell_environment({"HAPI_HOME": "/h", "TERM": "dumb"}, "id", worktree)
    assert found[SESSION_MARK] == "id"
    assert found["HAPI_WORKTREE_NAME"] == "fix"
    assert (found["HAPI_HOME"], found["TERM"], found["COLORTERM"]) == ("/h", "xterm-256color", "truecolor")


def test_a_program_hears_nothing_of_the_terminal_that_its_caller_sat_at():
    caller = {"TMUX": "/tmp/x,1,0", "LINES": "10", "COLUMNS": "20", "TERM_PROGRAM": "Apple", "LANG": "de_DE.UTF-8"}
    assert terminal_environment(caller) == {
        "LANG": "de_DE.UTF-8",
        "TERM": "xterm-256color",
        "COLORTERM": "truecolor",
    }


@pytest.mark.parametrize("wish", ["/no/such/shell", "bash", "", "/etc/passwd", None])
def test_a_shell_that_cannot_be_run_gives_way_to_the_one_of_the_users_entry(wish):
    found = shells.shell({} if wish is None else {"SHELL": wish})
    assert os.access(found, os.X_OK)
    assert found != wish


def test_the_shell_is_the_one_that_the_user_wishes():
    assert shells.shell({"SHELL": "/bin/sh"}) == "/bin/sh"
