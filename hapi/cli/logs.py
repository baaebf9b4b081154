"""Finding a log file, and printing one as it grows."""

from __future__ import annotations

import os
import select
import sys
from pathlib import Path
from typing import BinaryIO

from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.store import SessionDirectory

WORKERS = ("hub", "reaper", "nursery")
_FIRST_LINES = 10
_FIRST_BYTES = 16 * 1024
_CHUNK = 64 * 1024
_TICK_MS = 200


def find(config: Config, *, worker: str | None = None, session: str | None = None, agent: bool = False) -> Path:
    """The log that was asked for; the runner's own by default. It exists.

    Raises HapiError: usage for words that do not go together, no_logs, unknown_session, ambiguous_session.
    """
    if (worker and session) or (agent and not session):
        raise HapiError(ErrorCode.USAGE, "--worker and --session exclude each other; --agent needs --session.")
    if session:
        found = find_session(config, session)
        return _existing(found.agent_log if agent else found.log, f"Session {found.path.name} has no such log.")
    if worker:
        if worker not in WORKERS:
            raise HapiError(ErrorCode.USAGE, f"There is no worker {worker!r}.", f"Workers: {', '.join(WORKERS)}")
        return _existing(config.paths.log(worker), f"No logs of the {worker} worker found.")
    return _existing(config.paths.log("runner"), "No runner logs found")


def find_session(config: Config, prefix: str) -> SessionDirectory:
    """The session directory, live or ended, whose id begins with `prefix`."""
    wanted = prefix.lower()
    try:
        names = sorted(entry.name for entry in config.paths.sessions.iterdir() if entry.name.startswith(wanted))
    except FileNotFoundError:
        names = []
    if not names or wanted.startswith("."):
        hint = "See them all: hapi runner list --ended"
        raise HapiError(ErrorCode.UNKNOWN_SESSION, f"No session begins with {prefix!r}.", hint)
    if len(names) > 1:
        some = ", ".join(name[:13] for name in names[:5])
        raise HapiError(ErrorCode.AMBIGUOUS_SESSION, f"{len(names)} sessions begin with {prefix!r}: {some}")
    return SessionDirectory(config.paths.session(names[0]))


def follow(path: Path) -> None:
    """Copy the last lines of a log to stdout and then whatever is added, through rotations.

    Returns when nobody reads stdout any more; Ctrl-C raises KeyboardInterrupt.
    """
    reader = select.poll()
    reader.register(sys.stdout.fileno(), 0)  # reports an error once the other end of a pipe is closed
    file = path.open("rb")
    try:
        _skip_to_end(file)
        while True:
            _copy(file)
            if not _is_current(file, path):
                _copy(file)
                file.close()
                file = path.open("rb")
            elif reader.poll(_TICK_MS):
                return
    finally:
        file.close()


def _existing(path: Path, otherwise: str) -> Path:
    if path.is_file():
        return path
    raise HapiError(ErrorCode.NO_LOGS, otherwise, f"Looked for {path}")


def _skip_to_end(file: BinaryIO) -> None:
    """Leave only the last lines to be read."""
    start = max(0, os.fstat(file.fileno()).st_size - _FIRST_BYTES)
    file.seek(start)
    data = file.read(_FIRST_BYTES)
    lines = data.splitlines(keepends=True)[-_FIRST_LINES:]
    file.seek(start + len(data) - sum(map(len, lines)))


def _copy(file: BinaryIO) -> None:
    while data := file.read(_CHUNK):
        sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _is_current(file: BinaryIO, path: Path) -> bool:
    """Whether `file` is still what `path` names, and was not cut short. False only if `path` can be opened anew."""
    mine = os.fstat(file.fileno())
    try:
        named = path.stat()
    except FileNotFoundError:
        return True
    return (mine.st_dev, mine.st_ino) == (named.st_dev, named.st_ino) and named.st_size >= file.tell()
