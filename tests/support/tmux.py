"""tmux as a terminal that is not ours: it is given bytes, and tells what it shows then."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

_DEADLINE_S = 20
_FLAGS = (
    "cursor_x cursor_y cursor_flag alternate_on insert_flag origin_flag wrap_flag keypad_cursor_flag keypad_flag"
    " mouse_standard_flag mouse_button_flag mouse_all_flag mouse_sgr_flag mouse_utf8_flag scroll_region_upper scroll_region_lower"
    " pane_tabs"
).split()
# The bytes, then a question: when its answer is there, tmux has done all of them.
_PROGRAM = r"stty raw -echo; cat {path}; printf '\033[5n'; dd bs=1 count=4 of=/dev/null 2>/dev/null; {tmux} wait-for -S {name}; read -r end"


@dataclass(frozen=True)
class Shown:
    """What tmux shows: its history and screen with colours, its modes, its title."""

    lines: tuple[str, ...]
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
        *lines, state = out.removesuffix("\n").split("\n")
        values = state.split(" ", len(_FLAGS))
        while lines and not lines[-1]:
            lines.pop()
        return Shown(tuple(lines), dict(zip(_FLAGS, values, strict=False)), values[-1])

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
