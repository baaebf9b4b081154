"""What idle sessions at a hub cost in processor time, beside the peer: both runners with as many sessions each, at the same time. Agents are left out."""

from __future__ import annotations

import time

from benchmarks.figures import Result, Row, Target
from benchmarks.sides import OURS, PEER, Side, stage
from hapi import footprint

FULL = {"sessions": 20, "rounds": 3, "seconds": 30}
QUICK = {"sessions": 1, "rounds": 1, "seconds": 1}
_SETTLE_S = 3.0  # what a start leaves to be done
Look = dict[int, float]


def measure(sessions: int, rounds: int, seconds: int) -> list[Result]:
    """Windows of some seconds in which nobody asks for anything; two heartbeats of each runner fall into three of them."""
    with stage() as both:
        for side in both.sides:
            side.start()
            for session in [side.spawn() for _ in range(sessions)]:
                side.await_agent(session)
        time.sleep(_SETTLE_S)
        shares: dict[str, list[float]] = {side.name: [] for side in both.sides}
        for _ in range(rounds):
            before = [_look(side) for side in both.sides]
            time.sleep(seconds)
            for side, old in zip(both.sides, before, strict=True):
                spent = sum(now - old.get(pid, now) for pid, now in _look(side).items())
                shares[side.name].append(spent / seconds)
    return [
        Result(
            title=f"{sessions} idle sessions at a hub",
            rows=[Row(name, found, "core") for name, found in shares.items()],
            targets=[Target(f"idle CPU with {sessions} sessions", OURS, 0.25, PEER)],
        )
    ]


def _look(side: Side) -> Look:
    """Seconds that each process but the agents has used so far."""
    return footprint.cpu([pid for pid, kind in side.processes().items() if kind != "agent"])
