"""A message through the hub to the agent and its answer back: one at a time, one behind the other, and as many as it takes.

"Idle" is a message to a session at rest; "back to back" comes the moment that the answer before it is seen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from benchmarks.echo import echoes
from benchmarks.figures import Curve, Result, Row, Target
from benchmarks.sides import OURS, PEER, Side, Stage, stage
from benchmarks.talk import Talk, talk
from hapi import footprint
from hapi.clock import monotonic

FULL = {"idle": 30, "back_to_back": 40, "sessions": 64, "seconds": 6}
QUICK = {"idle": 2, "back_to_back": 2, "sessions": 2, "seconds": 1}
REST_S = 0.4  # a session is at rest
HUB = "the hub's own process"
GENERATOR = "the load generator"
FLOOR = "floor: the hub alone"
Figures = dict[str, list[float]]


def measure(idle: int, back_to_back: int, sessions: int, seconds: int) -> list[Result]:
    """Latency, both sides taking turns; then our throughput, which is doubled until all sessions talk."""
    with stage() as both:
        for side in both.sides:
            side.start()
        return [*asyncio.run(_latency(both, idle, back_to_back)), *asyncio.run(_throughput(both, sessions, seconds))]


async def _latency(both: Stage, idle: int, back_to_back: int) -> list[Result]:
    at_rest: Figures = {PEER: [], OURS: []}
    behind: Figures = {PEER: [], OURS: []}
    wrong: list[str] = []
    async with talk(both.peer) as peers, talk(both.ours) as ours:
        talks = {both.peer.name: (peers, await asyncio.to_thread(_session, both.peer)),
                 both.ours.name: (ours, await asyncio.to_thread(_session, both.ours))}  # fmt: skip
        for number in range(idle):
            for name in _turned(talks, number):
                voice, session = talks[name]
                await asyncio.sleep(REST_S)
                at_rest[name].append(await voice.ask(session))
        for number in range(2):
            for name in _turned(talks, number):
                voice, session = talks[name]
                behind[name] += [await voice.ask(session) for _ in range(back_to_back // 2)]
        wrong += [f"{name}: {what}" for name, (voice, _) in talks.items() for what in voice.wrong()]
    titles = ("A message to an idle session, until its answer is at the hub", "The same, back to back")
    targets = (
        Target("message → reply through the hub, idle session", OURS, 0.5, PEER),
        Target("message → reply through the hub, back to back", OURS, 0.3, PEER),
    )
    figures = (at_rest, behind)
    return [
        Result(title=title, rows=[Row(name, found) for name, found in rows.items()], targets=[target], wrong=wrong)
        for title, target, rows in zip(titles, targets, figures, strict=True)
    ]


def _turned(names: Mapping[str, object], round_number: int) -> list[str]:
    """A B, then B A, and so on."""
    return list(names) if round_number % 2 == 0 else [*reversed([*names])]


def _session(side: Side) -> str:
    """A session whose agent is up and has said something."""
    session = side.spawn()
    side.await_agent(session)
    side.converse(session)
    return session


async def _throughput(both: Stage, sessions: int, seconds: int) -> list[Result]:
    both.peer.end()
    async with talk(both.ours) as voice:
        talkers = [await asyncio.to_thread(both.ours.spawn) for _ in range(sessions)]
        points: list[tuple[float, float]] = []
        count = 1
        while True:
            latency, took, spent = await _storm(both, voice, talkers[:count], seconds)
            points.append((count, len(latency) / took))
            if count == sessions:
                break
            count = min(4 * count, sessions)
        async with echoes(both.hub.url, both.ours.token, sessions) as bare:
            floor, floor_took, floor_spent = await _storm(both, voice, bare, seconds)
    costs = [Row(f"processor time per message: {kind}", [cost]) for kind, cost in spent.items()]
    rates = [
        Row(FLOOR, [len(floor) / floor_took], "/s"),
        Row(f"hapi, {sessions} sessions", [len(latency) / took], "/s"),
    ]
    return [
        Result(
            title="Messages answered per second, by how many sessions talk at once",
            over="sessions",
            curves=[Curve("answers", points, "/s")],
        ),
        Result(
            title=f"Messages answered per second while {sessions} sessions talk",
            rows=[*rates, Row("latency", latency), *costs, Row(f"{FLOOR}: {HUB}", [floor_spent[HUB]])],
            alike=False,
            targets=[Target("messages per second in total", rates[1].name, 1000.0, at_least=True)],
            notes=[
                f"{FLOOR}: the hub stores each message and one row for it, and nothing else is done; that is all it can take."
            ],
            wrong=voice.wrong(),
        ),
    ]


async def _storm(
    both: Stage, voice: Talk, sessions: list[str], seconds: int
) -> tuple[list[float], float, dict[str, float]]:
    """Every session gets its next message when the last one is answered: latencies, the seconds until the last answer,
    processor time per message by kind of process.
    """
    pids = both.ours.processes() | {both.hub.pid: HUB}
    latency: list[float] = []
    end = monotonic() + seconds

    async def converse(session: str) -> None:
        while monotonic() < end:
            latency.append(await voice.ask(session))

    before, own, start = footprint.cpu(pids), time.process_time(), monotonic()
    await asyncio.gather(*map(converse, sessions))
    took = monotonic() - start
    spent = footprint.spent(pids, before, footprint.cpu(pids)) | {GENERATOR: time.process_time() - own}
    return latency, took, {kind: cost / len(latency) for kind, cost in spent.items()}
