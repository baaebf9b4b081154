"""What becomes of the worktrees that were made for sessions: facts in, a verdict out. Pure.

Removed is only what is provably of no more use: the session has ended, nobody is in it, and all that it holds is in a
commit that another branch, a tag or a remote has too. Files that git ignores are no work.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from hapi.wire import WorktreeInfo


class State(StrEnum):
    """The first of these that is true."""

    LIVE = "live"  # a session of it has not ended
    IN_USE = "in use"  # some process works in it
    UNKNOWN = "unknown"  # git does not answer, or has no such worktree
    LOCKED = "locked"
    DIRTY = "dirty"
    UNMERGED = "unmerged"  # commits that are nowhere else
    STASHED = "stashed"
    GONE = "gone"  # its directory is not there any more, but git remembers it
    UNUSED = "unused"  # nothing was ever committed
    MERGED = "merged"


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All that the verdict needs. `recorded`: a session's record names the worktree, so that it is ours.

    `commits` counts those of its branch that no other branch, tag or remote has, `strays` those that were made in it and
    that no branch has at all; `hidden` the files that git was told not to look at; `nested` is where in it another
    repository or worktree lies; `own_commits`: something was committed on its branch, or its branch was moved.
    """

    recorded: bool
    open_sessions: int = 0
    processes: int = 0
    present: bool = True
    registered: bool = True
    locked: str | None = None
    branch: str | None = None
    changes: int = 0
    hidden: int = 0
    operation: str | None = None
    nested: str | None = None
    commits: int = 0
    strays: int = 0
    stashes: int = 0
    own_commits: bool = False
    trouble: str = ""


class Verdict(msgspec.Struct, frozen=True):
    """Where a worktree stands; `kept` says why it is not removed, None when it may be."""

    state: State
    kept: str | None = None


class Worktree(msgspec.Struct, frozen=True, kw_only=True):
    """A worktree, the sessions that ran in it, and what is to be done with it."""

    place: WorktreeInfo
    sessions: tuple[str, ...]
    facts: Facts
    verdict: Verdict


def judge(place: WorktreeInfo, facts: Facts) -> Verdict:
    """The verdict on the worktree at `place`."""
    state, kept = _judge(place, facts)
    if kept is None and not facts.recorded:
        kept = "no session on record here ran in it"
    return Verdict(state, kept)


def looks_like_ours(path: str, branch: str, base: str) -> bool:
    """Whether a worktree has the place and the branch that a runner, ours or the official one, gives it."""
    parent, _, name = path.rpartition("/")
    return bool(name) and parent == f"{base}-worktrees" and branch == f"hapi-{name}"


def _judge(place: WorktreeInfo, facts: Facts) -> tuple[State, str | None]:
    return next((state, why) for true, state, why in _reasons(place, facts) if true)


def _reasons(place: WorktreeInfo, facts: Facts) -> list[tuple[object, State, str | None]]:
    """What may be so, the state that it means, and why it keeps the worktree; the first that is so counts."""
    locked = f"it is locked: {facts.locked}" if facts.locked else "it is locked"
    elsewhere = f"{facts.branch or 'no branch'} is checked out in it, not {place.branch}"
    return [
        (facts.open_sessions, State.LIVE, "its session has not ended"),
        (facts.processes, State.IN_USE, f"{_count(facts.processes, 'process')} in it"),
        (facts.trouble, State.UNKNOWN, facts.trouble),
        (not facts.registered, State.UNKNOWN, "git knows of no worktree there"),
        (facts.locked is not None, State.LOCKED, locked),
        (facts.branch != place.branch, State.UNKNOWN, elsewhere),
        (facts.changes, State.DIRTY, f"{_count(facts.changes, 'file')} changed or new"),
        (facts.operation, State.DIRTY, f"a {facts.operation} is under way"),
        (facts.hidden, State.DIRTY, f"git was told not to look at {_count(facts.hidden, 'file')}"),
        (facts.nested, State.DIRTY, f"another repository or worktree lies in it: {facts.nested}"),
        (facts.commits, State.UNMERGED, f"{_count(facts.commits, 'commit')} in no other branch, tag or remote"),
        (facts.strays, State.UNMERGED, f"{_count(facts.strays, 'commit')} made in it that no branch has"),
        (facts.stashes, State.STASHED, f"{_count(facts.stashes, 'stash')} made in it"),
        (not facts.present, State.GONE, None),
        (facts.own_commits, State.MERGED, None),
        (True, State.UNUSED, None),
    ]


def _count(count: int, noun: str) -> str:
    plural = f"{noun}es" if noun.endswith(("s", "sh")) else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"
