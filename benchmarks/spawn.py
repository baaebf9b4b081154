"""Spawns without a hub: one at a time, beside what its parts cost bare (a forked child, the agent alone); then many, and an end to them all."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable

from benchmarks.figures import Result, Row, Target
from benchmarks.floor import Forked
from benchmarks.harness import Home, interleave, populate, private_home, timed
from hapi import footprint, procs
from hapi.agents.built_in import BUILT_IN
from hapi.lifecycle import Phase

FULL = {"rounds": 30, "sessions": 1000, "at_once": 16}
QUICK = {"rounds": 2, "sessions": 6, "at_once": 4}
FORKED, AGENT, SPAWN, REST, ALL = (
    "floor: a forked child",
    "the agent alone",
    "hapi: a session",
    "hapi, agent excluded",
    "until it returns",
)


def measure(rounds: int, sessions: int, at_once: int) -> list[Result]:
    """Latency, then throughput, then `stop-session --all` with the proof that no process of theirs is left."""
    with private_home() as home:
        home.hapi("runner", "start")
        return [latency(home, rounds), throughput(home, sessions, at_once), stop_all(home)]


def latency(home: Home, rounds: int) -> Result:
    """From the request until the agent is up, one after the other, taking turns with the floors."""
    works: dict[str, Callable[[], float]] = {
        FORKED: _fork,
        AGENT: lambda: start_agent(home),
        SPAWN: lambda: populate(home, 1)[0],
    }
    forked, agent, spawn = interleave(rounds, works)
    rest = Row(REST, [whole - alone for whole, alone in zip(spawn.values, agent.values, strict=True)])
    return Result(title="A spawn, one at a time", rows=[forked, agent, spawn, rest])


def throughput(home: Home, sessions: int, at_once: int) -> Result:
    """Spawn so many, as many as that asked for at a time: seconds of each, sessions per second of all."""
    before = len(home.sessions())
    seconds: list[float] = []
    whole = timed(lambda: seconds.extend(populate(home, sessions, at_once)))
    idle = sum(info.phase == Phase.IDLE for info in home.sessions()) - before
    rate = Row("sessions per second", [sessions / whole], "/s")
    return Result(
        title=f"{sessions} spawns, {at_once} asked for at a time",
        rows=[Row("a spawn", seconds), rate],
        targets=[Target(f"sustained spawns to {sessions}, no hub", rate.name, 40.0, at_least=True)],
        wrong=[] if idle == sessions else [f"{sessions - idle} of {sessions} sessions are not idle"],
    )


def stop_all(home: Home) -> Result:
    """`stop-session --all`: the seconds, and who is left."""
    status, sessions = home.status(), home.sessions()
    pids = [pid for pid, kind in footprint.processes(status, sessions).items() if kind in ("session", "agent")]
    victims = [process for pid in pids if (process := procs.identity(pid)) is not None]
    seconds = timed(lambda: home.hapi("runner", "stop-session", "--all"))
    left, listed = sum(map(procs.is_alive, victims)), len(home.sessions())
    said = f"{left} of {len(victims)} processes alive when the command returned; {listed} of {len(sessions)} sessions listed"
    good = not left and not listed and len(victims) == 2 * len(sessions)
    return Result(
        title="`hapi runner stop-session --all`",
        rows=[Row(ALL, [seconds])],
        targets=[Target(f"stop all {len(sessions)}", ALL, 30.0)],
        notes=[said] if good else [],
        wrong=[] if good else [said],
    )


def start_agent(home: Home) -> float:
    """The demo agent alone, as a session starts it: seconds until it has made a conversation. Then it is ended."""
    opening = {"method": "session/new", "params": {"cwd": str(home.project), "mcpServers": []}}
    hello = {"method": "initialize", "params": {"protocolVersion": 1, "clientCapabilities": {}}}
    start = time.perf_counter()
    with subprocess.Popen(
        BUILT_IN["demo"].command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=home.environment, cwd=home.project
    ) as agent:
        assert agent.stdin is not None
        assert agent.stdout is not None
        for number, request in enumerate((hello, opening)):
            agent.stdin.write(json.dumps({"jsonrpc": "2.0", "id": number, **request}).encode() + b"\n")
            agent.stdin.flush()
            while json.loads(agent.stdout.readline()).get("id") != number:
                pass
        seconds = time.perf_counter() - start
        agent.stdin.close()
        agent.kill()
    return seconds


def _fork() -> float:
    with Forked(1) as image:
        return image.seconds[0]
