"""A terminal's bytes as the text that the web app's emulator wants. Pure.

The app takes a line feed for a new line (xterm.js' `convertEol`), which would spoil what a full-screen program draws:
to such a program a line feed is one row down, in the same column. The index control says just that to every terminal.
"""

from __future__ import annotations

import codecs
import re

_INDEX = "\x1bD"
_TOKEN = re.compile(r"\x1b[\]PX^_]|\x1b\\|[\x07\x18\x1a]|(?<!\r)[\n\v\f]")
_DOWN = frozenset("\n\v\f")


class WebText:
    """Translates one terminal's output, piece by piece, whatever the pieces cut in half."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._in_string = False  # of a control string's inside nothing is changed
        self._left = ""

    def text(self, data: bytes) -> str:
        """The next piece; half a character, or an escape that ends the piece, comes with the next one."""
        text = self._left + self._decoder.decode(data)
        known = len(self._left) if self._left == "\r" else 0
        self._left = text[-1:] if text.endswith(("\x1b", "\r")) else ""
        done = text.removesuffix("\x1b")
        return _TOKEN.sub(self._translate, done)[known:]

    def _translate(self, token: re.Match[str]) -> str:
        word = token.group()
        if word in _DOWN:
            return word if self._in_string else _INDEX
        self._in_string = word[0] == "\x1b" and word != "\x1b\\"
        return word
