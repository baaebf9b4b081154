"""Spawns through the web: until one is answered and its agent is up, and until twenty that were asked for at once are all active."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from benchmarks.figures import Result, Row, Target
from benchmarks.harness import timed, wait
from benchmarks.sides import OURS, PEER, Side, stage
from benchmarks.spawn import start_agent

FULL = {"rounds": 10, "at_once": 20, "storms": 3}
QUICK = {"rounds": 1, "at_once": 2, "storms": 1}
AGENT, REST = "the agent alone", "{}, agent excluded"
_ACTIVE_S = 60
Figures = dict[str, list[float]]


def measure(rounds: int, at_once: int, storms: int) -> list[Result]:
    """One at a time, then many at once, taking turns. What was spawned is archived in between."""
    answered: Figures = {PEER: [], OURS: []}
    up: Figures = {PEER: [], OURS: []}
    active: Figures = {PEER: [], OURS: []}
    alone: list[float] = []
    with stage() as both:
        for side in both.sides:
            side.start()
            _archive(side, [side.spawn()])  # the first one makes files, and loads code
        for number in range(rounds):
            for side in both.sides if number % 2 else reversed(both.sides):
                until_answered, until_up = _spawn(side)
                answered[side.name].append(until_answered)
                up[side.name].append(until_up)
            alone.append(start_agent(both.ours.local))
        for number in range(storms):
            for side in both.sides if number % 2 else reversed(both.sides):
                active[side.name].append(_storm(side, at_once))
    return [
        Result(
            title="A spawn through the web, answered",
            rows=_rows(answered),
            targets=[Target("web spawn answered", OURS, 0.4, PEER)],
        ),
        Result(
            title="A spawn through the web, until the agent is up",
            rows=[*_rows(up), Row(AGENT, alone), *without_agent(up, alone)],
            targets=[
                Target("web spawn, agent up", OURS, 0.4, PEER),
                Target("web spawn, agent up, its own start excluded", REST.format(OURS), 0.1, REST.format(PEER)),
            ],
        ),
        Result(
            title=f"{at_once} web spawns at once, until all are active",
            rows=_rows(active),
            targets=[Target(f"{at_once} web spawns at once, all active", OURS, 0.2, PEER)],
        ),
    ]


def without_agent(up: Figures, alone: list[float]) -> list[Row]:
    """What each side takes beside its agent's own start, which is the same for both: they start the same agent."""
    return [
        Row(REST.format(name), [max(0.0, whole - agent) for whole, agent in zip(seconds, alone, strict=True)])
        for name, seconds in up.items()
    ]


def _rows(figures: Figures) -> list[Row]:
    return [Row(name, seconds) for name, seconds in figures.items()]


def _spawn(side: Side) -> tuple[float, float]:
    """Seconds until a spawn is answered, and until its agent is up."""
    made: list[str] = []
    until_answered = timed(lambda: made.append(side.spawn()))
    until_up = until_answered + timed(lambda: side.await_agent(made[0]))
    _archive(side, made)
    return until_answered, until_up


def _storm(side: Side, count: int) -> float:
    """Seconds until the hub shows so many sessions as active that were asked for at once."""
    made: list[str] = []

    def all_active() -> bool:
        active = {row["id"] for row in side.web.sessions() if row["active"]}
        return active.issuperset(made)

    def storm() -> None:
        with ThreadPoolExecutor(count) as pool:
            made.extend(pool.map(lambda _: side.spawn(), range(count)))
        wait(all_active, _ACTIVE_S, "all are active")

    seconds = timed(storm)
    _archive(side, made)
    return seconds


def _archive(side: Side, sessions: list[str]) -> None:
    """End sessions, and wait until nothing of them runs: the next ones are to meet a quiet machine.

    Not before their agents are up: the peer lets a session live on whose archiving overtakes its start.
    """
    for session in sessions:
        side.await_agent(session)
    for session in sessions:
        side.web.archive(session)
    wait(lambda: not {"session", "agent"} & set(side.processes().values()), _ACTIVE_S, f"sessions of {side.name} end")
