"""A killed broker with many idle sessions: how long until the next one has all of them back under control. The peer forgets them all."""

from __future__ import annotations

import random
import time

from benchmarks.figures import Result, Row, Target
from benchmarks.harness import Home, populate, private_home, timed, wait
from hapi import wire

FULL = {"sessions": 1000, "rounds": 3}
QUICK = {"sessions": 5, "rounds": 1}
FLOOR = "floor: start of an empty runner until status answers"
STEPS = ("start command returns", "all adopted", "one takes a message")
Pids = dict[str, tuple[int, int]]


def measure(sessions: int, rounds: int) -> list[Result]:
    """SIGKILL of the broker, start, several times over."""
    with private_home() as home:
        floor = Row(FLOOR, [start_empty(home) for _ in range(rounds)])
        home.hapi("runner", "start")
        populate(home, sessions)
        before = pids(home)
        taken = [restart(home, sessions) for _ in range(rounds)]
        verdicts = home.status().verdicts
        kept = sum(before.get(key) == pair for key, pair in pids(home).items())
    rows = [Row(step, [figures[index] for figures in taken]) for index, step in enumerate(STEPS)]
    lost = len(before) - kept
    good = not lost and len(before) == sessions and verdicts == {"adopted": sessions}
    said = f"{lost} of {len(before)} sessions lost or replaced; verdicts of the last round: {verdicts}"
    return [
        Result(
            title=f"Restart with {sessions} idle sessions",
            rows=[floor, *rows],
            targets=[Target(f"{sessions} sessions re-adopted after SIGKILL of the broker", "all adopted", 2.0)],
            notes=[said] if good else [],
            wrong=[] if good else [said],
        )
    ]


def start_empty(home: Home) -> float:
    """What any start costs: the command, a broker without sessions, its first answer. It is stopped again."""
    seconds = timed(lambda: (home.hapi("runner", "start"), home.status()))
    home.hapi("runner", "stop")
    return seconds


def pids(home: Home) -> Pids:
    """Session → pid of supervisor and agent."""
    return {
        info.session_id: (info.supervisor.pid, info.agent_process.pid)
        for info in home.sessions()
        if info.supervisor is not None and info.agent_process is not None
    }


def restart(home: Home, count: int) -> tuple[float, float, float]:
    """SIGKILL, start: seconds from the start command until it returns, until all are adopted, until one takes a message."""
    home.kill_broker()
    start = time.perf_counter()
    home.hapi("runner", "start")
    started = time.perf_counter() - start
    wait(lambda: home.status().verdicts.get("adopted") == count, 60, f"{count} sessions are adopted")
    adopted = time.perf_counter() - start
    one = random.choice(home.sessions())
    home.control.ask(wire.SendText(one.session_id, "/say here"), wire.Accepted, 30.0)
    answered = time.perf_counter() - start
    return started, adopted, answered
