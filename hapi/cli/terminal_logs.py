"""`hapi logs` of a session in a terminal: the text on its screen and what scrolled off it, and then what comes."""

from __future__ import annotations

import select
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from hapi import wire
from hapi.cli import output
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.files import read_file
from hapi.lifecycle import Phase
from hapi.store import SessionDirectory

if TYPE_CHECKING:
    from hapi.terminal.protocol import Attached, Replay, ToViewer
    from hapi.terminal.screen import Screen

_TICK_S = 0.5
_ALTERNATE = b"\x1b[?1049h"


class Wanted(msgspec.Struct, frozen=True):
    """What of the log: only its last `count` lines, what comes after it, each line as JSON."""

    count: int | None = None
    follow: bool = False
    as_json: bool = False


def show(config: Config, directory: SessionDirectory, info: wire.SessionInfo, wanted: Wanted) -> None:
    """Print the log. Raises HapiError: no_logs for an ended session of which none is kept, and as `connect` does."""
    if info.phase is Phase.ENDED:
        _print(_kept(directory), wanted)
    else:
        _live(config, info.session_id, wanted)


def _kept(directory: SessionDirectory) -> list[str]:
    try:
        return read_file(directory.scrollback).decode(errors="replace").splitlines()
    except OSError:
        message = f"Of the terminal of session {directory.path.name} nothing is kept."
        raise HapiError(ErrorCode.NO_LOGS, message, f"Looked for {directory.scrollback}") from None


def _live(config: Config, session_id: str, wanted: Wanted) -> None:
    from hapi.terminal.client import connect  # late: the emulator is large
    from hapi.terminal.protocol import Attach

    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)  # reports an error once the other end of a pipe is closed
    with connect(config.paths.terminal_socket(session_id), Attach(read_only=True, viewer="logs")) as connection:
        listener = _Listener(connection.attached, wanted)
        while not (reader.poll(0) or listener.take(connection.receive(_TICK_S))):
            sys.stdout.flush()


class _Listener:
    """Prints what a terminal says: its text first, then, if wanted, each line that is complete."""

    def __init__(self, attached: Attached, wanted: Wanted) -> None:
        from hapi.terminal.plain import Plain
        from hapi.terminal.screen import Screen as Emulator

        self._attached = attached
        self._wanted = wanted
        self._screen: Screen | None = Emulator(attached.cols, attached.rows)
        self._plain = Plain()

    def take(self, message: ToViewer | None) -> bool:
        """Print what the message brings; whether that was all."""
        from hapi.terminal.protocol import Ended, Output, Replay

        match message:
            case Replay():
                return self._drawn(message)
            case Output(data):
                self._say(self._plain.feed(data))
            case Ended(reason=reason):
                self._say(self._plain.rest())
                sys.stdout.flush()
                output.note(f"The session has ended: {output.clean(reason)}.")
                return True
        return False

    def _drawn(self, replay: Replay) -> bool:
        """The whole screen: at the beginning, and when output was left out."""
        screen, self._screen = self._screen, None
        if screen is None:
            self._say([f"[{replay.lost} bytes were left out: they came too fast]"])
            return False
        screen.feed(replay.data)
        _print(screen.text().splitlines(), self._wanted)
        if screen.alternate and self._wanted.follow:
            self._plain.feed(_ALTERNATE)
            key = self._attached.info.session_id[:8]
            output.note(f"A program has the whole screen. See it: hapi attach {key} --read-only")
        return not self._wanted.follow

    def _say(self, lines: Sequence[str]) -> None:
        _print(lines, msgspec.structs.replace(self._wanted, count=None))


def _print(lines: Sequence[str], wanted: Wanted) -> None:
    shown = lines if wanted.count is None else lines[max(0, len(lines) - wanted.count) :]
    for line in shown:
        output.say(
            msgspec.json.encode({"type": "line", "text": line}).decode() if wanted.as_json else output.clean(line)
        )
