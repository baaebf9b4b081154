"""Which processes are runners and supervisors of this home, even when they hang below an agent that started them.

An agent may run `hapi` itself: the broker it starts, and that broker's sessions, are then descendants of a session's
supervisor (a subreaper adopts all orphans below it). They are not the agent's, and must survive its end.
"""

from __future__ import annotations

import os
from pathlib import Path

from hapi import files
from hapi.paths import Paths, all_namespaces
from hapi.procs import LINUX

_OURS = "hapi: "


def is_ours(pid: int, home: Path) -> bool:
    """Whether `pid` is a broker or a supervisor of `home`, by the lock that it must hold. False when it is gone."""
    if not LINUX:
        return False
    try:
        name = Path(f"/proc/{pid}/comm").read_text()
        title = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
    except OSError:
        return False
    if not name.startswith(_OURS):  # nearly always: a look at one small file
        return False
    words = title.split()
    if words[1:2] == ["broker"]:
        return any(holds(Paths(home, namespace).lock, pid) for namespace in all_namespaces(home))
    if words[1:2] == ["session"] and len(words) > 3:
        sessions = Paths(home, words[2].strip("[]")).sessions
        return any(holds(lock, pid) for lock in sessions.glob(f"{words[3]}*/lock"))
    return False


def may_supervise(pid: int, lock: Path) -> bool:
    """Whether `pid` can be a session's supervisor: it holds the session's lock, or is titled as ours are.

    Enough to wait for its word (the lock's file may have been deleted under it), not enough to signal it.
    """
    try:
        titled = not LINUX or Path(f"/proc/{pid}/comm").read_text().startswith(_OURS)
    except OSError:
        return False
    return titled or holds(lock, pid)


def holds(lock: Path, pid: int) -> bool:
    """Whether that process holds the lock, by what it wrote into it and by the kernel's word that somebody does."""
    try:
        return files.read_file(lock).strip() == str(pid).encode() and os.access(lock, os.R_OK) and files.is_locked(lock)
    except OSError:
        return False
