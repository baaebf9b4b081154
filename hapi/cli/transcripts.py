"""`hapi logs`: what was said in a session, as far as it is kept, and then what is said; needs no runner."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable, Iterable
from typing import Annotated

import typer

from hapi import transcript, wire
from hapi.cli import output, terminal_logs
from hapi.cli.common import Json, examples
from hapi.cli.logs import find_session
from hapi.cli.scope import load
from hapi.cli.sessions import end_words
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import Phase
from hapi.store import SessionDirectory
from hapi.transcript import Answered, Line, Remark, Result, Said, Tail, Used

_TICK_MS = 200


def register(app: typer.Typer) -> None:
    """Add `hapi logs`."""
    app.command(
        "logs",
        epilog=examples(
            "hapi logs 1f0c", "hapi logs 1f0c -f", "hapi logs 1f0c --json | jq -r 'select(.type==\"agent\").text'"
        ),
    )(logs)


def logs(
    target: Annotated[str, typer.Argument(metavar="ID", help="A session id, or a unique prefix of one.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as it grows, until the session ends.")] = False,  # noqa: FBT002
    count: Annotated[
        int | None, typer.Option("-n", metavar="N", min=0, help="Only the last N entries, or lines.")
    ] = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Print what was said in a session, live or ended: messages, answers, tools; or the text in its terminal.

    With --json one object a line.
    """
    config = load()
    directory = find_session(config, target)
    info = _record(directory)
    if info is not None and info.driver == "pty":
        terminal_logs.show(config, directory, info, terminal_logs.Wanted(count, follow, as_json))
        return
    if not directory.transcript.exists() and not (follow and (info is None or info.phase is not Phase.ENDED)):
        raise HapiError(ErrorCode.NO_LOGS, f"Nothing was said in session {directory.path.name}, or it is too old.")
    show = _copy if as_json else Script().show
    with Tail(directory.transcript, whole=True) as tail:
        lines = tail.lines()
        show(lines if count is None else lines[max(0, len(lines) - count) :])
        if follow:
            follow_until_ended(directory, lambda: show(tail.lines()))


def _record(directory: SessionDirectory) -> wire.SessionInfo | None:
    """The session's record; None for one that cannot be read."""
    try:
        return directory.read_state()
    except HapiError:
        return None


def follow_until_ended(directory: SessionDirectory, show: Callable[[], None]) -> None:
    """Call `show` about every 0.2 s until the session has ended, and once more; then say why it ended.

    Returns, too, when nobody reads stdout any more; Ctrl-C raises KeyboardInterrupt.
    """
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)  # reports an error once the other end of a pipe is closed
    record = _Record(directory)
    while True:
        ended = record.ended()
        show()
        sys.stdout.flush()
        if ended is not None:
            output.note(f"The session has ended: {end_words(ended)}.")
            return
        if reader.poll(_TICK_MS):
            return


class _Record:
    """The session's record, read again when it is another."""

    def __init__(self, directory: SessionDirectory) -> None:
        self._directory = directory
        self._seen: tuple[int, int] | None = None

    def ended(self) -> wire.SessionInfo | None:
        """The record, if it says that the session has ended."""
        try:
            status = os.stat(self._directory.state)
            seen = (status.st_ino, status.st_mtime_ns)
            if seen == self._seen:
                return None
            info = self._directory.read_state()
        except (OSError, HapiError):
            return None
        self._seen = seen
        return info if info.phase is Phase.ENDED else None


class Script:
    """Lines of a transcript as people read them: `> ` before what they said, `· ` before tools, `! ` before our remarks."""

    def __init__(self) -> None:
        self._titles: dict[str, str] = {}

    def show(self, lines: Iterable[bytes]) -> None:
        """Print them; what is damaged or of a newer kind is left out."""
        for data in lines:
            line = transcript.decode(data)
            if line is not None:
                for text in self._text(line):
                    output.say(text)

    def _text(self, line: Line) -> list[str]:
        match line:
            case Said():
                return [output.paint(f"> {part}", "bold") for part in (*plain(line.text), *map(_file, line.files))]
            case Answered():
                return plain(line.text)
            case Used():
                return self._used(line)
            case Result():
                return [output.paint(f"· failed: {self._title(line)}", "red")] if line.is_error else []
            case Remark():
                return [output.paint(f"! {part}", "red" if line.is_error else "yellow") for part in plain(line.text)]
        return (
            [""] if line.stop_reason == "end_turn" else [output.paint(f"({output.clean(line.stop_reason)})", "dim"), ""]
        )

    def _title(self, line: Result) -> str:
        return self._titles.get(line.call_id) or output.clean(line.call_id)

    def _used(self, call: Used) -> list[str]:
        title = output.clean(call.title or call.name)
        if self._titles.get(call.call_id) == title:
            return []
        self._titles[call.call_id] = title
        return [output.paint(f"· {title}", "dim")]


def plain(text: str) -> list[str]:
    """Foreign text as lines that do not steer the terminal."""
    return [output.clean(line.expandtabs()) for line in text.splitlines()]


def _file(name: str) -> str:
    return f"[{output.clean(name)}]"


def _copy(lines: Iterable[bytes]) -> None:
    for line in lines:
        sys.stdout.write(line.decode(errors="replace") + "\n")
