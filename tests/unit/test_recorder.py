"""A screen that lags behind its program: nothing is lost but old text, and that is counted."""

import time

from hapi.terminal.recorder import MAX_BACKLOG, Recorder
from hapi.terminal.screen import Screen


def test_output_is_drawn_when_there_is_time():
    recorder = Recorder(20, 5)
    recorder.write(b"hello \x1b[")
    recorder.write(b"31mred")
    assert recorder.pending and recorder.screen.text() == ""
    assert recorder.step(4) and recorder.screen.text() == "hell"
    recorder.settle()
    assert not recorder.pending and recorder.screen.text() == "hello red"
    assert not recorder.step()


def test_what_is_drawn_late_is_the_same():
    data = "".join(f"\x1b[3{n % 8}m{n} 日本\x1b[m\r\n" for n in range(3000)).encode()
    recorder, screen = Recorder(40, 10), Screen(40, 10)
    for at in range(0, len(data), 999):
        recorder.write(data[at : at + 999])
        recorder.step(700)
    recorder.settle()
    screen.feed(data)
    assert recorder.screen.replay() == screen.replay()
    assert recorder.lost == 0


def test_of_a_long_backlog_the_oldest_is_lost_but_not_its_modes():
    recorder = Recorder(40, 10)
    recorder.write(b"\x1b[?2004h\x1b]2;title\x07\x1b[1;32m")
    chunk = b"0123456789 0123456789\r\n" * 2000
    written = 0
    while written < 5 * MAX_BACKLOG:
        recorder.write(chunk)
        written += len(chunk)
    assert written - MAX_BACKLOG <= recorder.lost <= written - MAX_BACKLOG + 2 * len(chunk)
    recorder.settle()
    assert recorder.screen.bracketed_paste and recorder.screen.title == "title"
    assert recorder.screen.last_line() == "0123456789 0123456789"
    assert b"\x1b[0;1;32m0123456789" in recorder.screen.replay(history=False)
    assert b"of earlier output are not kept" in recorder.screen.replay(lost=recorder.lost)


def test_another_size_is_in_force_from_there_on():
    recorder = Recorder(10, 5)
    recorder.write(b"0123456789ab\r\n")
    recorder.resize(5, 5)
    recorder.write(b"\x1b[99Cx")
    recorder.settle()
    assert recorder.screen.text() == "0123456789ab\n    x"


def test_a_flood_costs_little_when_nobody_looks():
    """Seen to fail: when what is over the backlog is drawn instead of skipped."""
    chunk = b"".join(
        b"\x1b[0m\x1b[01;34m%d\x1b[0m and some \x1b[31mcolours\x1b[0m in each line\r\n" % n for n in range(1200)
    )
    screen, recorder = Screen(80, 24), Recorder(80, 24)
    begin = time.process_time()
    for _ in range(20):
        screen.feed(chunk)
    drawing = time.process_time() - begin
    for _ in range(MAX_BACKLOG // len(chunk)):
        recorder.write(chunk)
    begin = time.process_time()
    for _ in range(100):
        recorder.write(chunk)
    assert time.process_time() - begin < 5 * drawing * 0.4  # measured: 0.05
    recorder.settle()
    assert recorder.screen.last_line() == "1199 and some colours in each line"
    assert recorder.lost >= 99 * len(chunk)
