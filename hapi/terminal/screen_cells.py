"""What is in a cell of a screen: a character and how it looks, each kept as one code point of a string.

A row is two strings as long as the screen is wide: its characters, and its inks. So a row costs 200 bytes, and writing
into it is two slices. A character of two columns is followed by TAIL; several code points in one cell (accents, joined
emoji) and a look are known by numbers, given out by an `Inks`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from wcwidth import wcwidth

TAIL = "\0"
PLAIN = "\0"  # the ink of what was never coloured
CLUSTERS = 0x100000  # cells from here on stand for several code points; real characters there (private use) do too
_MAX_CLUSTERS = 0xFFFF
_MAX_CLUSTER = 32  # code points; more accents on one letter are dropped
_CACHED_CELLS = 20_000
_SWEEP_AT = 1024


class Pen(NamedTuple):
    """How characters look. Colours are the SGR parameters that set them, so drawing them again is joining strings."""

    flags: tuple[str, ...] = ()
    foreground: str = ""
    background: str = ""
    underline: str = ""  # "4", "4:3", …
    underline_colour: str = ""
    link: str = ""  # the parameters of OSC 8

    def sgr(self) -> str:
        """The sequence that sets exactly this look, whatever was set; the link is not of it."""
        parts = [*self.flags, self.underline, self.foreground, self.background, self.underline_colour]
        parts = [part for part in parts if part]
        return f"\x1b[0;{';'.join(parts)}m" if parts else "\x1b[m"

    def hyperlink(self) -> str:
        """The sequence that begins this pen's link, or ends any."""
        return f"\x1b]8;{self.link or ';'}\x1b\\"


DEFAULT_PEN = Pen()


class _Cells(dict[str, str]):
    """A character as cells: itself, with a TAIL if it is wide, or nothing for what needs a cluster."""

    def __missing__(self, character: str) -> str:
        width = wcwidth(character) if character < "\U00100000" else 0
        cells = "" if width <= 0 else character if width == 1 else character + TAIL
        if len(self) >= _CACHED_CELLS:
            self.clear()
        self[character] = cells
        return cells


# Scripts and symbols that are one column wide throughout, so that most text needs no look at each character.
NARROW = (
    " -~\xa1-\xac\xae-\u02ff\u0370-\u0377\u037a-\u037f\u0384-\u0482\u048a-\u0590"
    "\u2010-\u2027\u2030-\u205e\u20a0-\u20c0\u2100-\u218b\u2190-\u2319\u2500-\u25fc\u2776-\u2794\u2800-\u28ff"
)
_all_narrow = re.compile(f"[{NARROW}]*").fullmatch
_cell: Callable[[str], str] = _Cells().__getitem__


class Inks:
    """The numbers of looks and clusters on one screen. Bounded: the screen sweeps out what it shows no more."""

    def __init__(self) -> None:
        self._pens: list[Pen] = [DEFAULT_PEN]
        self._numbers: dict[Pen, str] = {DEFAULT_PEN: PLAIN}
        self._clusters: dict[str, str] = {}
        self._cluster_texts: dict[str, str] = {}
        self._next_cluster = 0
        self._sweep_at = _SWEEP_AT

    def number(self, pen: Pen) -> str:
        """The code point that stands for this look."""
        found = self._numbers.get(pen)
        if found is None:
            found = self._numbers[pen] = chr(len(self._pens))
            self._pens.append(pen)
        return found

    def pen(self, number: str) -> Pen:
        """The look that this code point stands for."""
        return self._pens[ord(number)]

    def full(self) -> bool:
        """Whether it is time to `sweep`."""
        return len(self._pens) > self._sweep_at or len(self._clusters) > self._sweep_at

    def sweep(self, inks: Iterable[str], cells: Iterable[str]) -> dict[int, str]:
        """Forget all that is not in these rows. Answers how to translate the rows' inks."""
        used = sorted(set().union(*inks) | {PLAIN})
        pens = [self.pen(number) for number in used]
        renumbered = {ord(old): chr(new) for new, old in enumerate(used)}
        self._pens = pens
        self._numbers = {pen: chr(number) for number, pen in enumerate(pens)}
        shown = {cell for cell in set().union(*cells) if cell >= "\U00100000"}
        self._cluster_texts = {cell: self._cluster_texts[cell] for cell in shown}
        self._clusters = {text: cell for cell, text in self._cluster_texts.items()}
        self._sweep_at = max(_SWEEP_AT, 2 * len(pens), 2 * len(shown))
        return renumbered

    def cluster(self, text: str) -> str:
        """The cell for several code points; only the first one when there are too many different ones."""
        text = text[:_MAX_CLUSTER]
        found = self._clusters.get(text)
        if found is None:
            number = self._free_cluster()
            if number is None:
                return text[0] if text[0] < "\U00100000" else "\ufffd"
            found = self._clusters[text] = chr(CLUSTERS + number)
            self._cluster_texts[found] = text
        return found

    def _free_cluster(self) -> int | None:
        if len(self._clusters) >= _MAX_CLUSTERS:
            return None
        number = self._next_cluster
        while chr(CLUSTERS + number) in self._cluster_texts:
            number = (number + 1) % _MAX_CLUSTERS
        self._next_cluster = (number + 1) % _MAX_CLUSTERS
        return number

    def cells(self, text: str) -> tuple[str, str]:
        """Printable text as cells; and what in front of it belongs to the cell before (accents), mostly nothing."""
        if _all_narrow(text):
            return "", text
        parts = list(map(_cell, text))
        if "" not in parts:
            return "", "".join(parts)
        clusters: list[str] = []
        before = ""
        for character, cell in zip(text, parts, strict=True):
            if cell or character >= "\U00100000":
                clusters.append(character)
            elif clusters:
                clusters[-1] += character
            else:
                before += character
        return before, "".join(map(self._cells_of, clusters))

    def _cells_of(self, text: str) -> str:
        if len(text) == 1 and text < "\U00100000":
            return _cell(text)
        return self.cluster(text) + (TAIL if _cell(text[0]).endswith(TAIL) else "")

    def text(self, cells: str) -> str:
        """Cells as text again."""
        if cells.isascii() and TAIL not in cells:
            return cells
        cells = cells.replace(TAIL, "")
        if not self._clusters or max(cells, default="") < "\U00100000":
            return cells
        return "".join(self._cluster_texts.get(cell, cell) for cell in cells)
