"""The screen of a terminal: what stands where after what was written, and what it answers and remembers."""

import pytest
from wcwidth import wcwidth

from hapi.terminal.screen import Screen
from hapi.terminal.screen_cells import NARROW


def screen(*written, cols=20, rows=5, **more):
    made = Screen(cols, rows, **more)
    for data in written:
        made.feed(data.encode() if isinstance(data, str) else data)
    return made


def shown(*written, **size):
    return screen(*written, **size).text()


def copy(of):
    """Another screen that was drawn by a replay."""
    made = Screen(of.cols, of.rows)
    made.feed(of.replay())
    return made


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("hello\r\nworld", "hello\nworld"),
        ("a" * 20 + "b", "a" * 20 + "b"),  # wrapped: one line
        ("a" * 20 + "\r\nb", "a" * 20 + "\nb"),
        ("\x1b[?7l" + "a" * 20 + "bc", "a" * 19 + "c"),
        ("abc\x1b[2D\x1b[4hXY\x1b[4lZ", "aXYZc"),
        ("abcdef\x1b[3G\x1b[2P", "abef"),
        ("abcdef\x1b[3G\x1b[2@", "ab  cdef"),
        ("abcdef\x1b[3G\x1b[2X", "ab  ef"),
        ("abcdef\x1b[3G\x1b[K", "ab"),
        ("abcdef\x1b[3G\x1b[1K", "   def"),
        ("1\r\n2\r\n3\x1b[2;1H\x1b[L", "1\n\n2\n3"),
        ("1\r\n2\r\n3\x1b[2;1H\x1b[M", "1\n3"),
        ("1\r\n2\r\n3\x1b[1;2r\x1b[2;1H\nx", "1\n2\nx\n3"),  # 1 is history
        ("1\r\n2\r\n3\x1b[H\x1bMx", "x\n1\n2\n3"),
        ("日本語\x1b[2Gx", " x本語"),  # half of a wide character is none
        ("x" * 19 + "日", "x" * 19 + "日"),
        ("e\u0301\u0323|", "e\u0301\u0323|"),
        ("\u0301x", "x"),
        ("e\r\n\x1b[A\x1b[C\u0301", "e\u0301"),  # an accent may come alone
        ("\x1b(0lqk\x1b(B x", "┌─┐ x"),
        ("\x1b)0\x0ex\x0fx", "│x"),
        ("ab\x1b[3b", "abbbb"),
        ("\tx\x1b[Z\x1b[Zy", "y       x"),
        ("\x1b[3g\x1b[5G\x1bH\r\tx", "    x"),
        ("\x1b#8\x1b[2;1H\x1b[J", "E" * 20),
        ("a\x1b7\x1b[3;3Hb\x1b8c", "ac\n\n  b"),
        ("\x1b[3;4r\x1b[?6h\x1b[1;1Hx", "\n\nx"),
        ("\x1b[?69h\x1b[3;6s\x1b[1;3Habcdef", "  abcd\n  ef"),
        ("a\x1b]0;title\x07b\x1bP1;2|data\x1b\\c\x1b_x\x1b\\d", "abcd"),
        ("a\x1b[3\x18b\x1b]0;x\x1ac", "abc"),
        ("a\x1b[\r3Cb", "a  b"),  # a control character within a sequence
        ("main\x1b[?1049h\x1b[Halternate", "alternate"),
        ("main\x1b[?1049h\x1b[Halternate\x1b[?1049l!", "main!"),
        ("a\x1b[99zb\x1b[?9999hc\x1b%Gd", "abcd"),
    ],
)
def test_what_stands_where(written, expected):
    assert shown(written) == expected


@pytest.mark.parametrize(
    "data", [b"\xff\xfea", b"\xc3", b"\x1b", b"\x1b[", b"\x1b[" + b"9" * 9000 + b"A", b"\x1b]0;" + b"x" * 10**6]
)
def test_rubbish_is_survived(data):
    made = screen(data)
    made.feed(b"\x18\x1b\\ok")
    assert made.text(history=False).endswith("ok")
    assert len(made.replay()) < 10_000


def test_erased_cells_have_the_background():
    for erase in (
        "\x1b[K",
        "\x1b[J",
        "\x1b[20X",
        "\x1b[2J",
        "\x1b[L",
        "\x1b[M",
        "\x1b[20@",
        "\x1b[20P",
        "\x1bM",
        "\x1b[T",
    ):
        assert screen(f"\x1b[44m{erase}").replay().count(b"\x1b[0;44m" + b" " * 20) >= 1, erase


def test_looks_come_back_as_they_were():
    looks = ["1", "2;3", "4:3;58:2::1:2:3", "7;9", "38;5;200", "48;2;1;2;3", "38:2:1:2:3", "91;102", "53", "21"]
    made = screen(*(f"\x1b[0;{look}mx" for look in looks))
    drawn = made.replay().decode()
    for look in ("1", "2;3", "4:3;58:2::1:2:3", "7;9", "38;5;200", "48;2;1;2;3", "38;2;1;2;3", "91;102", "53", "4:2"):
        assert f"\x1b[0;{look}mx" in drawn
    assert copy(made).replay() == made.replay()


def test_links_are_kept():
    drawn = screen("\x1b]8;id=1;http://x/\x1b\\link\x1b]8;;\x07 not").replay().decode()
    assert "\x1b]8;id=1;http://x/\x1b\\link" in drawn
    assert "\x1b]8;;\x1b\\ not" in drawn


def test_modes_come_back():
    modes = ["?1h", "?1002h", "?1006h", "?1004h", "?2004h", "?25l", "4h"]
    made = screen(*(f"\x1b[{mode}" for mode in modes), "\x1b=\x1b[5 q\x1b[>5u\x1b[>4;2m\x1b[2;4r\x1b]2;title\x1b\\")
    drawn = made.replay().decode().rpartition("\x1b[2J")[2]
    for sequence in [f"\x1b[{mode}" for mode in modes] + [
        "\x1b=",
        "\x1b[5 q",
        "\x1b[>5u",
        "\x1b[>4;2m",
        "\x1b[2;4r",
        "\x1b]2;title",
    ]:
        assert drawn.count(sequence) == 1, sequence
    off = screen(*(f"\x1b[{mode}" for mode in modes), *(f"\x1b[{mode[:-1]}l" for mode in modes), "\x1b[?25h")
    assert off.replay() == screen().replay()
    assert made.bracketed_paste and copy(made).bracketed_paste


def test_synchronized_output_is_never_left_on():
    assert screen("\x1b[?2026hx").replay().rindex(b"\x1b[?2026l") > screen("x").replay().rindex(b"\x1b[?2026h")


def test_each_screen_has_its_own_keyboard_flags():
    made = screen("\x1b[>1u\x1b[?1049h\x1b[>3u\x1b[?u")
    assert made.answers() == b"\x1b[?3u"
    again = copy(made)
    again.feed(b"\x1b[?u\x1b[?1049l\x1b[?u")
    assert again.answers() == b"\x1b[?3u\x1b[?1u"


def test_a_replay_ends_in_the_middle_of_a_sequence():
    for begun, rest in ((b"\x1b[3", b"1mx"), (b"\xe6\x97", b"\xa5"), (b"\x1b]2;ti", b"tle\x07x"), (b"\x1b", b"[1mx")):
        made = screen(begun)
        again = copy(made)
        for one in (made, again):
            one.feed(rest)
        assert again.replay() == made.replay()
        assert made.text() in {"x", "日"}


def test_the_rest_of_an_endless_string_is_swallowed_by_the_viewer_too():
    made = screen(b"\x1bPq" + b"#" * 10_000)
    again = copy(made)
    again.feed(b"####\x1b\\ok")
    assert again.text() == "ok"


def test_the_history_is_bounded_and_tells_so():
    made = screen(history_bytes=10_000)
    for number in range(5000):
        made.feed(b"line %d \x1b[31mred\x1b[m\r\n" % number)
    kept = made.text().splitlines()
    assert kept[-1] == "line 4999 red" and 50 < len(kept) < 200
    assert b"of earlier output are not kept" in made.replay()
    assert b"not kept" not in made.replay(history=False)
    assert b" 12.3 kB of" in screen().replay(lost=12_345)


def test_the_history_is_cleared_on_request_only():
    made = screen("1\r\n" * 10)
    made.feed(b"\x1b[2J\x1b[H")
    assert made.text() == "\n".join("1" * 6)
    made.feed(b"\x1b[3J")
    assert made.text() == ""


def test_lines_in_bulk_are_as_lines_one_by_one():
    lines = "".join(f"{n}\t{'x' * (n % 50)} ä\r\n" for n in range(400))
    at_once = screen(lines)
    slowly = screen(*(lines[at : at + 30] for at in range(0, len(lines), 30)))
    assert at_once.replay() == slowly.replay()
    coloured = screen("\x1b[31m", lines, "\x1b[44m", lines)
    assert coloured.replay() == screen(*("\x1b[31m" + lines + "\x1b[44m" + lines)).replay()


def test_the_alternate_screen_has_no_history():
    made = screen("main\r\n\x1b[?1049h", "x\r\n" * 50)
    assert made.alternate and "main" not in made.text()
    made.feed(b"\x1b[?1049l")
    assert made.text() == "main"


def test_skipped_output_leaves_its_modes():
    made = screen("begun")
    made.skip(
        b"text\r\n" * 1000 + b"\x1b[?2004h\x1b[31m\x1b[1;4r\x1b]2;title\x07\x1b[5;5Hx\x1b[?1049h\x1b[?1049l\x1b[32;1"
    )
    made.feed(b"mnew")
    assert made.bracketed_paste and made.title == "title"
    assert made.text() == "begun\nnew"
    assert b"\x1b[0;1;32mnew" in made.replay()


def test_skipped_colours_are_those_at_the_end():
    made = screen()
    made.skip(b"".join(b"\x1b[38;5;%dm\x1b[1m\x1b[48;2;%d;0;0mtext" % (n, n) for n in range(200)) + b"\x1b[22;3m")
    made.feed(b"x")
    assert b"\x1b[0;3;38;5;199;48;2;199;0;0mx" in made.replay()
    made.skip(b"\x1b[7m\x1b[0m\x1b[4m")
    made.feed(b"y")
    assert b"\x1b[0;4my" in made.replay()


def test_answers():
    made = screen("\x1b[c\x1b[>c\x1b[5n\x1b[2;3H\x1b[6n\x1b[?25$p\x1b[?12345$p\x1b]11;?\x07\x1b[>q")
    assert made.answers() == (
        b"\x1b[?62;22c\x1b[>1;10;0c\x1b[0n\x1b[2;3R\x1b[?25;1$y\x1b[?12345;0$y\x1b]11;rgb:0000/0000/0000\x1b\\\x1bP>|hapi\x1b\\"
    )
    assert made.answers() == b""
    made.feed(b"\x1b[c" * 100_000)
    assert len(made.answers()) < 5000


def test_titles():
    assert screen().title is None
    assert screen("\x1b]0;a\x07").title == "a"
    assert screen("\x1b]2;a\x1b\\\x1b[22;0t\x1b]2;b\x1b\\\x1b[23;0t").title == "a"
    assert screen("\x1b]2;a\r\nb\tc\x07").title == "abc"
    assert len(screen("\x1b]2;" + "x" * 3000 + "\x07").title) == 1024


def test_bells_are_counted_but_not_those_that_end_a_title():
    assert screen("\a\a\x1b]0;x\a\a").bells == 3


def test_last_line():
    assert screen("one\r\ntwo  \r\n\r\n").last_line() == "two"
    assert screen("one\r\n" + "\r\n" * 10).last_line() == "one"
    assert screen().last_line() == ""


def test_another_size_wraps_anew_and_loses_nothing():
    text = "a line that is longer than this\r\n日本語日本語日本語日本語\r\n\x1b[31m$ \x1b[m"
    made = screen(text, rows=8)
    for cols, rows in ((13, 8), (40, 8), (7, 3), (2, 2), (30, 10), (80, 24)):
        made.resize(cols, rows)
        assert made.text() == "a line that is longer than this\n日本語日本語日本語日本語\n$"
        assert (made.cols, made.rows) == (cols, rows)
    made.feed(b"x")
    assert made.last_line() == "$ x"


def test_the_alternate_screen_is_cropped_and_the_main_one_is_whole():
    made = screen("main screen\x1b[?1049h\x1b[Halternate screen\x1b[5;1Hbottom")
    made.resize(9, 3)
    assert made.text() == "\n\nbottom"
    made.resize(20, 5)
    made.feed(b"\x1b[?1049l!")
    assert made.text() == "main screen!"


def test_a_saved_cursor_is_within_the_new_size():
    made = screen("\x1b[5;20Hx\x1b7")
    made.resize(5, 2)
    assert copy(made).replay() == made.replay()
    made.feed(b"\x1b[H\x1b8y")
    assert made.text(history=False).endswith("    y")


def test_many_colours_and_clusters_are_swept_out():
    made = screen(cols=40, rows=10)
    for n in range(9000):
        made.feed(
            b"\x1b[38;2;%d;%d;1m" % (n % 256, n // 256)
            + f"{chr(97 + n % 26)}{chr(0x300 + n % 100)}{chr(0x320 + n // 1000)}".encode()
        )
    looks = made._screen.looks
    assert len(looks._pens) < 5000 and len(looks._cluster_texts) < 5000
    assert copy(made).text(history=False) == made.text(history=False)


def test_what_is_taken_for_narrow_is_narrow():
    for first, dash, last in zip(NARROW[::3], NARROW[1::3], NARROW[2::3], strict=True):
        assert dash == "-"
        assert {wcwidth(chr(code)) for code in range(ord(first), ord(last) + 1)} == {1}, (first, last)
