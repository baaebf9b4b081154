"""Commands from a cold start: `--version`, `runner list` and `runner status`, beside the peer's and beside a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

from benchmarks.figures import Result, Target
from benchmarks.harness import interleave, timed
from benchmarks.sides import OURS, PEER, Stage, stage

FULL = {"rounds": 15, "sessions": 3}
QUICK = {"rounds": 1, "sessions": 1}
BARE, LIBRARIES = "floor: bare interpreter", "floor: interpreter, zmq and msgspec"
_FLOORS = {BARE: ("-IS", "-c", "pass"), LIBRARIES: ("-c", "import zmq, msgspec")}
_LIMITS = {"--version": 0.4, "runner list": 0.35, "runner status": 0.4}


def measure(rounds: int, sessions: int) -> list[Result]:
    """Both runners run, with a few sessions each."""
    with stage() as both:
        for side in both.sides:
            side.start()
            for _ in range(sessions):
                side.spawn()
        return [_compare(both, command, rounds) for command in _LIMITS]


def _compare(both: Stage, command: str, rounds: int) -> Result:
    words = command.split()
    works: dict[str, Callable[[], float]] = {side.name: partial(side.seconds, *words) for side in both.sides}
    works |= {name: partial(_interpreter, *flags) for name, flags in _FLOORS.items()}
    target = Target(f"`hapi {command}` cold", OURS, _LIMITS[command], PEER)
    return Result(title=f"`hapi {command}`", rows=interleave(rounds, works), targets=[target])


def _interpreter(*flags: str) -> float:
    return timed(lambda: subprocess.run([sys.executable, *flags], check=True))
