"""What is typed for a message, and a session's title from a program's."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi.workers.supervisor.headline import LONGEST, headline
from hapi.workers.supervisor.typist import keystrokes


@pytest.mark.parametrize(
    ("text", "typed"),
    [
        ("fix it", b"fix it"),
        ("one\ntwo\r\nthree\n\n", b"one\rtwo\rthree"),
        ("tab\there", b"tab\there"),
        ("grüße 你好 👍", "grüße 你好 👍".encode()),
        ("\x1b[201~rm -rf /\x03\x04\x7f\x9b", b"[201~rm -rf /"),
        ("", b""),
        ("end\n\x1b\x1e", b"end"),
        ("old\rmac", b"old\rmac"),
    ],
)
def test_a_message_is_pasted_without_keys_in_it(text, typed):
    assert keystrokes(text, bracketed=False) == typed
    assert keystrokes(text, bracketed=True) == b"\x1b[200~" + typed + b"\x1b[201~"


@given(st.text())
def test_nothing_in_a_message_ends_the_paste_or_presses_enter_after_it(text):
    typed = keystrokes(text, bracketed=True)
    assert typed.count(b"\x1b") == 2
    assert typed.endswith(b"\x1b[201~")
    assert not keystrokes(text, bracketed=False).endswith(b"\r")


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        (None, None),
        ("", None),
        ("✳ Fix the tests", "Fix the tests"),
        ("⠂ Fix the tests", "Fix the tests"),
        ("⠐⠐", None),
        ("root@box: ~/work", "root@box: ~/work"),
        ("~/work", "~/work"),
        ("/usr/bin", "/usr/bin"),
        ("a\x07b\nc", "a b c"),
        ("x" * 5_000, "x" * LONGEST),
    ],
)
def test_a_title_is_one_line_without_turning_wheels(title, shown):
    assert headline(title) == shown
