"""A killed broker with many idle sessions: how long until the next one has all of them back under control.

Exit status 1 when a session was lost or replaced.
"""

from __future__ import annotations

import random
import sys
import time

from benchmarks.harness import Home, Row, options, private_home, report, table, timed, wait
from hapi import wire
from hapi.ids import new_session_id

AT_ONCE = 8  # sessions that start at the same time
Pids = dict[str, tuple[int, int]]


def main() -> int:
    """Run the rounds; 1 when something was lost."""
    chosen = options("Restart of a runner with many sessions", sessions=200, rounds=3)
    with private_home() as home:
        floor = [start_empty(home) for _ in range(chosen.rounds)]
        spawn_s = timed(lambda: populate(home, chosen.sessions))
        before = pids(home)
        print(f"{len(before)} sessions in {spawn_s:.1f} s", flush=True)
        rounds = [restart(home, chosen.sessions) for _ in range(chosen.rounds)]
        verdicts = home.status().verdicts
        kept = {key: pair for key, pair in pids(home).items() if before.get(key) == pair}
    names = ("start command returns", "all adopted", "one takes a message")
    rows = [Row(name, [figures[index] for figures in rounds]) for index, name in enumerate(names)]
    title = f"Restart with {chosen.sessions} idle sessions"
    text = table(title, Row("floor: start of an empty runner until status answers", floor), rows)
    lost = len(before) - len(kept)
    text += f"\n\n{lost} of {len(before)} sessions lost or replaced; verdicts of the last round: {verdicts}"
    report(text, record=chosen.record)
    return 1 if lost or len(before) != chosen.sessions or verdicts != {"adopted": chosen.sessions} else 0


def start_empty(home: Home) -> float:
    """What any start costs: the command, a broker without sessions, its first answer. It is stopped again."""
    seconds = timed(lambda: (home.hapi("runner", "start"), home.status()))
    home.hapi("runner", "stop")
    return seconds


def populate(home: Home, count: int) -> None:
    """Spawn idle demo sessions, a few at a time, over the control socket."""
    from concurrent.futures import ThreadPoolExecutor

    home.hapi("runner", "start")

    def spawn(_: int) -> None:
        order = wire.Spawn(
            session_id=new_session_id(), directory=str(home.project), agent="demo", started_by="terminal"
        )
        home.control.ask(order, wire.Spawned, 60.0)

    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(spawn, range(count)))


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


if __name__ == "__main__":
    sys.exit(main())
