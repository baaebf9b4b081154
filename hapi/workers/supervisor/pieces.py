"""A long Markdown text as several texts of a bounded length, with nothing lost and blocks of code still blocks. Pure."""

from __future__ import annotations

import re

_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$", re.MULTILINE)
_INFO_LIMIT = 60


def pieces(text: str, limit: int) -> list[str]:
    """`text` in order, each piece at most `limit` UTF-16 units and a closing fence long; [] for "".

    It is cut behind a line where there is one in the second half of a piece. A block of code that is cut is closed at
    the end of its piece and opened again in the next one.
    """
    found: list[str] = []
    at, opening = 0, ""
    while at < len(text):
        size = _fitting(text, at, limit - _units(opening))
        end = at + size
        if end < len(text):
            end = text.rfind("\n", at + size // 2, end) + 1 or end
        piece = opening + text[at:end]
        fence = _open_fence(piece) if end < len(text) else ""
        opening = f"{fence}\n" if fence else ""
        closing = "" if not fence else f"{'' if piece.endswith(chr(10)) else chr(10)}{_marks(fence)}"
        found.append(piece + closing)
        at = end
    return found


def _fitting(text: str, at: int, limit: int) -> int:
    """How many characters from `at` on have at most `limit` UTF-16 units; at least one."""
    part = text[at : at + limit]
    while (over := _units(part) - limit) > 0 and len(part) > 1:
        part = part[: -((over + 1) // 2)]
    return len(part)


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def _open_fence(text: str) -> str:
    """The line that opens the block of code in which `text` ends; "" when it ends in none."""
    fence = ""
    for match in _FENCE.finditer(text):
        marks, info = match[1], match[2].strip()
        if not fence:
            fence = f"{marks}{info}"[:_INFO_LIMIT]
        elif not info and marks.startswith(_marks(fence)):
            fence = ""
    return fence


def _marks(fence: str) -> str:
    return fence[: len(fence) - len(fence.lstrip(fence[0]))]
