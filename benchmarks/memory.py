"""Memory (PSS): of the runner itself, and what each idle session adds to it, its agent excluded; beside the peer and a bare forked child."""

from __future__ import annotations

from benchmarks.figures import MIB, Result, Row, Target
from benchmarks.floor import Forked
from benchmarks.harness import settled
from benchmarks.sides import OURS, PEER, Side, stage
from hapi import footprint

FULL = {"sessions": 40, "peer_sessions": 5}
QUICK = {"sessions": 3, "peer_sessions": 1}
FLOOR = "floor: a forked child with asyncio and zmq"
ADDED, TALKED = "{}, idle", "{}, idle after a turn"
_STEADY = 0.01  # a memory that changes by less is settled
Look = dict[str, footprint.Use]


def measure(sessions: int, peer_sessions: int) -> list[Result]:
    """The runner alone, then with sessions, then after each session has answered a message."""
    with stage() as both:
        looks = {both.peer: _looks(both.peer, peer_sessions), both.ours: _looks(both.ours, sessions)}
    with Forked(sessions) as bare:
        floor = Row(FLOOR, [float(footprint.memory(pid)[0]) for pid in bare.pids], "B")
    alone = [Row(side.name, [_runner(steps[0])], "B") for side, steps in looks.items()]
    added = [
        Row(name.format(side.name), [_added(steps[0], steps[index])], "B")
        for side, steps in looks.items()
        for index, name in ((1, ADDED), (2, TALKED))
    ]
    return [
        Result(
            title="The runner itself, idle",
            rows=alone,
            targets=[Target("runner itself, all processes, idle", OURS, 58 * MIB)],
            notes=[_told(side, steps[0]) for side, steps in looks.items()],
        ),
        Result(
            title=f"Added per session, agent excluded ({OURS}: {sessions}, {PEER}: {peer_sessions} of them)",
            rows=[floor, *added],
            targets=[
                Target("memory added per idle session", ADDED.format(OURS), 7 * MIB),
                Target("memory added per session after a turn", TALKED.format(OURS), 7 * MIB),
            ],
            notes=[_told(side, steps[2]) for side, steps in looks.items()],
        ),
    ]


def _looks(side: Side, count: int) -> list[Look]:
    """What all processes have: without a session, with `count` of them, after a turn of each."""
    side.start()
    looks = [_settled(side)]
    sessions = [side.spawn() for _ in range(count)]
    for session in sessions:
        side.await_agent(session)
    looks.append(_settled(side))
    for session in sessions:
        side.converse(session)
    looks.append(_settled(side))
    side.end()
    return looks


def _settled(side: Side) -> Look:
    """The memory once it has stopped to change."""
    settled(lambda: _runner(side.memory()), _STEADY)
    return side.memory()


def _runner(look: Look) -> float:
    """Bytes of the runner and its sessions without the agents."""
    return float(sum(use.pss for kind, use in look.items() if kind != "agent"))


def _added(before: Look, after: Look) -> float:
    """Bytes that each session has added to all processes but the agents."""
    return (_runner(after) - _runner(before)) / after["session"].count


def _told(side: Side, look: Look) -> str:
    parts = [
        f"{kind} {use.pss / use.count / MIB:.1f} MiB" + (f" ({use.count})" if use.count > 1 else "")
        for kind, use in look.items()
    ]
    return f"{side.name}: {', '.join(parts)}"
