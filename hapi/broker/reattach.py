"""What to make of the session records that a new broker finds on disk. `verdict` is pure; `scan` reads the facts."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path

import msgspec

from hapi import procs
from hapi.lifecycle import Phase
from hapi.store import Fault, SessionDirectory, StateUnreadable, session_directories
from hapi.wire import SessionInfo

_SHOWN = 5
_WORDS = {
    Fault.MISSING: "missing",
    Fault.DAMAGED: "damaged",
    Fault.REFUSED: "not readable for us",
    Fault.NEWER: "of another version",
}

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
    """A session directory as found at start-up; `info` is None when its state cannot be read, `fault` says why."""

    session_id: str
    info: SessionInfo | None
    facts: Facts
    fault: Fault | None = None


def scan(sessions: Path) -> list[Record]:
    """Read every record; takes about 0.1 ms each. Damaged ones are moved aside, none is deleted.

    What another version wrote, or the system does not let us read, may be sound: it stays where it is.
    """
    return [_read(directory) for directory in session_directories(sessions) if directory.path.is_dir()]


def troubles(records: list[Record]) -> list[str]:
    """What a person should know of the records that cannot be read; at most one line."""
    bad = [record for record in records if record.fault is not None]
    if not bad:
        return []
    some = ", ".join(f"{record.session_id[:13]} ({_WORDS[record.fault]})" for record in bad[:_SHOWN] if record.fault)
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return [f"{len(bad)} session record{'s' * (len(bad) > 1)} cannot be read: {some}{more}"]


def _read(directory: SessionDirectory) -> Record:
    session_id = directory.path.name
    try:
        info = directory.read_state()
    except StateUnreadable as error:
        logger.warning("record %s is %s: %s", session_id, _WORDS[error.fault], error.message)
        if error.fault is Fault.DAMAGED:
            _put_aside(directory)
        return Record(session_id, None, Facts(readable=False), error.fault)
    if info.phase is Phase.ENDED or info.supervisor is None:
        return Record(session_id, info, Facts(readable=True))
    same_boot = info.supervisor.boot_id == procs.boot_id()
    facts = Facts(readable=True, same_boot=same_boot, supervisor_alive=procs.is_alive(info.supervisor))
    return Record(session_id, info, facts)


def _put_aside(directory: SessionDirectory) -> None:
    try:
        logger.warning("moved to %s", directory.quarantine_state())
    except OSError as error:
        logger.warning("%s cannot be moved aside: %s", directory.state, error)
