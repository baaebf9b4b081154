"""Select Graphic Rendition: what the parameters of `CSI … m` make of a pen (ECMA-48 §8.3.117, ITU-T T.416 for colours)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from hapi.terminal.screen_cells import DEFAULT_PEN, Pen

_FLAGS = {"1": "1", "2": "2", "3": "3", "5": "5", "6": "5", "7": "7", "8": "8", "9": "9", "53": "53"}
_OFF = {"22": ("1", "2"), "23": ("3",), "25": ("5",), "27": ("7",), "28": ("8",), "29": ("9",), "55": ("53",)}
_COLOUR = frozenset({"38", "48", "58"})
_NAMED_COLOURS = {
    **{str(code): ("3", str(code)) for code in (*range(30, 38), *range(90, 98))},
    **{str(code): ("4", str(code)) for code in (*range(40, 48), *range(100, 108))},
    **{code: (code[0], "") for code in ("39", "49", "59")},
}
_INDEXED, _DIRECT = "5", "2"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_ONE_COLOUR = re.compile(rf"[34]8;(?:5;{_BYTE}|2;{_BYTE};{_BYTE};{_BYTE})").fullmatch


def styled(pen: Pen, parameters: str) -> Pen:
    """The pen after `CSI parameters m`. Unknown parameters change nothing."""
    if _ONE_COLOUR(parameters):  # by far the most frequent
        foreground = parameters if parameters[0] == "3" else pen.foreground
        background = parameters if parameters[0] == "4" else pen.background
        return Pen(pen.flags, foreground, background, pen.underline, pen.underline_colour, pen.link)
    waiting = parameters.split(";")[::-1]
    while waiting:
        code = waiting.pop()
        head = code.partition(":")[0].lstrip("0") or "0"
        pen = _coloured(pen, head, code, waiting) if head in _COLOUR else _changed(pen, head, code)
    return pen


def lasting(parameters: Iterable[str]) -> list[str]:
    """Those of many that make a difference after the last one: of equal ones the last, of plain colours too."""
    kept: dict[str, str] = {}
    for one in dict.fromkeys(reversed(list(parameters))):
        kept.setdefault(one[:2] if _ONE_COLOUR(one) else f"={one}", one)
    return list(kept.values())[::-1]


def _changed(pen: Pen, head: str, code: str) -> Pen:
    if head == "0":
        return DEFAULT_PEN._replace(link=pen.link)
    if head in _FLAGS:
        return pen._replace(flags=tuple(sorted({*pen.flags, _FLAGS[head]})))
    if head in _OFF:
        return pen._replace(flags=tuple(flag for flag in pen.flags if flag not in _OFF[head]))
    if head in {"4", "21", "24"}:
        return pen._replace(underline=_underline(head, code))
    return _with_colour(pen, *_NAMED_COLOURS.get(head, ("", "")))


def _with_colour(pen: Pen, which: str, colour: str) -> Pen:
    if which == "3":
        return pen._replace(foreground=colour)
    if which == "4":
        return pen._replace(background=colour)
    return pen._replace(underline_colour=colour) if which == "5" else pen


def _underline(head: str, code: str) -> str:
    if head == "21":
        return "4:2"
    style = code.partition(":")[2]
    if head == "24" or style == "0":
        return ""
    return f"4:{style}" if style in {"2", "3", "4", "5"} else "4"


def _coloured(pen: Pen, head: str, code: str, waiting: list[str]) -> Pen:
    """38, 48 and 58: the colour is in the same parameter behind colons, or in those that follow."""
    fields = code.split(":")[1:]
    if not fields and waiting:
        kind = waiting.pop()
        wanted = {_INDEXED: 1, _DIRECT: 3}.get(kind, 0)
        fields = [kind, *(waiting.pop() for _ in range(min(wanted, len(waiting))))]
    elif len(fields) > 4:  # 38:2:<colour space>:r:g:b
        fields = [fields[0], *fields[2:5]]
    colour = _colour(head, fields)
    return _with_colour(pen, head[0], colour) if colour else pen


def _colour(head: str, fields: list[str]) -> str:
    numbers = [field or "0" for field in fields]
    kind, values = (numbers[0], numbers[1:]) if numbers else ("", [])
    if len(values) != {_INDEXED: 1, _DIRECT: 3}.get(kind) or any(
        len(value) > 3 or int(value) > 255 for value in values
    ):
        return ""
    if head != "58":
        return ";".join([head, *numbers])
    # Terminals without coloured underlines would take semicolons for parameters of their own.
    return ":".join([head, kind, *([""] if kind == _DIRECT else []), *values])
