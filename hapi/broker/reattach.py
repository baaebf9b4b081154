"""What to make of the session records that a new broker finds on disk. `verdict` is pure; `scan` reads the facts."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path

import msgspec

from hapi import procs
from hapi.errors import HapiError
from hapi.lifecycle import Phase
from hapi.store import SessionDirectory, session_directories
from hapi.wire import SessionInfo

logger = logging.getLogger(__name__)


class Verdict(StrEnum):
    """What becomes of a record: every one gets a verdict, every verdict is logged and counted."""

    ADOPTED = "adopted"
    ENDED = "ended"
    QUARANTINED = "quarantined"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that may be held for or against a session. A time-out is not among them: it proves nothing."""

    readable: bool
    heard: bool = False
    same_boot: bool = True
    supervisor_alive: bool = False
    grace_over: bool = False


def verdict(facts: Facts) -> Verdict | None:
    """The verdict, or None while there is still a supervisor to wait for.

    Whoever speaks is adopted. Only a proven death ends a session; what is alive but silent, or whose record cannot be
    read, is put aside for a person or for a later hello.
    """
    if facts.heard:
        return Verdict.ADOPTED
    if not facts.readable:
        return Verdict.QUARANTINED
    if not facts.same_boot or not facts.supervisor_alive:
        return Verdict.ENDED
    return Verdict.QUARANTINED if facts.grace_over else None


class Record(msgspec.Struct, frozen=True):
    """A session directory as found at start-up; `info` is None when its state cannot be read."""

    session_id: str
    info: SessionInfo | None
    facts: Facts


def scan(sessions: Path) -> list[Record]:
    """Read every record; takes about 0.1 ms each. Damaged ones are moved aside, none is deleted."""
    return [_read(directory) for directory in session_directories(sessions) if directory.path.is_dir()]


def _read(directory: SessionDirectory) -> Record:
    session_id = directory.path.name
    try:
        info = directory.read_state()
    except HapiError as error:
        logger.warning("record %s cannot be read: %s", session_id, error.message)
        _put_aside(directory)
        return Record(session_id, None, Facts(readable=False))
    if info.phase is Phase.ENDED or info.supervisor is None:
        return Record(session_id, info, Facts(readable=True))
    alive = procs.is_alive(info.supervisor)
    if not alive and (ended := _last_word(directory)) is not None:
        return Record(session_id, ended, Facts(readable=True))
    same_boot = info.supervisor.boot_id == procs.boot_id()
    return Record(session_id, info, Facts(readable=True, same_boot=same_boot, supervisor_alive=alive))


def _last_word(directory: SessionDirectory) -> SessionInfo | None:
    """The record once more, now that its writer is known to be dead, if it says that the session has ended."""
    try:
        info = directory.read_state()
    except HapiError:
        return None
    return info if info.phase is Phase.ENDED else None


def _put_aside(directory: SessionDirectory) -> None:
    try:
        logger.warning("moved to %s", directory.quarantine_state())
    except FileNotFoundError:
        logger.warning("%s has no state.json", directory.path)
    except OSError as error:
        logger.warning("%s cannot be moved aside: %s", directory.state, error)
