"""What a supervisor that died without a word left behind: found, and ended.

While a supervisor lives it is the subreaper of all that its agent started. After its death the detached ones hang below
init, and three traces lead to them: they descend from the agent, or carry the session's mark in their environment, or
its *stamp*: a number in a resource limit that nobody uses (the CPU time of real-time threads, Linux). A limit is
inherited like the environment, but `env -i`, a new session and a closed descriptor leave it as it is.
"""

from __future__ import annotations

import hashlib
import os
import resource
import signal
from pathlib import Path

from hapi import procs
from hapi.clock import monotonic
from hapi.ids import SESSION_MARK, ProcessId
from hapi.kin import is_ours

_LIMIT = getattr(resource, "RLIMIT_RTTIME", None) if procs.LINUX else None
_LIMIT_LINE = "Max realtime timeout"
_STAMPS = 1 << 62  # stamps lie between this and its double: a hundred thousand years of CPU time


def stamp(session_id: str) -> int:
    """The number that marks a session's processes."""
    return _STAMPS | int.from_bytes(hashlib.sha256(session_id.encode()).digest()[:7], "big")


def put_stamp(session_id: str) -> bool:
    """Stamp this process and all that it will start; False where the system has no such limit, or has set it."""
    return _set_limit(stamp(session_id))


def clear_stamp() -> None:
    """Take off the stamp that this process inherited: a runner that an agent starts is not the agent's."""
    if _LIMIT is not None and resource.getrlimit(_LIMIT)[0] >= _STAMPS:
        _set_limit(resource.RLIM_INFINITY)


def stamped(pid: int) -> int | None:
    """The stamp of a process of this user; None when it has none, or is gone."""
    if _LIMIT is None:
        return None
    try:
        place = Path(f"/proc/{pid}/limits")
        if place.stat().st_uid != os.getuid():
            return None
        line = next((line for line in place.read_text().splitlines() if line.startswith(_LIMIT_LINE)), "")
    except OSError:
        return None
    soft = line.removeprefix(_LIMIT_LINE).split()[:1]
    return int(soft[0]) if soft and soft[0].isdigit() and int(soft[0]) >= _STAMPS else None


def belongs(pid: int, session_id: str) -> bool:
    """Whether a process carries the session's mark or stamp."""
    return procs.has_mark(pid, SESSION_MARK, session_id) or stamped(pid) == stamp(session_id)


def find(session_id: str, agent: ProcessId | None, home: Path) -> list[ProcessId]:
    """A dead supervisor's agent, that agent's descendants, and whoever carries the session's mark or stamp.

    No runner's and no supervisor's process of `home` is among them, and not the caller.
    """

    def spare(pid: int) -> bool:
        return is_ours(pid, home)

    wanted = stamp(session_id)
    found = {process.pid: process for process in procs.marked(SESSION_MARK, session_id)}
    for pid in procs.everyone() if _LIMIT is not None else ():
        if pid not in found and stamped(pid) == wanted and (who := procs.identity(pid)) is not None:
            found[pid] = who
    if agent is not None and procs.is_alive(agent):
        found[agent.pid] = agent
        found.update((process.pid, process) for process in procs.descendants(agent.pid, spare))
    found.pop(os.getpid(), None)
    return [process for process in found.values() if not spare(process.pid)]


def end(session_id: str, agent: ProcessId | None, home: Path, deadline_s: float) -> tuple[int, list[ProcessId]]:
    """SIGKILL all that `find` finds, again for what appears meanwhile; blocks, at most `deadline_s`.

    Returns how many it has ended, and those that survive even that.
    """
    deadline = monotonic() + deadline_s
    met: set[ProcessId] = set()
    while left := find(session_id, agent, home):
        met.update(left)
        for process in left:
            procs.send_signal(process, signal.SIGKILL)
        for process in left:
            procs.wait_gone(process, deadline - monotonic())
        if monotonic() >= deadline:
            left = find(session_id, agent, home)
            break
    return len(met) - len(left), left


def _set_limit(soft: int) -> bool:
    if _LIMIT is None:
        return False
    now, hard = resource.getrlimit(_LIMIT)
    if hard != resource.RLIM_INFINITY or not (now == resource.RLIM_INFINITY or now >= _STAMPS):
        return False  # somebody has a use for it
    try:
        resource.setrlimit(_LIMIT, (soft, hard))
    except (ValueError, OSError):
        return False
    return True
