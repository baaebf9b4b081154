"""Output as plain lines: exact for what is written line by line, whatever the pieces; bounded for all else."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hapi.terminal.plain import HELD_CHARACTERS, LINE_CHARACTERS, Plain


def lines(*pieces):
    plain = Plain()
    return [line for piece in pieces for line in plain.feed(piece)] + plain.rest()


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"one\r\ntwo\n", ["one", "two"]),
        (b"\r\n\r\nafter two empty ones", ["", "", "after two empty ones"]),
        (b"\x1b[1;31mred\x1b[0m and \x1b[38;2;1;2;3mmore\x1b[m\n", ["red and more"]),
        (b"\x1b]0;a title\x07text\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\\n", ["textlink"]),
        (b"\x1bP1$r0m\x1b\\\x1b(Bplain\x1b=\x1b>\x1b7\x1b8\n", ["plain"]),
        (b" 10%\r 50%\r100%\n", ["100%"]),
        (b"a longer line\rshort\n", ["shortger line"]),
        ("Grüße 漢字 🙂\n".encode(), ["Grüße 漢字 🙂"]),
        (b"\xff\xfe\n", ["\ufffd\ufffd"]),
        (b"bell\x07 and null\x00\n", ["bell and null"]),
        (b"tab\there\n", ["tab\there"]),
        (b"before\n\x1b[?1049h\x1b[2Jfull\r\nscreen\x1b[?1049lafter\n", ["before", "after"]),
        (b"one\x1b[5;1Hfive\x1b[6;1H\x1b[7;1Hseven", ["one", "five", "seven"]),
        (b"\x1b", []),
        (b"cut \x1b[3", ["cut"]),
    ],
)
def test_what_is_left(data, wanted):
    assert lines(data) == wanted


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 90), max_size=6))
def test_the_pieces_do_not_matter(cuts):
    data = "ab\x1b[1;31mré\x1b[0m\r\n\x1b]0;t\x1b\\漢\rx\r\n\x1b[?1049hhid\x1b[?1049l🙂\x1b[3;1Hend\n".encode()
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in itertools.pairwise(at)]
    assert lines(*pieces) == lines(data) == ["abré", "x", "🙂", "end"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_are_bearable(pieces):
    for line in lines(*pieces):
        assert not any(character < " " and character != "\t" for character in line)


def test_nothing_grows_without_bounds():
    plain = Plain()
    found = []
    for _ in range(40):
        found += plain.feed(b"\x1b]0;" + b"t" * 8000)
        found += plain.feed(b"x" * 8000)
    found += plain.rest()
    assert max(map(len, found)) <= LINE_CHARACTERS
    assert sum(map(len, found)) > 20 * 8000 - HELD_CHARACTERS
