"""What `list` and `status` take of a runner with one session, a hundred, a thousand: the request alone, over the control socket, without a hub.

With each number of sessions also what the idle runner and its sessions cost.
"""

from __future__ import annotations

import time

from benchmarks.figures import Curve, Result, Row, Target
from benchmarks.harness import Home, populate, private_home, timed
from hapi import footprint, wire

FULL = {"few": 1, "some": 100, "many": 1000, "requests": 300, "idle_s": 10}
QUICK = {"few": 1, "some": 2, "many": 3, "requests": 10, "idle_s": 1}
LIST, STATUS = "list, {} sessions", "status, {} sessions"


def measure(few: int, some: int, many: int, requests: int, idle_s: int) -> list[Result]:
    """The same runner with more and more sessions."""
    rows: list[Row] = []
    idle: dict[int, dict[str, float]] = {}
    with private_home() as home:
        home.hapi("runner", "start")
        rows += latencies(home, 0, requests)
        for count in (few, some, many):
            populate(home, count - len(home.sessions()))
            rows += latencies(home, count, requests)
            idle[count] = idle_shares(home, idle_s)
        listed = len(home.sessions())
    return [
        Result(
            title="`list` and `status`, the request alone",
            rows=rows,
            targets=[Target(f"`list` at {many} sessions, warm request", LIST.format(many), 0.025, statistic="p99")],
            wrong=[] if listed == many else [f"{listed} of {many} sessions are listed"],
        ),
        Result(
            title=f"Processor time of idle sessions without a hub, over {idle_s} s",
            curves=[
                Curve(kind, [(count, shares.get(kind, 0.0)) for count, shares in idle.items()], "core")
                for kind in footprint.KINDS
                if any(kind in shares for shares in idle.values())
            ],
            over="sessions",
        ),
    ]


def latencies(home: Home, sessions: int, requests: int) -> list[Row]:
    """`list` and `status` take turns."""
    taken: dict[str, list[float]] = {LIST.format(sessions): [], STATUS.format(sessions): []}
    for _ in range(requests):
        for name, body in zip(taken, (wire.ListSessions(), wire.GetStatus()), strict=True):
            taken[name].append(timed(lambda body=body: home.control.request(body, 30.0)))  # type: ignore[misc]
    return [Row(name, seconds) for name, seconds in taken.items()]


def idle_shares(home: Home, seconds: float) -> dict[str, float]:
    """Shares of a core, by kind of process, while nothing is to be done."""
    pids = footprint.processes(home.status(), home.sessions())
    before = footprint.cpu(pids)
    time.sleep(seconds)
    spent = footprint.spent(pids, before, footprint.cpu(pids))
    return {kind: cpu_s / seconds for kind, cpu_s in spent.items()}
