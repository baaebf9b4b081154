"""What the processes of one runner cost: memory and processor time, by kind of process.

Memory is PSS (pages that are shared count in parts, so that the sum is what the machine gives) and what is private;
where the kernel does not tell (macOS), both are RSS. Processor time is of all threads, to the nanosecond where Linux
keeps it, else in clock ticks. A look at N processes costs about N milliseconds: the kernel walks their memory maps.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from hapi import procs, wire

KINDS = ("broker", "hub", "nursery", "reaper", "session", "agent", "other")
_PRIVATE = ("Private_Clean:", "Private_Dirty:", "Private_Hugetlb:")
_KB = 1024
MEASURE = "PSS" if procs.LINUX else "RSS"


class Use(msgspec.Struct, kw_only=True, rename="camel"):
    """What the processes of one kind have: bytes, and seconds of processor time since each began."""

    count: int = 0
    pss: int = 0
    private: int = 0
    cpu_s: float = 0.0

    def add(self, other: Use) -> None:
        """Count `other` in."""
        self.count += other.count
        self.pss += other.pss
        self.private += other.private
        self.cpu_s += other.cpu_s


def processes(status: wire.Status, sessions: Iterable[wire.SessionInfo]) -> dict[int, str]:
    """Pid → kind, of a runner and its sessions, also of those that were adopted and so are no children of it.

    All that is below a supervisor is of the kind `agent`; what else is below the broker is `other` (a git that the web
    asked for, a supervisor that has yet to say who it is).
    """
    found = {status.pid: "broker"}
    found |= {worker.pid: name if name in KINDS else "other" for name, worker in status.workers.items() if worker.pid}
    supervisors = [info.supervisor.pid for info in sessions if info.supervisor is not None]
    found |= dict.fromkeys(supervisors, "session")
    for pid in supervisors:
        found |= dict.fromkeys((child.pid for child in procs.descendants(pid)), "agent")
    below = procs.descendants(status.pid, spare=lambda pid: found.get(pid) in {"session", "agent"})
    return found | {process.pid: "other" for process in below if process.pid not in found}


def measure(pids: Mapping[int, str]) -> dict[str, Use]:
    """What they cost together, by kind. A process that is gone costs nothing and is not counted."""
    total: dict[str, Use] = {}
    for pid, kind in pids.items():
        cpu_s = procs.cpu_seconds(pid)
        if cpu_s is not None:
            pss, private = memory(pid)
            total.setdefault(kind, Use()).add(Use(count=1, pss=pss, private=private, cpu_s=cpu_s))
    return {kind: total[kind] for kind in sorted(total, key=_rank)}


def memory(pid: int) -> tuple[int, int]:
    """(PSS, private) bytes of one process; RSS twice where there is no PSS, zeros when it is gone."""
    if not procs.LINUX:
        return (procs.memory_bytes(pid),) * 2
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0, 0
    sizes = {words[0]: int(words[1]) * _KB for line in lines[1:] if len(words := line.split()) == 3}
    return sizes.get("Pss:", 0), sum(sizes.get(name, 0) for name in _PRIVATE)


def cpu(pids: Iterable[int]) -> dict[int, float]:
    """Pid → seconds of processor time so far, as exact as the kernel tells it; without those that are gone."""
    return {pid: seconds for pid in pids if (seconds := _cpu_seconds(pid)) is not None}


def spent(pids: Mapping[int, str], before: Mapping[int, float], after: Mapping[int, float]) -> dict[str, float]:
    """Seconds of processor time by kind between two looks by `cpu`. What ended in between counts up to the first."""
    total: dict[str, float] = {}
    for pid, seconds in after.items():
        kind = pids.get(pid, "other")
        total[kind] = total.get(kind, 0.0) + max(0.0, seconds - before.get(pid, 0.0))
    return {kind: total[kind] for kind in sorted(total, key=_rank)}


def _cpu_seconds(pid: int) -> float | None:
    """From the scheduler's nanoseconds of every thread; clock ticks where it keeps none, or where threads have ended."""
    ticks = procs.cpu_seconds(pid)
    if ticks is None or not procs.LINUX:
        return ticks
    exact = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            exact += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return ticks
    return max(ticks, exact / 1e9)


def _rank(kind: str) -> int:
    return KINDS.index(kind) if kind in KINDS else len(KINDS)
