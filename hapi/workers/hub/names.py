r"""File names as the web shows and sends them. Pure.

JSON is Unicode and the hub's search is lines, but a file's name is any bytes. A name that is not plain text is shown in
git's own notation for such names ("caf\351", in double quotes), and what the web sends back in that notation is
understood, so that every file that is shown can be opened.
"""

from __future__ import annotations

import os
import re

_ESCAPES = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
_LETTERS = {code: letter for letter, code in _ESCAPES.items()}
_QUOTED = re.compile(r'"((?:[^"\\]|\\[abtnvfr"\\]|\\[0-3][0-7]{2})*)"')
_UNSHOWABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_PIECE = re.compile(r"\\([0-3][0-7]{2}|.)|([^\\]+)", re.DOTALL)


def shown(name: str) -> str:
    """A name from the file system (undecodable bytes as surrogates) as text of one line, without outer blanks."""
    plain = not _UNSHOWABLE.search(name) and name == name.strip() and unquote(name) is None
    return name if plain else quote(name)


def quote(name: str) -> str:
    """The name in git's notation; all that is not printable ASCII is escaped."""
    return f'"{"".join(map(_escaped, os.fsencode(name)))}"'


def unquote(text: str) -> str | None:
    """The name that is written in git's notation; None for what is not."""
    match = _QUOTED.fullmatch(text)
    if match is None:
        return None
    name = bytearray()
    for escape, plain in _PIECE.findall(match[1]):
        if plain:
            name += plain.encode("utf-8", "surrogatepass")
        else:
            name.append(int(escape, 8) if escape.isdigit() else _ESCAPES[escape])
    return os.fsdecode(bytes(name))


def spellings(path: str) -> list[str]:
    """What a path from the web may mean, the likeliest first: itself, then with its quotes undone."""
    undone = unquote(path)
    if undone is None:
        undone = "/".join(part if (found := unquote(part)) is None else found for part in path.split("/"))
    return [path] if undone == path else [path, undone]


def _escaped(byte: int) -> str:
    if byte in _LETTERS:
        return f"\\{_LETTERS[byte]}"
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
