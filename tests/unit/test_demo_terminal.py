"""The demo agent's own interface, driven through a pseudo-terminal as a person would."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any, Self

import pyte
import pytest

from hapi.agents.built_in import BUILT_IN
from tests.support.wait import until

WAIT_S = 10
KEY = "55555555-1111-4111-8111-111111111111"


class Talk:
    """The program in a terminal of 80 by 24; leave it (`with`) to end it."""

    def __init__(self, home: Path, *words: str, **environment: str) -> None:
        self.home = home
        self.raw = b""
        self.screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self.screen)
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (24, 80))
        os.set_blocking(self._master, False)
        self.before = self.attributes()
        self.process = subprocess.Popen(
            [*BUILT_IN["demo"].terminal, *words],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={"HAPI_DEMO_HOME": str(home), "HAPI_DEMO_DELAY_MS": "1", **environment},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)
        os.close(self._master)
        os.close(self._slave)

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def types(self, data: str) -> None:
        os.write(self._master, data.encode())

    def text(self) -> str:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._master, 65536):
                self.raw += data
                self._stream.feed(data)
        return "\n".join(line.rstrip() for line in self.screen.display)

    def sees(self, text: str) -> None:
        until(lambda: text in self.text(), WAIT_S, f"{text!r} is on the screen")

    def ends(self) -> int:
        return (
            until(lambda: (self.process.poll() is not None, self.text())[0], WAIT_S, "it ends")
            and self.process.returncode
        )

    def history(self) -> list[list[str]]:
        saved = json.loads((self.home / f"{KEY}.json").read_text())
        found: list[list[str]] = saved["history"]
        assert saved["count"] == len(found)
        return found


def test_it_talks_and_leaves_the_terminal_as_it_was(tmp_path):
    with Talk(tmp_path, "--session-id", KEY, "hello", "there") as talk:
        talk.sees("You said: hello there")
        assert talk.attributes() != talk.before
        talk.types("wörld 你好x\x7f\r")
        talk.sees("You said: wörld 你好")
        talk.types("/exit\r")
        assert talk.ends() == 0
        assert talk.attributes() == talk.before
        assert talk.history() == [["hello there", "You said: hello there"], ["wörld 你好", "You said: wörld 你好"]]


def test_a_paste_is_one_message_whatever_is_in_it(tmp_path):
    with Talk(tmp_path, "--session-id", KEY) as talk:
        talk.sees(">")
        assert b"\x1b[?2004h" in talk.raw
        talk.types("\x1b[200~first\rsecond \x03 \x1b")
        talk.types("[A third\x1b[20")
        talk.types("1~\r")
        talk.sees("third")
        until(lambda: (tmp_path / f"{KEY}.json").exists() and talk.history(), WAIT_S, "it is said")
        assert talk.history()[0][0] == "first\nsecond \x03 \x1b[A third"


@pytest.mark.parametrize("key", ["\x1b", "\x03"])
def test_an_answer_is_interrupted_and_what_was_typed_meanwhile_comes_next(tmp_path, key):
    with Talk(tmp_path, "--session-id", KEY, "/slow 600") as talk:
        talk.sees("chunk 1 of 10")
        talk.types("next\r")
        talk.types(key)
        talk.sees("Interrupted.")
        talk.sees("You said: next")
        talk.types("\x04")
        assert talk.ends() == 0


def test_the_alternate_screen_comes_and_goes(tmp_path):
    with Talk(tmp_path, "--session-id", KEY) as talk:
        talk.types("/screen\r")
        talk.sees("The alternate screen, 80 by 24")
        assert b"\x1b[?1049h" in talk.raw
        talk.types("\r")
        until(lambda: (talk.text(), b"\x1b[?1049l" in talk.raw)[1], WAIT_S, "it is left")
        talk.types("/title busy\r")
        until(lambda: (talk.text(), talk.screen.title == "busy")[1], WAIT_S, "the title is set")


def test_an_old_conversation_is_shown_and_goes_on_where_the_chat_left_it(tmp_path):
    saved = {"count": 1, "used": 3, "mode": "plan", "history": [["from the chat", "You said: from the chat"]]}
    (tmp_path / f"{KEY}.json").write_text(json.dumps(saved))
    with Talk(tmp_path, "--resume", KEY) as talk:
        talk.sees("You said: from the chat")
        talk.types("/count\r")
        talk.sees("\n2\n")
        talk.types("/exit\r")
        assert talk.ends() == 0
    assert json.loads((tmp_path / f"{KEY}.json").read_text())["mode"] == "plan"


@pytest.mark.parametrize("words", [["--resume", "none"], ["--resume", "../etc"], ["--wrong"], ["--resume"]])
def test_words_that_make_no_sense_end_it_with_an_explanation(tmp_path, words):
    with Talk(tmp_path, *words) as talk:
        assert talk.ends() == 1
        assert "o such" in talk.text()


def test_without_a_terminal_it_says_so(tmp_path):
    done = subprocess.run(
        [*BUILT_IN["demo"].terminal], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=WAIT_S, env={}
    )
    assert done.returncode == 1
    assert b"needs a terminal" in done.stderr
    shown = subprocess.run([*BUILT_IN["demo"].terminal, "--help"], capture_output=True, check=True, timeout=WAIT_S)
    assert b"usage:" in shown.stdout
    assert sys.executable == BUILT_IN["demo"].terminal[0]
