"""What programs ask their terminal: who answers it, and with what.

A program's question is for one terminal: that of the active viewer, or with none attached our screen. The sequences
are those of xterm's ctlseqs.txt, and kitty's for its keyboard and graphics protocols.
"""

from __future__ import annotations

import re

from hapi.terminal.screen_emulator import Emulator

_MAX_REPLIES = 4096

_QUESTIONS = re.compile(
    rb"""\x05
    |\x1b\[ [>=]?0*c                            # DA1 to DA3
    |\x1b\[ \??[\d;]*n                          # DSR, CPR
    |\x1b\[ \??\d*\$p                           # DECRQM
    |\x1b\[ >\d*q                               # XTVERSION
    |\x1b\[ \?u                                 # kitty's keyboard flags
    |\x1b\[ \?\d*m                              # XTQMODKEYS
    |\x1b\[ (?:1[1-9]|2[01])(?:;\d*)*t          # XTWINOPS reports
    |\x1b\[ [01]?x                              # DECREQTPARM
    |\x1b\[ \?\d*;[14](?:;\d*)*S                # XTSMGRAPHICS
    |\x1b\[ [\d;]*(?:\$w|\*y|&w|"v|\#S|\#R)     # reports of presentation, checksums
    |\x1bZ                                      # DECID
    |\x1b\] \d+;([^\x07\x1b]*)(?:\x07|\x1b\\)    # OSC: see _unasked
    |\x1bP (?:\$q|\+q|\+Q)[^\x1b]*\x1b\\        # DECRQSS, XTGETTCAP
    |\x1b_G ([^\x1b]*)\x1b\\                    # kitty's graphics: see _unasked
    """,
    re.VERBOSE,
)


def without_questions(data: bytes) -> bytes:
    """The same output, for a viewer that is not to answer: the questions taken out."""
    return _QUESTIONS.sub(_unasked, data) if b"\x1b" in data or b"\x05" in data else data


def _unasked(found: re.Match[bytes]) -> bytes:
    """What is left of a sequence that may be a question. Its fields are looked at here: whatever a program writes, this
    takes no longer than reading it once, and a pattern with two wildcards in a row would.
    """
    command, graphics = found.groups()
    asks = True
    if command is not None:  # colours, clipboard, font
        asks = b"?" in command.split(b";")
    elif graphics is not None:
        asks = any(field.startswith(b"a=q") for field in graphics.partition(b";")[0].split(b","))
    return b"" if asks else found[0]


def answer(screen: Emulator, kind: str, parameters: str) -> None:
    """Put an answer to this sequence into the screen's replies, if it is a question that has one."""
    if len(screen.replies) < _MAX_REPLIES:
        screen.replies += _answer(screen, kind, parameters).encode()


def _answer(screen: Emulator, kind: str, parameters: str) -> str:
    if kind in {"n", "?n"}:
        return _status(screen, kind, parameters)
    if kind == "?$p":
        known = screen.modes.state(int(parameters)) if parameters.isdecimal() and len(parameters) < 6 else None
        return f"\x1b[?{parameters};{0 if known is None else 1 if known else 2}$y"
    if kind == "]":
        return _colour(parameters)
    if kind == "P":
        return "\x1bP0$r\x1b\\" if parameters.startswith("$q") else "\x1bP0+r\x1b\\" if parameters[:2] == "+q" else ""
    return {
        "c": "\x1b[?62;22c",
        ">c": "\x1b[>1;10;0c",
        ">q": "\x1bP>|hapi\x1b\\",
        "?u": f"\x1b[?{screen.modes.keyboard}u",
    }.get(kind, "")


def _status(screen: Emulator, kind: str, parameters: str) -> str:
    if kind == "n" and parameters == "5":
        return "\x1b[0n"
    if parameters == "6":
        top = screen.top if screen.modes.origin else 0
        return f"\x1b[{kind[:-1]}{screen.y - top + 1};{min(screen.x, screen.cols - 1) + 1}R"
    return "\x1b[?997;1n" if kind == "?n" and parameters == "996" else ""


def _colour(command: str) -> str:
    code, _, value = command.partition(";")
    colour = {"10": "d0d0/d0d0/d0d0", "11": "0000/0000/0000", "12": "d0d0/d0d0/d0d0"}.get(code)
    return f"\x1b]{code};rgb:{colour}\x1b\\" if colour and value == "?" else ""
