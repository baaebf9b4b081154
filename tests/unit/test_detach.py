"""The detach key in what people type: all its encodings, cut anywhere, and nothing else lost or changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi.errors import ErrorCode, HapiError
from hapi.terminal.detach import Detacher, detach_key

DEFAULT = detach_key("Ctrl-\\ d")
PREFIXES = [b"\x1c", b"\x1b[92;5u", b"\x1b[92;5:1u", b"\x1b[92:124;5u", b"\x1b[27;5;92~", b"\x1b[92;133u"]
SECONDS = [b"d", b"\x04", b"\x1b[100u", b"\x1b[100;1:1u", b"\x1b[100;5u", b"\x1b[100;;100u", b"\x1b[27;1;100~"]
PASTE = b"\x1b[200~", b"\x1b[201~"


def typed(*pieces, key=DEFAULT):
    """(what goes through, whether that detached), each piece as one read, time passing at the end."""
    detacher = Detacher(key)
    through = b"".join(detacher.feed(piece) for piece in pieces)
    return through + detacher.flush(), detacher.detached


@pytest.mark.parametrize("first", PREFIXES)
@pytest.mark.parametrize("second", SECONDS)
def test_every_encoding_detaches(first, second):
    assert typed(b"ab" + first + second) == (b"ab", True)
    assert typed(b"ab", first, second) == (b"ab", True)


@pytest.mark.parametrize("first", PREFIXES)
def test_the_first_key_twice_goes_through_once(first):
    assert typed(first + first + b"d") == (first + b"d", False)
    assert typed(first, b"\x1c", b"d") == (b"\x1cd", False)


@pytest.mark.parametrize("other", [b"x", b"\r", b"\x1b[A", b"\x1bx", b"\x1b[120;5u", b"\x1b"])
def test_another_key_sends_both(other):
    assert typed(b"\x1c", other) == (b"\x1c" + other, False)
    assert typed(b"\x1c" + other + b"d") == (b"\x1c" + other + b"d", False)


def test_a_key_going_up_and_ctrl_itself_are_no_other_key():
    assert typed(b"\x1b[57442;5u\x1b[92;5:1u\x1b[92;5:3u\x1b[57442;1:3u\x1b[100;1:1u") == (b"\x1b[57442;5u", True)
    assert typed(b"\x1b[92;5u\x1b[92;5:3u\x1b[120u") == (b"\x1b[92;5u\x1b[92;5:3u\x1b[120u", False)
    assert typed(b"\x1b[92;5:3u\x1b[100u") == (b"\x1b[92;5:3u\x1b[100u", False)  # only going up


@pytest.mark.parametrize("aside", [b"\x1b[<35;10;20M", b"\x1b[I", b"\x1b[O", b"\x1b[?62;22c", b"\x1b[24;80R"])
def test_mouse_focus_and_answers_come_between(aside):
    assert typed(b"\x1c", aside, b"d") == (aside, True)


def test_what_was_pasted_is_not_looked_at():
    paste = PASTE[0] + b"one \x1cd two \x1b[92;5ud" + PASTE[1]
    assert typed(paste, b"x") == (paste + b"x", False)
    assert typed(paste + b"\x1cd") == (paste, True)


@given(st.data())
def test_it_is_the_same_however_it_is_cut(data):
    parts = [
        *PREFIXES,
        *PASTE,
        b"d",
        b"x",
        b"\x1b[A",
        b"\x1b[92",
        b"\x1b",
        b"[",
        b"u",
        "ü€😀".encode(),
        b"\x1b[<0;1;1M",
    ]
    whole = b"".join(data.draw(st.lists(st.sampled_from(parts), max_size=8)))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(whole)), max_size=6)))
    pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    # a lone Esc is not kept back, so a sequence is only known where its first two bytes came together
    if not any(piece.endswith(b"\x1b") for piece in pieces[:-1]):
        assert typed(*pieces) == typed(whole)


@given(st.binary(max_size=200))
def test_nothing_is_lost_without_the_key(noise):
    plain = noise.replace(b"\x1c", b"").replace(b"\x1b", b"")
    assert typed(plain) == (plain, False)


def test_a_lone_escape_is_not_kept_back():
    detacher = Detacher(DEFAULT)
    assert detacher.feed(b"\x1b") == b"\x1b"
    assert not detacher.holds


def test_the_beginning_of_a_sequence_is_kept_for_a_moment():
    detacher = Detacher(DEFAULT)
    assert detacher.feed(b"\x1b[9") == b""
    assert detacher.holds
    assert detacher.flush() == b"\x1b[9"
    assert not detacher.holds


@pytest.mark.parametrize(
    ("written", "text", "bytes_"),
    [
        ("Ctrl-\\ d", "Ctrl-\\ d", b"\x1cd"),
        ("ctrl+a  D", "Ctrl-A d", b"\x01d"),
        ("C-b &", "Ctrl-B &", b"\x02&"),
        ("^]", "Ctrl-]", b"\x1d"),
        ("Ctrl-P Ctrl-Q", "Ctrl-P Ctrl-Q", b"\x10\x11"),
    ],
)
def test_how_it_is_written(written, text, bytes_):
    key = detach_key(written)
    assert key.text == text
    assert typed(b"a" + bytes_ + b"b", key=key) == (b"a", True)


def test_none_switches_it_off():
    assert typed(b"\x1cd\x1b[92;5ud", key=detach_key("none")) == (b"\x1cd\x1b[92;5ud", False)


@pytest.mark.parametrize("written", ["d", "", "Ctrl-\\ d x", "Ctrl-ä", "Ctrl-", "Meta-x", "Ctrl-1", "^[", "d Ctrl-a"])
def test_what_makes_no_sense_is_said(written):
    with pytest.raises(HapiError) as caught:
        detach_key(written)
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION
    assert "Ctrl-" in caught.value.hint
