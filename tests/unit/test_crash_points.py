"""Crash points: each at one place, each exercised by a test, inert unless armed, fired once among many processes."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from hapi.crashpoints import POINTS, VARIABLE
from hapi.workers.supervisor.environment import agent_environment
from tests.support.crash import CrashPoints, go_on

ROOT = Path(__file__).parents[2]
POINT = "supervisor.in.taken"
PASSING = f"from hapi.crashpoints import crash_point\nfor n in range(3):\n    print(n, flush=True)\n    crash_point({POINT!r})\n"


def passing(points: CrashPoints | None) -> subprocess.Popen[str]:
    """A process that comes by the point three times."""
    ours = {key: value for key, value in os.environ.items() if key != VARIABLE} | {"PYTHONPATH": str(ROOT)}
    environment = ours | (points.environment if points else {})
    return subprocess.Popen([sys.executable, "-c", PASSING], env=environment, stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """How it ended, and how far it came."""
    said = process.communicate(timeout=20)[0]
    return process.returncode, said.replace("\n", "")


@pytest.fixture
def points(tmp_path: Path) -> CrashPoints:
    return CrashPoints(tmp_path / "points")


class _Uses(ast.NodeVisitor):
    def __init__(self) -> None:
        self.names: Counter[str] = Counter()

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "crash_point":
            found = [leaf.value for leaf in ast.walk(node.args[0]) if isinstance(leaf, ast.Constant)]
            self.names.update(name for name in found if isinstance(name, str))
        self.generic_visit(node)


def test_every_point_is_at_one_place_in_the_code() -> None:
    uses = _Uses()
    for path in (ROOT / "hapi").rglob("*.py"):
        uses.visit(ast.parse(path.read_text()))
    assert uses.names == Counter(POINTS.keys())


def test_every_point_is_exercised_by_a_test() -> None:
    tests = "".join((ROOT / "tests" / kind / "test_crash_points.py").read_text() for kind in ("hub", "process"))
    assert [name for name in POINTS if f'"{name}"' not in tests] == []


def test_nothing_happens_unless_armed(points: CrashPoints) -> None:
    assert ended(passing(None)) == (0, "012")
    assert ended(passing(points)) == (0, "012")


@pytest.mark.parametrize(("words", "came"), [("", "0"), ("1", "0"), ("2", "01"), ("4", "012")])
def test_it_dies_at_the_passing_that_was_asked_for(points: CrashPoints, words: str, came: str) -> None:
    points.arm(POINT, words)
    process = passing(points)
    assert ended(process) == (0 if words == "4" else -signal.SIGKILL, came)
    if words != "4":
        assert points.killed(POINT) == process.pid


def test_it_fires_once_among_many(points: CrashPoints) -> None:
    points.arm(POINT)
    codes = sorted(ended(process)[0] for process in [passing(points) for _ in range(5)])
    assert codes == [-signal.SIGKILL, 0, 0, 0, 0]


def test_it_can_stand_still_and_go_on(points: CrashPoints) -> None:
    points.arm(POINT, "stop 2")
    process = passing(points)
    assert points.stopped(POINT) == process.pid
    go_on(process.pid)
    assert ended(process) == (0, "012")


def test_agents_do_not_hear_of_it() -> None:
    assert VARIABLE not in agent_environment({VARIABLE: "/tmp/points", "PATH": "/bin"}, "id", {}, None)
