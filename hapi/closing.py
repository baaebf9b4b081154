"""The end of a session whose supervisor died without a last word: what its directory still needs.

Whoever closes a record holds the directory's lock, so that a supervisor which continues the session keeps us out.
"""

from __future__ import annotations

import logging

from hapi import workspace
from hapi.clock import now_ms
from hapi.errors import HapiError
from hapi.files import FileLock
from hapi.journal import Journal
from hapi.lifecycle import Phase
from hapi.store import SessionDirectory
from hapi.wire import Indeterminate, Note, TurnEnded, UserMessage

QUOTED = 60

logger = logging.getLogger(__name__)


def close(directory: SessionDirectory) -> int:
    """Put on record what the dead supervisor could not; returns how many messages are of unknown fate.

    The journal gets the end of the turn that was cut; a worktree made for a session that never became ready goes,
    unless something was changed in it. Repeating it changes nothing. Bounded by the journal's size and git's time-out.
    """
    if not directory.path.is_dir():
        return 0
    lock = FileLock(directory.lock)
    try:
        if not lock.acquire():
            return 0  # the session goes on under another supervisor
    except OSError as error:
        logger.warning("cannot lock %s: %s", directory.path, error)
        return 0
    try:
        _remove_worktree(directory)
        return _end_turn(directory)
    except OSError as error:
        logger.warning("cannot close the journal of %s: %s", directory.path.name, error)
        return 0
    finally:
        lock.release()


def cut_turn(journal: Journal, why: str) -> int:
    """Journal the end of a turn that was cut, if one is open; returns how many messages are of unknown fate."""
    message = journal.state.in_flight
    if message is not None:
        for event in unknown_fate(message):
            journal.emit(event, now_ms())
    if journal.state.turn_open:
        journal.emit(Note(why, is_error=True), now_ms())
        journal.emit(TurnEnded("lost", more=True), now_ms())  # nobody is called to look: nothing is ready
    return int(message is not None)


def unknown_fate(message: UserMessage) -> list[Indeterminate | Note]:
    """What the hub and the person are told of a message that may or may not have reached the agent."""
    words = f"Whether the agent got this message is not known: {quote(message.text)}"
    return [Indeterminate([message.local_id] if message.local_id else []), Note(words, is_error=True)]


def quote(text: str) -> str:
    """The beginning of a message, for a sentence about it."""
    line = " ".join(text.split())
    return f"“{line[:QUOTED]}…”" if len(line) > QUOTED else f"“{line}”"


def _end_turn(directory: SessionDirectory) -> int:
    if not directory.journal.exists():
        return 0
    journal = Journal(directory.journal)
    try:
        unknown = cut_turn(journal, "The session's supervisor was lost; the turn that ran was cut.")
        journal.sync()
    finally:
        journal.close()
    return unknown


def _remove_worktree(directory: SessionDirectory) -> None:
    try:
        info = directory.read_state()
    except HapiError:
        return
    if info.worktree is None or info.phase is not Phase.STARTING or info.generation > 1:
        return
    try:
        removed = workspace.remove_unused_worktree(info.worktree)
    except HapiError as error:
        logger.warning("cannot remove the worktree %s: %s", info.worktree.worktree_path, error.message)
    else:
        logger.info(
            "worktree %s of a spawn that failed: %s", info.worktree.worktree_path, "removed" if removed else "kept"
        )
