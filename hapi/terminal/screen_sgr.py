"""Select Graphic Rendition: what the parameters of `CSI … m` make of a pen (ECMA-48 §8.3.117, ITU-T T.416 for colours)."""

from __future__ import annotations

from hapi.terminal.screen_cells import DEFAULT_PEN, Pen

_FLAGS = {"1": "1", "2": "2", "3": "3", "5": "5", "6": "5", "7": "7", "8": "8", "9": "9", "53": "53"}
_OFF = {"22": ("1", "2"), "23": ("3",), "25": ("5",), "27": ("7",), "28": ("8",), "29": ("9",), "55": ("53",)}
_COLOUR = {"38": "foreground", "48": "background", "58": "underline_colour"}
_NO_COLOUR = {"39": "foreground", "49": "background", "59": "underline_colour"}
_FOREGROUNDS = frozenset(map(str, (*range(30, 38), *range(90, 98))))
_BACKGROUNDS = frozenset(map(str, (*range(40, 48), *range(100, 108))))
_INDEXED, _DIRECT = "5", "2"


def styled(pen: Pen, parameters: str) -> Pen:
    """The pen after `CSI parameters m`. Unknown parameters change nothing."""
    waiting = parameters.split(";")[::-1]
    while waiting:
        code = waiting.pop()
        head = code.partition(":")[0].lstrip("0") or "0"
        if head in _COLOUR:
            pen = _coloured(pen, head, code, waiting)
        else:
            pen = _changed(pen, head, code)
    return pen


def _changed(pen: Pen, head: str, code: str) -> Pen:
    if head == "0":
        return DEFAULT_PEN if not pen.link else DEFAULT_PEN._replace(link=pen.link)
    if head in _FOREGROUNDS:
        return pen._replace(foreground=head)
    if head in _BACKGROUNDS:
        return pen._replace(background=head)
    if head in _FLAGS:
        return pen._replace(flags=tuple(sorted({*pen.flags, _FLAGS[head]})))
    if head in _OFF:
        return pen._replace(flags=tuple(flag for flag in pen.flags if flag not in _OFF[head]))
    if head in _NO_COLOUR:
        return pen._replace(**{_NO_COLOUR[head]: ""})
    return pen._replace(underline=_underline(head, code)) if head in {"4", "21", "24"} else pen


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
    return pen._replace(**{_COLOUR[head]: colour}) if colour else pen


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
