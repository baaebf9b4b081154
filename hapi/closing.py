"""The end of a session whose supervisor died without a last word: what its directory still needs.

The reaper does this under the directory's lock, so that a supervisor which continues the session keeps it out.
"""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from hapi import remains, workspace
from hapi.clock import now_ms
from hapi.errors import HapiError
from hapi.files import FileLock
from hapi.ids import ProcessId
from hapi.journal import Journal
from hapi.lifecycle import Phase
from hapi.paths import Paths
from hapi.store import SessionDirectory
from hapi.wire import Indeterminate, Note, TurnEnded, UserMessage, Watched

QUOTED = 60

logger = logging.getLogger(__name__)


class Closed(msgspec.Struct, frozen=True):
    """What was left: how many processes were ended, which survive, and how many messages are of unknown fate."""

    reaped: int = 0
    survivors: list[ProcessId] = []
    unknown_messages: int = 0


def clean_up(watched: Watched, paths: Paths, deadline_s: float) -> Closed:
    """End what a dead supervisor left running, at most `deadline_s`, then put on record what it could not.

    Nothing happens when another supervisor holds the session's directory: then all that carries its mark is that
    one's. Blocks.
    """
    directory = SessionDirectory(paths.session(watched.session_id))
    lock = FileLock(directory.lock)
    try:
        if directory.path.is_dir() and not lock.acquire():
            return Closed()
    except OSError as error:
        logger.warning("cannot lock %s: %s", directory.path, error)
    try:
        reaped, survivors = remains.end(watched.session_id, watched.agent, paths.home, deadline_s)
        _remove_socket(paths.terminal_socket(watched.session_id))
        return Closed(reaped, survivors, _close(directory) if directory.path.is_dir() else 0)
    finally:
        lock.release()


def close(directory: SessionDirectory) -> int:
    """Put on record what the dead supervisor could not; returns how many messages are of unknown fate.

    The journal gets the end of the turn that was cut; a worktree made for a session that never became ready goes,
    unless something was changed in it. Repeating it changes nothing. Bounded by the journal's size and git's time-out.
    """
    if not directory.path.is_dir():
        return 0
    lock = FileLock(directory.lock)
    try:
        return _close(directory) if lock.acquire() else 0  # not there: the session goes on under another supervisor
    except OSError as error:
        logger.warning("cannot lock %s: %s", directory.path, error)
        return 0
    finally:
        lock.release()


def _remove_socket(path: Path) -> None:
    """Nobody listens there any more."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("cannot remove %s: %s", path, error.strerror)


def _close(directory: SessionDirectory) -> int:
    try:
        _remove_worktree(directory)
        return _end_turn(directory)
    except OSError as error:
        logger.warning("cannot close the journal of %s: %s", directory.path.name, error)
        return 0


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
