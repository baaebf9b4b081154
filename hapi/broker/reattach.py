"""What to make of the session records that a new broker finds on disk. `verdict` is pure; `scan` reads the facts."""

from __future__ import annotations

import logging
from enum import StrEnum
from pathlib import Path

import msgspec

from hapi import files, ids, procs
from hapi.errors import HapiError
from hapi.kin import may_supervise
from hapi.lifecycle import READY, Phase
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
    RESTARTED = "restarted"
    ENDED = "ended"
    QUARANTINED = "quarantined"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that may be held for or against a session. A time-out is not among them: it proves nothing.

    `damaged`: what should be the record is none, and was put aside. A record that is neither readable nor damaged may
    be a newer build's or another user's. `interrupted`: the session was ready when its boot ended.
    """

    readable: bool
    damaged: bool = False
    heard: bool = False
    same_boot: bool = True
    supervisor_alive: bool = False
    interrupted: bool = False
    grace_over: bool = False


def verdict(facts: Facts) -> Verdict | None:
    """The verdict, or None while there is still a supervisor to wait for.

    Whoever speaks is adopted. Only a proven death ends a session, and a death that came with the machine's is made
    good; what is alive but silent, or whose record cannot be understood, is put aside for a person or a later hello.
    """
    if facts.heard:
        return Verdict.ADOPTED
    if not facts.readable and not facts.damaged:
        return Verdict.QUARANTINED
    if facts.supervisor_alive and facts.same_boot:
        return Verdict.QUARANTINED if facts.grace_over else None
    return Verdict.RESTARTED if facts.interrupted and not facts.same_boot else Verdict.ENDED


class Record(msgspec.Struct, frozen=True):
    """A session directory as found at start-up; `info` is None when it is not understood.

    The `info` of a damaged record is what the rest of the directory tells. `fault`: what is wrong with it. `untold`: the hub has yet to hear of the end.
    """

    session_id: str
    info: SessionInfo | None
    facts: Facts
    fault: Fault | None = None
    untold: bool = False


def scan(sessions: Path, namespace: str) -> list[Record]:
    """Read every record; takes about 0.1 ms each. Damaged ones are moved aside, none is deleted.

    What another version wrote, or the system does not let us read, may be sound: it stays where it is.
    """
    return [_read(directory, namespace) for directory in session_directories(sessions) if directory.path.is_dir()]


def troubles(records: list[Record]) -> list[str]:
    """What a person should know of the records that cannot be read; at most one line."""
    bad = [record for record in records if record.fault is not None]
    if not bad:
        return []
    some = ", ".join(f"{record.session_id[:13]} ({_WORDS[record.fault]})" for record in bad[:_SHOWN] if record.fault)
    more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
    return [f"{len(bad)} session record{'s' * (len(bad) > 1)} cannot be read: {some}{more}"]


def _read(directory: SessionDirectory, namespace: str) -> Record:
    session_id = directory.path.name
    try:
        info = directory.read_state()
    except StateUnreadable as error:
        logger.warning("record %s is %s: %s", session_id, _WORDS[error.fault], error.message)
        return _unreadable(directory, namespace, error.fault)
    alive = _has_supervisor(info, directory)
    if not alive:
        info = _last_word(directory) or info
    if info.phase is Phase.ENDED:
        return Record(session_id, info, Facts(readable=True), untold=not directory.is_told(info.generation))
    facts = Facts(
        readable=True,
        same_boot=info.supervisor is None or info.supervisor.boot_id == procs.boot_id(),
        supervisor_alive=alive,
        interrupted=info.supervisor is not None and info.phase in READY,
    )
    if not alive and info.supervisor is not None and procs.is_alive(info.supervisor):
        info = msgspec.structs.replace(info, supervisor=None)  # a stranger's: nobody waits for its death
    return Record(session_id, info, facts)


def _has_supervisor(info: SessionInfo, directory: SessionDirectory) -> bool:
    """Whether the recorded supervisor lives, and is one: a stranger with its identity holds no lock of the session."""
    who = info.supervisor
    return who is not None and procs.is_alive(who) and may_supervise(who.pid, directory.lock)


def _last_word(directory: SessionDirectory) -> SessionInfo | None:
    """The record once more, now that its writer is known to be dead, if it says that the session has ended."""
    try:
        info = directory.read_state()
    except HapiError:
        return None
    return info if info.phase is Phase.ENDED else None


def _unreadable(directory: SessionDirectory, namespace: str, fault: Fault) -> Record:
    session_id = directory.path.name
    unknown = Record(session_id, None, Facts(readable=False), fault)
    if fault in {Fault.REFUSED, Fault.NEWER} or not _is_session(session_id):
        return unknown
    try:
        held = files.is_locked(directory.lock)
        kept = _put_aside(directory)
    except OSError as error:
        logger.warning("%s cannot be mended: %s", directory.path, error)
        return unknown
    facts = Facts(readable=False, damaged=True, supervisor_alive=held)
    return Record(session_id, _rebuilt(directory, namespace, kept), facts, fault)


def _is_session(name: str) -> bool:
    try:
        return ids.session_id(name) == name
    except HapiError:
        return False


def _put_aside(directory: SessionDirectory) -> str:
    """Move the damaged state out of the way; says what became of it."""
    try:
        kept = directory.quarantine_state()
    except FileNotFoundError:
        return "The session's state.json was missing."
    logger.warning("moved to %s", kept)
    return f"The session's state.json was damaged; it is kept as {kept.name}."


def _rebuilt(directory: SessionDirectory, namespace: str, detail: str) -> SessionInfo:
    """The record of a session of which only the rest of its directory is left."""
    try:
        spec = directory.read_spec()
        agent, place, started_by = spec.agent, spec.directory, spec.started_by
    except HapiError:
        agent, place, started_by = "unknown", "", "runner"
    return SessionInfo(
        session_id=directory.path.name,
        namespace=namespace,
        agent=agent,
        directory=place,
        phase=Phase.IDLE,
        started_by=started_by,
        started_at=int(directory.path.stat().st_ctime * 1000),
        generation=max(directory.newest_promise(), directory.last_generation()),
        detail=detail,
    )
