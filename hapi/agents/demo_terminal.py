"""The demo agent's own interface for a terminal: `python -m hapi.agents.demo_terminal`. It needs no model and no key.

It does in small what the interfaces of real agents do: it takes the terminal raw, edits a line, takes pastes between
their marks, streams its answers, can be interrupted, uses the alternate screen, sets the window's title. Its
conversations are those of `demo.py` (HAPI_DEMO_HOME), so that one goes on from the terminal to the chat and back.

One thread, which waits for keys even while it answers. Standard library only, and little of it, as in `demo.py`.
"""

from __future__ import annotations

import json
import os
import re
import select
import signal
import sys
import termios
import time
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

USAGE = """usage: python -m hapi.agents.demo_terminal [--session-id ID | --resume ID] [--model MODEL] [PROMPT]

The demo agent in a terminal. Send it /help.

HAPI_DEMO_HOME      keep conversations in this directory, shared with the chat of the demo agent; default:
                    HAPI_HOME/demo in a session of the runner, else in memory
HAPI_DEMO_DELAY_MS  pause after each piece of text (default 2)
"""
_OPTIONS = ("--session-id", "--resume", "--model")
_HISTORY, _SPEW_BYTES, _READ_BYTES = 20, 16_000, 64 * 1024
_PASTE, _PASTE_END = b"\x1b[200~", b"\x1b[201~"
_KEYS = re.compile(rb"\x1b\[[0-9;:<=>?]*[ -/]*[@-~]|\x1bO.|\x1b[^\[O]?|[^\x1b]", re.DOTALL)
_PLAIN, _BOLD, _DIM, _GREEN, _RED = "\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[32m", "\x1b[31m"

PROMPT = f"{_BOLD}> {_PLAIN}"


class _Interrupted(Exception):
    """A key ended the answer."""


class _Over(Exception):
    """The conversation is over for now."""


def _home() -> str | None:
    """Where conversations are kept, as `demo.py` has it."""
    if os.environ.get("HAPI_DEMO_HOME") or not os.environ.get("HAPI_SESSION_ID"):
        return os.environ.get("HAPI_DEMO_HOME")
    return os.path.join(os.environ.get("HAPI_HOME") or os.path.expanduser("~/.hapi"), "demo")


def _private(path: str, flags: int) -> int:
    """For `open`: the file is its owner's only, whatever the umask."""
    return os.open(path, flags, 0o600)


class Memory:
    """A conversation as `demo.py` keeps it: other things in the file stay as they are."""

    def __init__(self, key: str, *, old: bool) -> None:
        """Raises FileNotFoundError for an old one that is not there, ValueError for an id that can be none."""
        if not key.replace("-", "").isalnum():
            raise ValueError(key)
        self.key = key
        home = _home()
        self._path = os.path.join(home, f"{key}.json") if home else None
        self.saved: dict[str, Any] = {"count": 0, "used": 0, "history": []}
        if home:
            os.makedirs(home, mode=0o700, exist_ok=True)
        if old:
            if self._path is None:
                raise FileNotFoundError(key)
            with open(self._path, encoding="utf-8") as file:
                self.saved |= json.load(file)

    def add(self, said: str, answer: str) -> None:
        self.saved["count"] += 1
        self.saved["history"] = [*self.saved["history"], [said, answer]][-_HISTORY:]
        self.save()

    def save(self) -> None:
        if self._path:
            with open(f"{self._path}.new", "w", encoding="utf-8", opener=_private) as file:
                file.write(json.dumps(self.saved))
            os.replace(f"{self._path}.new", self._path)


class Keyboard:
    """Bytes from the terminal, cut into keys and pastes. What comes while it answers is kept for later."""

    def __init__(self) -> None:
        self._bytes = b""
        self._pasting = False
        self.echo = False
        self.typed = ""
        self.lines: list[str] = []

    def line(self) -> str:
        """The next line, asked for where none waits. Raises _Interrupted, _Over."""
        prompt()
        waiting = bool(self.lines)
        write(_on_screen(self.lines[0] + "\n" if waiting else self.typed))
        self.echo = True
        try:
            self.wait(None)
        finally:
            self.echo = False
        return self.lines.pop(0)

    def wait(self, seconds: float | None) -> None:
        """Let time pass (None: until there is a line), working off keys. Raises _Interrupted, _Over."""
        end = None if seconds is None else time.monotonic() + seconds
        while end is not None or not self.lines:
            left = None if end is None else max(0.0, end - time.monotonic())
            ready, _, _ = select.select([0], [], [], left)
            if ready:
                data = os.read(0, _READ_BYTES)
                if not data:
                    raise _Over
                self._take(data)
            elif end is not None:
                return

    def _take(self, data: bytes) -> None:
        self._bytes += data
        while self._bytes:
            if self._pasting:
                pasted, mark, rest = self._bytes.partition(_PASTE_END)
                if not mark:
                    return  # its end is on its way
                self._pasting, self._bytes = False, rest
                self._type(pasted.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n"))
            elif self._bytes.startswith(_PASTE):
                self._pasting, self._bytes = True, self._bytes[len(_PASTE) :]
            elif not self._key():
                return

    def _key(self) -> bool:
        """Take one key off; False when it has not come whole."""
        if self._bytes[0] >= 0x80:
            size = 2 + (self._bytes[0] >= 0xE0) + (self._bytes[0] >= 0xF0)
            if len(self._bytes) < size:
                return False
            key, self._bytes = self._bytes[:size], self._bytes[size:]
        elif len(self._bytes) > 1 and _PASTE.startswith(self._bytes):
            return False
        else:
            match = _KEYS.match(self._bytes)
            key = match.group() if match else self._bytes[:1]
            self._bytes = self._bytes[len(key) :]
        self._press(key)
        return True

    def _press(self, key: bytes) -> None:
        if key in {b"\x1b", b"\x03"}:
            self.typed = ""
            raise _Interrupted
        if key == b"\x04" and not self.typed:
            raise _Over
        if key in {b"\r", b"\n"}:
            self.lines.append(self.typed)
            self.typed = ""
            self._show("\r\n")
        elif key in {b"\x7f", b"\x08"}:
            if self.typed:
                self.typed = self.typed[:-1]
                self._show("\b \b")
        elif key == b"\x15":
            self.typed = ""
            self._show(f"\r\x1b[K{PROMPT}")
        elif key[0] >= 0x20:
            self._type(key.decode(errors="replace"))

    def _type(self, text: str) -> None:
        self.typed += text
        self._show(_on_screen(text))

    def _show(self, text: str) -> None:
        if self.echo:
            write(text)


class Talk:
    """The conversation on the screen."""

    def __init__(self, memory: Memory, keyboard: Keyboard) -> None:
        self.memory, self.keyboard = memory, keyboard
        self._delay = float(os.environ.get("HAPI_DEMO_DELAY_MS") or 2) / 1000
        self._said: list[str] = []

    def run(self, opening: str) -> None:
        """Answer line by line until it is over."""
        self._head()
        if opening:
            self.keyboard.lines.append(opening)
        while True:
            try:
                line = self.keyboard.line()
            except _Interrupted:
                write("\r\n")
            else:
                self.answer(line)

    def _head(self) -> None:
        write(f"{_BOLD}Demo{_PLAIN} {_DIM}conversation {self.memory.key}{_PLAIN}\r\n")
        for said, answer in self.memory.saved["history"]:
            prompt()
            write(_on_screen(f"{said}\n{_GREEN}{answer}{_PLAIN}\n"))

    def answer(self, line: str) -> None:
        """One turn. Raises _Over when it was the last one."""
        if not line.strip():
            return
        self._said = []
        name, _, rest = line.partition(" ")
        try:
            if not name.startswith("/"):
                self.text(f"You said: {line}")
            elif name[1:] in COMMANDS:
                COMMANDS[name[1:]][0](self, rest.strip())
            else:
                self.text(f"There is no command {name}. Try /help.")
        except _Interrupted:
            write(f"\r\n{_RED}Interrupted.{_PLAIN}\r\n")
        except (ValueError, KeyError) as error:
            self.text(f"{name} failed: {error}")
        self.memory.add(line, "".join(self._said))

    def text(self, text: str) -> None:
        """Stream `text` a few words at a time. Raises _Interrupted."""
        for piece in re.findall(r"(?:\S*\s*){1,3}", text):
            self._said.append(piece)
            write(_on_screen(f"{_GREEN}{piece}{_PLAIN}"))
            self.keyboard.wait(self._delay)
        write("\r\n")


def _exit(_talk: Talk, _text: str) -> None:
    raise _Over


def _colors(_talk: Talk, _text: str) -> None:
    write("".join(f"\x1b[48;2;{red};{255 - red};128m " for red in range(0, 256, 8)) + f"{_PLAIN}\r\n")


def _screen(talk: Talk, _text: str) -> None:
    """Take the alternate screen until a line comes."""
    cols, rows = os.get_terminal_size(1)
    write(f"\x1b[?1049h\x1b[2J\x1b[H{_BOLD}The alternate screen, {cols} by {rows}{_PLAIN}\r\nEnter leaves it.\r\n")
    try:
        talk.keyboard.wait(None)
        talk.keyboard.lines.pop(0)
    finally:
        write("\x1b[?1049l")


def _slow(talk: Talk, text: str) -> None:
    seconds, _, count = text.partition(" ")
    chunks = max(1, int(count or 10))
    for at in range(chunks):
        talk.text(f"chunk {at + 1} of {chunks}")
        talk.keyboard.wait(float(seconds) / chunks)


def _title(talk: Talk, text: str) -> None:
    write(f"\x1b]0;{text}\x07")
    talk.text("Done.")


def _size(talk: Talk, _text: str) -> None:
    cols, rows = os.get_terminal_size(1)
    talk.text(f"{cols} by {rows}")


def _spew(_talk: Talk, text: str) -> None:
    for left in range(int(text), 0, -_SPEW_BYTES):
        write(("x" * 98 + "\r\n")[-100:] * (min(left, _SPEW_BYTES) // 100))


def _crash(_talk: Talk, text: str) -> None:
    how, _, what = text.partition(" ")
    if how == "signal":
        signal.raise_signal(signal.Signals[f"SIG{what.upper().removeprefix('SIG')}"])
    else:
        os._exit(int(what or 1))


def _help(talk: Talk, _text: str) -> None:
    talk.text("\n".join(f"/{name}{' ' + hint if hint else ''}  {text}" for name, (_, hint, text) in COMMANDS.items()))


COMMANDS: dict[str, tuple[Callable[[Talk, str], None], str, str]] = {
    "help": (_help, "", "lists these commands"),
    "exit": (_exit, "", "ends the program; so does Ctrl-D"),
    "say": (lambda talk, text: talk.text(text), "TEXT", "says it"),
    "slow": (_slow, "SECONDS [CHUNKS]", "streams that long; Esc or Ctrl-C interrupts"),
    "colors": (_colors, "", "a line of 24-bit colors"),
    "screen": (_screen, "", "takes the alternate screen until Enter"),
    "title": (_title, "TEXT", "sets the window's title"),
    "size": (_size, "", "says how large the terminal is"),
    "count": (lambda talk, _: talk.text(str(talk.memory.saved["count"] + 1)), "", "says how many prompts there were"),
    "env": (lambda talk, text: talk.text(os.environ.get(text, "unset")), "NAME", "shows a variable"),
    "cwd": (lambda talk, _: talk.text(os.getcwd()), "", "shows the working directory"),
    "pid": (lambda talk, _: talk.text(str(os.getpid())), "", "shows my process id"),
    "spew": (_spew, "BYTES", "floods"),
    "crash": (_crash, "[exit CODE | signal NAME]", "dies, leaving the terminal as it is"),
}


def write(text: str) -> None:
    """All of it to the terminal."""
    data = text.encode(errors="replace")
    while data:
        data = data[os.write(1, data) :]


def prompt() -> None:
    """Ask for a line."""
    write(PROMPT)


def _on_screen(text: str) -> str:
    return text.replace("\n", "\r\n")


def options(words: list[str]) -> tuple[dict[str, str], str]:
    """The options by name, and the opening prompt. Exits with the usage for words that make no sense."""
    found: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if name in {"-h", "--help"}:
            print(USAGE, end="")  # noqa: T201 - that is what it is for
            sys.exit(0)
        if name not in _OPTIONS or not (equals or rest):
            sys.exit(f"{USAGE}\n{name}: no such option, or no value for it")
        found[name] = value if equals else rest.pop(0)
    return found, " ".join(rest)


def main() -> None:
    """Talk until the terminal goes, or the person does; the terminal is then as it was."""
    chosen, opening = options(sys.argv[1:])
    if not (os.isatty(0) and os.isatty(1)):
        sys.exit("The demo agent's own interface needs a terminal.")
    old = chosen.get("--resume")
    try:
        memory = Memory(old or chosen.get("--session-id") or os.urandom(16).hex(), old=old is not None)
        memory.save()
    except (OSError, ValueError) as error:
        sys.exit(f"No such conversation: {error}")
    before = termios.tcgetattr(0)
    for number in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead is kept
    write("\x1b[?2004h")
    try:
        Talk(memory, Keyboard()).run(opening)
    except (_Over, _Interrupted):
        write("\r\n")
    finally:
        write("\x1b[?2004l")
        termios.tcsetattr(0, termios.TCSANOW, before)


if __name__ == "__main__":
    main()
