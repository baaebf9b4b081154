"""`hapi loadtest` as a benchmark's instrument: run it, and have its report."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from benchmarks.harness import own_environment
from hapi.loadtest.report import Report
from tests.support.hub import OfficialHub

_TEST_S = 280


def loadtest(*words: str, hub: OfficialHub | None = None) -> Report:
    """`hapi loadtest` through that hub, or without one; its report.

    Raises RuntimeError for one that was cut short, DecodeError where it says nothing, TimeoutExpired.
    """
    where = ["--local"] if hub is None else ["--hub", hub.url]
    token = {} if hub is None else {"CLI_API_TOKEN": hub.token}
    command = [sys.executable, "-m", "hapi", "loadtest", "--json", *where, *words]
    done = subprocess.run(command, env=own_environment() | token, stdout=subprocess.PIPE, check=False, timeout=_TEST_S)
    report = msgspec.json.decode(done.stdout, type=Report)
    if report.cut_short or "talk" not in report.cpu:
        raise RuntimeError(f"the load test came to no end: {report.cut_short}; {report.wrong}")
    return report


def pss(report: Report, *kinds: str) -> float:
    """Bytes that the idle processes of those kinds have together."""
    return sum((float(use.pss) for kind, use in report.memory["idle"].items() if kind in kinds), 0.0)


def share(report: Report, *kinds: str) -> float:
    """What the idle processes of those kinds take of a core."""
    idle = report.cpu["idle"]
    return sum((seconds for kind, seconds in idle.by_kind.items() if kind in kinds), 0.0) / idle.wall_s


def cost(report: Report, kind: str) -> float:
    """Seconds of processor time of that kind for each message that was answered."""
    return float(report.cpu["talk"].by_kind.get(kind, 0.0)) / max(1, report.messages.answered)
