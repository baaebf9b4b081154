"""Finding the worktrees of this home's sessions, looking into them, removing one. Decisions are in `worktrees`.

Blocks: a handful of git calls per worktree, each bounded by `workspace.GIT_TIMEOUT_S`, and one walk through its
directories; a removal is bounded by REMOVAL_TIMEOUT_S.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hapi import procs
from hapi.errors import ErrorCode, HapiError
from hapi.files import FileLock
from hapi.lifecycle import Phase
from hapi.paths import Paths, all_namespaces
from hapi.store import SessionDirectory, session_directories
from hapi.wire import SessionInfo, WorktreeInfo
from hapi.workspace import git
from hapi.worktrees import Facts, Worktree, judge, looks_like_ours

MAX_DIRECTORIES = 200_000
REMOVAL_TIMEOUT_S = 600.0  # one that is cut short leaves half a worktree, which looks like changed files ever after
_LOCK_PATIENCE_S = 0.5
_MOVES = ("checkout:", "reset:", "rebase")  # what makes no commit of its own; a rebase's are copies
_OPERATIONS = {
    "rebase-merge": "rebase",
    "rebase-apply": "rebase",
    "MERGE_HEAD": "merge",
    "CHERRY_PICK_HEAD": "cherry-pick",
    "REVERT_HEAD": "revert",
    "BISECT_LOG": "bisect",
}
_PLAIN = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false")


class Removed(msgspec.Struct, frozen=True):
    """A worktree is gone; `branch_kept` says in git's words why its branch is not, "" when it went too."""

    branch_kept: str = ""


class _Entry(msgspec.Struct):
    """A worktree as git lists it."""

    path: str
    branch: str | None = None
    locked: str | None = None


class Survey:
    """What all namespaces of a home have on record. Made anew for each look: it remembers what it has seen."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._records = list(_records(home))
        self._directories: dict[int, str] | None = None
        self._entries: dict[str, dict[str, _Entry]] = {}
        self._failures: dict[str, str] = {}

    def worktrees(self) -> list[Worktree]:
        """The worktrees on record of which anything is left, and those beside them that look like ours; oldest first."""
        places = {info.worktree.worktree_path: info.worktree for _, info in self._records if info.worktree is not None}
        for base in sorted({place.base_path for place in places.values()}):
            for entry in self._listed(base).values():
                if entry.branch and entry.path not in places and looks_like_ours(entry.path, entry.branch, base):
                    name = os.path.basename(entry.path)
                    places[entry.path] = WorktreeInfo(base, entry.branch, name, entry.path, 0)
        ordered = sorted(places.values(), key=lambda place: (place.created_at, place.worktree_path))
        return [self.look(place) for place in ordered if self._is_left(place)]

    def look(self, place: WorktreeInfo) -> Worktree:
        """That worktree, with all that is known of it now."""
        try:
            facts = self._facts(place)
        except HapiError as error:
            facts = Facts(recorded=self._recorded(place), **self._users(place), trouble=error.message)
        sessions = [info.session_id for _, info in self._records if _ran_in(info, place)]
        return Worktree(place=place, sessions=tuple(sessions), facts=facts, verdict=judge(place, facts))

    def locks(self, place: WorktreeInfo) -> list[FileLock]:
        """The locks that keep the sessions of that worktree from being continued."""
        return [FileLock(directory.lock) for directory, info in self._records if _ran_in(info, place)]

    def _is_left(self, place: WorktreeInfo) -> bool:
        """Whether its directory or git's memory of it is there; where git does not answer, we cannot say no."""
        known = place.worktree_path in self._listed(place.base_path)
        return known or place.base_path in self._failures or os.path.lexists(place.worktree_path)

    def _recorded(self, place: WorktreeInfo) -> bool:
        return any(info.worktree is not None and _same(info.worktree, place) for _, info in self._records)

    def _users(self, place: WorktreeInfo) -> dict[str, Any]:
        if self._directories is None:
            self._directories = procs.working_directories()
        real = os.path.realpath(place.worktree_path)  # as the kernel calls it
        inside = [pid for pid, path in self._directories.items() if _inside(path, real)]
        live = [info for _, info in self._records if _ran_in(info, place) and info.phase is not Phase.ENDED]
        return {"open_sessions": len(live), "processes": len(inside)}

    def _listed(self, base: str) -> dict[str, _Entry]:
        """The worktrees of a repository by their paths; {} when git does not say."""
        if base not in self._entries:
            try:
                listed = _ask(base, "worktree", "list", "--porcelain")
                self._entries[base] = {entry.path: entry for entry in _entries(listed)}
            except HapiError as error:
                self._entries[base] = {}
                self._failures[base] = error.message
        return self._entries[base]

    def _facts(self, place: WorktreeInfo) -> Facts:
        recorded, users = self._recorded(place), self._users(place)
        entry = self._listed(place.base_path).get(place.worktree_path)
        if place.base_path in self._failures:
            return Facts(recorded=recorded, **users, trouble=self._failures[place.base_path])
        if entry is None:
            return Facts(recorded=recorded, **users, registered=False)
        present = os.path.isdir(place.worktree_path)
        if not present and not os.path.isdir(os.path.dirname(place.worktree_path)):
            return Facts(recorded=recorded, **users, trouble="not even the directory above it is there")
        facts = Facts(recorded=recorded, **users, present=present, locked=entry.locked, branch=entry.branch)
        if entry.branch != place.branch:
            return facts
        content = _content(place.worktree_path) if present else {}
        strays = _strays(place) if present else 0
        return msgspec.structs.replace(facts, **content, **_history(place), strays=strays)


def remove(place: WorktreeInfo, home: Path) -> Removed:
    """Remove that worktree, and its branch if `git branch -d` would.

    Looks again first, while no session of it can be continued. Raises HapiError(worktree_failed): it is kept, and why.
    """
    with contextlib.ExitStack() as held:
        for lock in Survey(home).locks(place):
            try:
                if not lock.acquire(patience_s=_LOCK_PATIENCE_S):
                    raise _kept("a session of it is being continued")
            except OSError as error:
                raise _kept(f"the lock of a session of it: {error.strerror}") from None
            held.callback(lock.release)
        why = Survey(home).look(place).verdict.kept  # a second look, under the locks
        if why is not None:
            raise _kept(why)
        _ask(place.base_path, "worktree", "remove", place.worktree_path, timeout_s=REMOVAL_TIMEOUT_S)
    with contextlib.suppress(OSError):  # somebody else's worktrees are in it
        os.rmdir(os.path.dirname(place.worktree_path))
    try:
        _ask(place.base_path, "branch", "-d", place.branch)
    except HapiError as error:
        return Removed(error.message)
    return Removed()


def _records(home: Path) -> Iterator[tuple[SessionDirectory, SessionInfo]]:
    for namespace in all_namespaces(home):
        for directory in session_directories(Paths(home, namespace).sessions):
            with contextlib.suppress(HapiError):  # `hapi doctor` tells of it; who works there shows as a process
                yield directory, directory.read_state()


def _ran_in(info: SessionInfo, place: WorktreeInfo) -> bool:
    """Whether a session was made with that worktree, or began in it."""
    mine = info.worktree is not None and _same(info.worktree, place)
    return mine or _inside(info.directory, os.path.realpath(place.worktree_path))


def _same(one: WorktreeInfo, other: WorktreeInfo) -> bool:
    return (one.worktree_path, one.branch) == (other.worktree_path, other.branch)


def _inside(path: str, place: str) -> bool:
    return path == place or path.startswith(f"{place}/")


def _entries(listed: str) -> Iterator[_Entry]:
    """What `git worktree list --porcelain` says, but for the repository itself, which comes first."""
    for block in listed.split("\n\n")[1:]:
        entry: _Entry | None = None
        for line in block.splitlines():
            word, _, value = line.partition(" ")
            if word == "worktree":
                entry = _Entry(value)
            elif entry is not None and word == "branch":
                entry.branch = value.removeprefix("refs/heads/")
            elif entry is not None and word == "locked":
                entry.locked = value
        if entry is not None:
            yield entry


def _content(path: str) -> dict[str, Any]:
    """What is in the working tree beyond its last commit."""
    status = _ask(path, "status", "--porcelain", "-z", "--untracked-files=all", "--ignore-submodules=none")
    tags = [line[:1] for line in _ask(path, "ls-files", "-v").splitlines()]
    at = Path(path, _ask(path, "rev-parse", "--git-dir").strip())
    operation = next((name for file, name in _OPERATIONS.items() if (at / file).exists()), None)
    hidden = sum(tag.islower() or tag == "S" for tag in tags)
    changes = len([part for part in status.split("\0") if part])
    return {"changes": changes, "hidden": hidden, "operation": operation, "nested": _nested(path)}


def _nested(path: str) -> str | None:
    """Where below it another repository or worktree lies, also where git ignores it: removing would take it along."""
    for count, (directory, below, files) in enumerate(os.walk(path)):
        if directory != path and (".git" in below or ".git" in files):
            return os.path.relpath(directory, path)
        if count >= MAX_DIRECTORIES:
            raise HapiError(ErrorCode.WORKTREE_FAILED, f"it has more than {MAX_DIRECTORIES} directories")
    return None


def _history(place: WorktreeInfo) -> dict[str, Any]:
    """What its branch has that nothing else has."""
    base, branch = place.base_path, f"refs/heads/{place.branch}"
    elsewhere = ("--not", f"--exclude={place.branch}", "--branches", "--tags", "--remotes")
    commits = int(_ask(base, "rev-list", "--count", branch, *elsewhere))
    moves = _reflog(base, "%H", branch)
    stashes = [line for line in _ask(base, "stash", "list", "--format=%gs").splitlines() if _is_of(line, place.branch)]
    return {"commits": commits, "own_commits": len(moves) != 1, "stashes": len(stashes)}


def _strays(place: WorktreeInfo) -> int:
    """How many commits were made in it, as its own log of HEAD says, that no branch, tag or remote has.

    What was once on its branch does not count: it was amended, reset or rebased away.
    """
    logged = [line.partition(" ") for line in _reflog(place.worktree_path, "%H %gs", "HEAD")]
    made = {commit for commit, _, deed in logged if not deed.startswith(_MOVES)}
    made -= set(_reflog(place.base_path, "%H", f"refs/heads/{place.branch}"))
    if not made:
        return 0
    words = ("rev-list", "--count", "--ignore-missing", *sorted(made), "--not", "--branches", "--tags", "--remotes")
    return int(_ask(place.base_path, *words))


def _reflog(directory: str, form: str, name: str) -> list[str]:
    return _ask(directory, "reflog", "show", f"--format={form}", name).splitlines()


def _is_of(stash: str, branch: str) -> bool:
    """Whether a stash was made on that branch: `WIP on BRANCH: …`, `On BRANCH: …`."""
    return stash.partition(":")[0].rpartition(" ")[2] == branch


def _ask(directory: str, *words: str, timeout_s: float | None = None) -> str:
    """What git says. Raises HapiError(worktree_failed) in its words when it fails."""
    if not os.path.isdir(directory):
        raise HapiError(ErrorCode.WORKTREE_FAILED, f"the repository {directory} is not there")
    done = git(Path(directory), *_PLAIN, *words, timeout_s=timeout_s)
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"git {words[0]} failed"
        raise HapiError(ErrorCode.WORKTREE_FAILED, said)
    return done.stdout


def _kept(why: str) -> HapiError:
    return HapiError(ErrorCode.WORKTREE_FAILED, f"Kept: {why}.")
