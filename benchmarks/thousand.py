"""A thousand sessions at a hub: spawned through the web, left alone, spoken to, stopped; every message accounted for (`hapi loadtest`)."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from benchmarks.figures import Result, Row, Target
from benchmarks.loadtests import loadtest, pss, share
from hapi.loadtest.report import HUB_SERVER, RUNNER, Report
from tests.support.hub import OfficialHub

FULL = {"sessions": 1000, "messages": 3, "idle_s": 10}
QUICK = {"sessions": 4, "messages": 1, "idle_s": 1}
GB = 1 << 30
SPAWNED, STOPPED = "spawned per second", "stopped per second"
MEMORY, AGENTS, IDLE, HUB = (
    "memory, agents excluded",
    "memory of the agents",
    "CPU while idle",
    "CPU of the hub's own process meanwhile",
)


def measure(sessions: int, messages: int, idle_s: int) -> list[Result]:
    """One load test."""
    place = Path(tempfile.mkdtemp(prefix="hapi-b-", dir="/tmp"))
    try:
        with OfficialHub(place / "hub") as hub:
            numbers = {"--sessions": sessions, "--messages": messages, "--idle": idle_s}
            words = [str(word) for pair in numbers.items() for word in pair]
            return [_result(loadtest(*words, hub=hub), sessions)]
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _result(report: Report, sessions: int) -> Result:
    ours = (*RUNNER, "session")
    latency = report.latency
    rows = [
        Row(SPAWNED, [report.rates["spawn"]], "/s"),
        Row("a spawn, median", [latency["spawn"].p50]),
        Row("a spawn, p99", [latency["spawn"].p99]),
        Row(MEMORY, [pss(report, *ours)], "B"),
        Row(AGENTS, [pss(report, "agent")], "B"),
        Row(IDLE, [share(report, *ours)], "core"),
        Row(HUB, [share(report, HUB_SERVER)], "core"),
        Row("message to reply, median", [latency["message"].p50]),
        Row("message to reply, p99", [latency["message"].p99]),
        Row("replies per second", [report.rates["message"]], "/s"),
        Row("`list`, p99", [latency["list"].p99]),
        Row(STOPPED, [report.rates["stop"]], "/s"),
    ]
    return Result(
        title=f"{sessions} sessions at a hub",
        rows=rows,
        alike=False,
        targets=[
            Target(f"sustained spawns to {sessions}, with hub", SPAWNED, 25.0, at_least=True),
            Target(f"{sessions} idle sessions connected, memory", MEMORY, 8.0 * GB),
            Target(f"{sessions} idle sessions connected, CPU", IDLE, 0.05),
            Target(f"`list` at {sessions} sessions, warm", "`list`, p99", 0.025),
        ],
        notes=[
            f"{report.messages.answered} of {report.messages.sent} messages answered, {report.sessions.failed} spawns failed"
        ],
        wrong=report.wrong,
    )
