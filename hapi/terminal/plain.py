"""A program's output as lines of plain text, for logs: what moves, colours and draws is left out. Pure.

Exact for programs that write line by line. What is drawn on the alternate screen is left out; one that draws on the
main screen leaves the words that it wrote, in the order in which it wrote them.
"""

from __future__ import annotations

import codecs
import re

HELD_CHARACTERS = 4096  # of a control sequence that has not ended yet; a longer one is none
LINE_CHARACTERS = 64 * 1024  # a longer line is cut into several
_SEQUENCE = re.compile(
    r"\x1b(?:\[(?P<csi>[0-?]*[ -/]*[@-~])"
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)"
    r"|[PX^_][^\x1b]*\x1b\\"
    r"|[ -/]*[0-OQ-WYZ\\`-~])"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|\][^\x07\x1b]*\x1b?|[PX^_][^\x1b]*\x1b?|[ -/]*)?\Z")
_ALTERNATE = re.compile(r"\?(?:\d+;)*(?:47|1047|1049)(?:;\d+)*([hl])")
_MOVES = frozenset("ABEFHdf")  # to another line
_OTHERS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Plain:
    """Takes bytes as they come, gives lines as they are complete."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._part = ""
        self._hidden = False

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        text = self._held + self._decoder.decode(data)
        self._held = ""
        unfinished = _UNFINISHED.search(text)
        if unfinished is not None and len(text) - unfinished.start() <= HELD_CHARACTERS:
            text, self._held = text[: unfinished.start()], text[unfinished.start() :]
        pieces: list[str] = []
        at = 0
        for found in _SEQUENCE.finditer(text):
            self._keep(text[at : found.start()], pieces)
            self._obey(found["csi"] or "", pieces)
            at = found.end()
        self._keep(text[at:], pieces)
        return self._lines("".join(pieces))

    def rest(self) -> list[str]:
        """At the end: the line that was not completed, if there is one."""
        line, self._part = _overwritten(self._part), ""
        return [line] if line else []

    def _keep(self, text: str, pieces: list[str]) -> None:
        if text and not self._hidden:
            pieces.append(text)

    def _obey(self, csi: str, pieces: list[str]) -> None:
        switch = _ALTERNATE.fullmatch(csi)
        if switch is not None:
            self._hidden = switch[1] == "h"
        elif csi[-1:] in _MOVES and not self._hidden:
            pieces.append("\v")

    def _lines(self, text: str) -> list[str]:
        """Cut at ends of lines, and where the program went to another one if there is something on this one."""
        lines: list[str] = []
        for piece in re.split(r"(?<=[\n\v])", self._part + text):
            while len(piece) > LINE_CHARACTERS:
                lines.append(_overwritten(piece[:LINE_CHARACTERS]))
                piece = piece[LINE_CHARACTERS:]  # noqa: PLW2901
            if piece.endswith("\n"):
                lines.append(_overwritten(piece[:-1]))
            elif piece.endswith("\v"):
                lines += [line] if (line := _overwritten(piece[:-1])) else []
            else:
                self._part = piece
        return lines


def _overwritten(line: str) -> str:
    """A line as it looks in the end: what comes behind a carriage return stands over what was before it."""
    shown = ""
    for piece in line.rstrip("\r").split("\r"):
        shown = piece + shown[len(piece) :]
    return _OTHERS.sub("", shown).rstrip()
