"""The hub dies under many sessions and comes back: until all are shown as active again, and until each has answered what was said meanwhile."""

from __future__ import annotations

import asyncio

from benchmarks.figures import Result, Row
from benchmarks.harness import timed, wait
from benchmarks.sides import Stage, stage
from benchmarks.talk import Talk, talk
from hapi.clock import monotonic

FULL = {"sessions": 200, "rounds": 3}
QUICK = {"sessions": 3, "rounds": 1}
ACTIVE, ANSWERED = "all active again", "all have answered a message"
_BACK_S, _AT_ONCE = 60, 16


def measure(sessions: int, rounds: int) -> list[Result]:
    """SIGKILL and a start of the hub, with a message under way to every session."""
    with stage() as both:
        both.ours.start()
        return [asyncio.run(_measure(both, sessions, rounds))]


async def _measure(both: Stage, count: int, rounds: int) -> Result:
    places = asyncio.Semaphore(_AT_ONCE)

    async def spawn() -> str:
        async with places:
            return await asyncio.to_thread(both.ours.spawn)

    down: list[float] = []
    active: list[float] = []
    answered: list[float] = []
    async with talk(both.ours) as voice:
        sessions = await asyncio.gather(*(spawn() for _ in range(count)))
        for _ in range(rounds):
            down.append(await asyncio.to_thread(timed, lambda: _restart(both)))
            start = monotonic()
            talking = asyncio.create_task(_all_answer(voice, sessions))
            await asyncio.to_thread(wait, lambda: _active(both, sessions), _BACK_S, "all are active")
            active.append(monotonic() - start)
            await talking
            answered.append(monotonic() - start)
        lost = len(set(sessions) - {info.session_id for info in await asyncio.to_thread(both.ours.local.sessions)})
    return Result(
        title=f"A hub that is killed under {count} sessions, from its return on",
        rows=[Row("the hub is away", down), Row(ACTIVE, active), Row(ANSWERED, answered)],
        alike=False,
        wrong=[*voice.wrong(), *([f"{lost} of {count} sessions lost"] if lost else [])],
    )


def _restart(both: Stage) -> None:
    both.hub.kill()
    both.hub.start()


async def _all_answer(voice: Talk, sessions: list[str]) -> None:
    await asyncio.gather(*map(voice.ask, sessions))


def _active(both: Stage, sessions: list[str]) -> bool:
    return {row["id"] for row in both.ours.web.sessions() if row["active"]}.issuperset(sessions)
