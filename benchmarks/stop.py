"""Ending sessions: one by `stop-session`, beside the peer; all at once, with the proof that no process of theirs is left."""

from __future__ import annotations

from benchmarks.figures import Result, Row, Target
from benchmarks.harness import populate, private_home, timed, wait
from benchmarks.sides import OURS, PEER, stage
from hapi import footprint, procs

FULL = {"rounds": 9, "sessions": 1000}
QUICK = {"rounds": 1, "sessions": 5}
_GONE_S = 30
ALL = "stop-session --all returns"


def measure(rounds: int, sessions: int) -> list[Result]:
    """One at a time at the hub, then many without one."""
    return [one(rounds), all_of_them(sessions)]


def one(rounds: int) -> Result:
    """`stop-session` of an idle session, taking turns."""
    figures: dict[str, list[float]] = {PEER: [], OURS: []}
    with stage() as both:
        for side in both.sides:
            side.start()
        for number in range(rounds):
            for side in both.sides if number % 2 else reversed(both.sides):
                session = side.spawn()
                side.await_agent(session)
                figures[side.name].append(side.seconds("runner", "stop-session", session))
    rows = [Row(name, seconds) for name, seconds in figures.items()]
    return Result(
        title="`hapi runner stop-session` of an idle session",
        rows=rows,
        targets=[Target("`stop-session`", OURS, 0.4, PEER)],
    )


def all_of_them(sessions: int) -> Result:
    """`stop-session --all`: the seconds, and who is left."""
    with private_home() as home:
        home.hapi("runner", "start")
        populate(home, sessions)
        pids = [
            pid
            for pid, kind in footprint.processes(home.status(), home.sessions()).items()
            if kind in ("session", "agent")
        ]
        victims = [process for pid in pids if (process := procs.identity(pid)) is not None]
        seconds = timed(lambda: home.hapi("runner", "stop-session", "--all"))
        left = sum(map(procs.is_alive, victims))
        gone = timed(lambda: wait(lambda: not any(map(procs.is_alive, victims)), _GONE_S, "all have ended"))
        listed = len(home.sessions())
    said = f"{left} of {len(victims)} processes alive when the command returned, 0 after {gone * 1000:.0f} ms more; {listed} sessions listed"
    good = not left and not listed and len(victims) == 2 * sessions
    return Result(
        title=f"`hapi runner stop-session --all` with {sessions} idle sessions",
        rows=[Row(ALL, [seconds])],
        targets=[Target(f"stop all {sessions}", ALL, 30.0)],
        notes=[said] if good else [],
        wrong=[] if good else [said],
    )
