"""tmux as a terminal that is not ours: it is given bytes, and tells what it shows then."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

_DEADLINE_S = 20
_FLAGS = [
    *(
        "cursor_x",
        "cursor_y",
        "cursor_flag",
        "alternate_on",
        "insert_flag",
        "origin_flag",
        "wrap_flag",
        "keypad_cursor_flag",
    ),
    *("keypad_flag", "mouse_standard_flag", "mouse_button_flag", "mouse_all_flag", "mouse_sgr_flag", "mouse_utf8_flag"),
    *("scroll_region_upper", "scroll_region_lower", "pane_tabs"),
]
# The bytes, then a question: when its answer is there, tmux has done all of them.
_PROGRAM = r"stty raw -echo; cat {path}; printf '\033[5n'; dd bs=1 count=4 of=/dev/null 2>/dev/null; {tmux} wait-for -S {name}; read -r end"

_VT100 = str.maketrans(
    {"`": "◆", "a": "▒", "b": "␉", "c": "␌", "d": "␍", "e": "␊", "f": "°", "g": "±", "h": "␤", "i": "␋", "j": "┘"}
    | {"k": "┐", "l": "┌", "m": "└", "n": "┼", "o": "⎺", "p": "⎻", "q": "─", "r": "⎼", "s": "⎽", "t": "├", "u": "┤"}
    | {"v": "┴", "w": "┬", "x": "│", "y": "≤", "z": "≥", "{": "π", "|": "≠", "}": "£", "~": "·"}
)


@dataclass(frozen=True)
class Shown:
    """What tmux shows: its history and screen with colours, its modes, its title."""

    lines: tuple[tuple[tuple[str, str], ...], ...]  # of (text, the SGR parameters in force), runs of the same joined
    flags: dict[str, str]
    title: str


class Tmux:
    """A tmux server of its own, in a directory of its own; `close` it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._socket = directory / "tmux"
        self._count = 0
        self._run(
            "new-session",
            "-d",
            "-s",
            "base",
            "sleep 1000",
            ";",
            "set",
            "-g",
            "status",
            "off",
            ";",
            "set",
            "-g",
            "history-limit",
            "5000",
        )

    def show(self, data: bytes, cols: int = 80, rows: int = 24, *, history: bool = True) -> Shown:
        """A new terminal of this size after these bytes."""
        self._count += 1
        name = f"t{self._count}"
        path = self._directory / name
        path.write_bytes(data)
        program = _PROGRAM.format(
            path=shlex.quote(str(path)), tmux=f"tmux -S {shlex.quote(str(self._socket))}", name=name
        )
        start = ["-S", "-"] if history else []
        flags = " ".join(f"#{{{flag}}}" for flag in _FLAGS) + " #{pane_title}"
        out = self._run(
            *("new-session", "-d", "-s", name, "-x", str(cols), "-y", str(rows), program, ";", "wait-for", name, ";"),
            *(
                "capture-pane",
                "-p",
                "-e",
                "-N",
                *start,
                "-t",
                name,
                ";",
                "display-message",
                "-p",
                "-t",
                name,
                flags,
                ";",
                "kill-session",
                "-t",
                name,
            ),
        )
        path.unlink()
        screen, _, state = out.removesuffix("\n").rpartition("\n")
        lines = _unletter(screen).split("\n")
        values = state.split(" ", len(_FLAGS))
        cells = []
        look: dict[str, str] = {}
        for line in lines:
            runs, look = _runs(line, look)
            cells.append(runs)
        while cells and not cells[-1]:
            cells.pop()
        return Shown(tuple(cells), dict(zip(_FLAGS, values, strict=False)), values[-1])

    def close(self) -> None:
        """End the server and all in it."""
        self._run("kill-server")

    def _run(self, *arguments: str) -> str:
        command = ["tmux", "-S", str(self._socket), "-f", "/dev/null", *arguments]
        environment = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
        environment.pop("TMUX", None)
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, timeout=_DEADLINE_S
        ).stdout.decode()


def _runs(line: str, look: dict[str, str]) -> tuple[tuple[tuple[str, str], ...], dict[str, str]]:
    """A captured line as runs of text and look, and the look that the next line begins with; without blanks at the end: tmux does not tell the background of those."""
    runs: list[tuple[str, str]] = []
    for text, parameters in re.findall(r"([^\x1b]+)|\x1b\[([\d;:]*)m", line):
        if not text:
            look = _look(look, parameters)
            continue
        now = ";".join(look[kind] for kind in sorted(look))
        if runs and runs[-1][1] == now:
            runs[-1] = runs[-1][0] + text, now
        else:
            runs.append((text, now))
    while runs and not (text := runs[-1][0].rstrip(" ")):
        runs.pop()
    if runs:
        runs[-1] = text, runs[-1][1]
    return tuple(runs), look


def _look(look: dict[str, str], parameters: str) -> dict[str, str]:
    """tmux writes one attribute or colour a sequence, after a 0 if something was switched off."""
    codes = parameters.split(";")
    look = dict(look)
    while codes:
        code = codes.pop(0)
        if code in {"38", "48", "58"}:
            size = 2 if codes[0] == "5" else 4
            look[code[0]] = ";".join([code, *codes[:size]])
            del codes[:size]
        elif code in {"0", ""}:
            look = {}
        elif code in {"39", "49", "59"}:
            look.pop(code[0], None)
        elif len(code) > 1 and ":" not in code and code[:-1] in {"3", "4", "9", "10"}:
            look["4" if code[:-1] in {"4", "10"} else "3"] = code
        else:
            look["a" + code] = code
    return look


def _unletter(text: str) -> str:
    """tmux tells line drawing as a VT100 would be sent it: letters between SO and SI."""
    parts = re.split(r"(\x1b\[[\d;:]*m|[\x0e\x0f])", text)
    drawing = False
    out = []
    for part in parts:
        if part in {"\x0e", "\x0f"}:
            drawing = part == "\x0e"
        else:
            out.append(part.translate(_VT100) if drawing and not part.startswith("\x1b") else part)
    return "".join(out)
