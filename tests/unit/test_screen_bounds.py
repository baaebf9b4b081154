"""What a hostile program, or a file of noise shown with `cat`, can cost a supervisor: bounded time, bounded memory."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from hapi.terminal.recorder import MAX_BACKLOG, SETTLE_S, Recorder
from hapi.terminal.screen import Screen, without_questions

CHUNK = 64 * 1024  # what a terminal reads at once


@pytest.mark.parametrize(
    "question",
    [
        b"\x05",
        b"\x1b[c",
        b"\x1b[6n",
        b"\x1bP+q52\x1b\\",
        b"\x1b]11;?\x07",
        b"\x1b]11;?\x1b\\",
        b"\x1b]4;1;?;2;?\x07",
        b"\x1b]52;c;?\x07",
        b"\x1b_Gi=31,a=q,t=d;AAAA\x1b\\",
        b"\x1b_Ga=q;AAAA\x1b\\",
    ],
)
def test_questions_are_taken_out(question):
    assert without_questions(b"a" + question + b"b" + question) == b"ab"


@pytest.mark.parametrize(
    "statement",
    [b"\x1b]2;why?\x07", b"\x1b]8;;http://x/?q\x1b\\", b"\x1b]52;c;aGk=\x07", b"\x1b_Gi=1,a=T;a=q\x1b\\", b"\x1b[31m"],
)
def test_statements_stay(statement):
    assert without_questions(b"a" + statement) == b"a" + statement


@pytest.mark.parametrize(
    "data", [b"\x1b]1;" + b"?;" * (CHUNK // 2), b"\x1b_G" + b",a=q" * (CHUNK // 4), b"\x1b]1;" * (CHUNK // 4)]
)
def test_looking_for_questions_takes_no_longer_than_reading(data):
    """Seen to fail: with two wildcards in a row in the pattern of questions (36 s)."""
    begin = time.thread_time()
    assert without_questions(data) == data
    assert time.thread_time() - begin < 0.5


def test_bells_in_a_string_cost_no_more_than_others():
    """Seen to fail: when each of them has the rest of the string searched."""
    screen = Screen(80, 24)
    begin = time.thread_time()
    for _ in range(4):
        screen.feed(b"\x1bP" + b"\x07" * (CHUNK - 10) + b"\x1b\\")
    assert time.thread_time() - begin < 0.3
    screen.feed(b"shown")
    assert screen.text() == "shown"


@pytest.mark.parametrize("labour", [b"\x1b[99S", b"x\x1b[9999b"])
def test_who_attaches_does_not_wait_for_a_laborious_backlog(labour):
    """Its modes are kept, and what came last is drawn. Seen to fail: without `_skip_oldest` in `settle` (10 s)."""
    recorder = Recorder(80, 24, time.thread_time)
    recorder.write(b"\x1b[?2004h")
    for _ in range(MAX_BACKLOG // CHUNK - 1):
        recorder.write(labour * (CHUNK // len(labour)))
    recorder.write(b"\x1b[H\x1b[2Jthe end")
    begin = time.thread_time()
    recorder.settle()
    assert time.thread_time() - begin < 3 * SETTLE_S
    assert not recorder.pending
    assert recorder.screen.bracketed_paste
    assert recorder.screen.last_line().endswith("the end")
    assert recorder.lost > MAX_BACKLOG // 2


def test_long_parameters_are_not_kept():
    """Seen to fail: when the styles of all parameters are cached."""
    screen = Screen(80, 24)
    tracemalloc.start()
    try:
        for number in range(200):
            screen.feed(b"\x1b[%d;%sm" % (number, b"0" * 16_000))
        assert tracemalloc.get_traced_memory()[0] < 1024 * 1024
    finally:
        tracemalloc.stop()
