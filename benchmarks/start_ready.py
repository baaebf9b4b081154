"""`runner start`: until it returns, and until the hub reaches the runner, which can spawn from then on; `runner stop`, idle."""

from __future__ import annotations

from benchmarks.figures import Result, Row, Target
from benchmarks.harness import timed, wait
from benchmarks.sides import OURS, PEER, Side, stage

FULL = {"rounds": 7}
QUICK = {"rounds": 1}
_READY_S = 30
Figures = dict[str, list[float]]


def measure(rounds: int) -> list[Result]:
    """Start and stop, taking turns."""
    with stage() as both:
        returned: Figures = {PEER: [], OURS: []}
        reached: Figures = {PEER: [], OURS: []}
        stopped: Figures = {PEER: [], OURS: []}
        for side in both.sides:  # the first start makes keys and files, and the hub learns of the machine
            side.start()
            side.run("runner", "stop")
        for number in range(rounds):
            for side in both.sides if number % 2 else reversed(both.sides):
                until_returned, until_reached = _start(side)
                returned[side.name].append(until_returned)
                reached[side.name].append(until_reached)
                stopped[side.name].append(side.seconds("runner", "stop"))
                _gone(side)
    return [
        _result("`hapi runner start` returns", returned),
        _result(
            "`hapi runner start`, until the hub can spawn",
            reached,
            Target("runner start, hub can spawn", OURS, 0.5, PEER),
        ),
        _result("`hapi runner stop`, idle", stopped, Target("`runner stop`", OURS, 0.4, PEER)),
    ]


def _start(side: Side) -> tuple[float, float]:
    returned = side.seconds("runner", "start")
    return returned, returned + timed(lambda: wait(side.reachable, _READY_S, f"the hub reaches {side.name}"))


def _gone(side: Side) -> None:
    """Wait until nothing of it runs, so that the next start meets nobody's end."""
    wait(lambda: not side.left(), _READY_S, f"{side.name} has ended")


def _result(title: str, figures: Figures, *targets: Target) -> Result:
    return Result(title=title, rows=[Row(name, seconds) for name, seconds in figures.items()], targets=list(targets))
