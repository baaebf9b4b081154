"""`stop-session` of one idle session, until it has ended, taking turns with the peer."""

from __future__ import annotations

from benchmarks.figures import Result, Row, Target
from benchmarks.sides import OURS, PEER, stage

FULL = {"rounds": 9}
QUICK = {"rounds": 1}


def measure(rounds: int) -> list[Result]:
    """A session by the web for each stop."""
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
    title = "`hapi runner stop-session` of an idle session"
    return [Result(title=title, rows=rows, targets=[Target("`stop-session`", OURS, 0.4, PEER)])]
