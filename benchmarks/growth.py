"""How cost grows: with sessions (memory, idle CPU, `list`, spawns), with messages per second, with how much an agent says."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from functools import partial

from benchmarks.figures import MIB, Curve, Result, Unit
from benchmarks.harness import settled, timed
from benchmarks.loadtests import cost, loadtest, pss, share
from benchmarks.sides import Ours, stage
from hapi import footprint, wire
from hapi.loadtest.report import HUB_SERVER, RUNNER, Report
from tests.support.hub import OfficialHub

FULL = {"sessions": 500, "idle_s": 5, "talkers": 50, "rate": 400, "megabytes": 8}
QUICK = {"sessions": 3, "idle_s": 1, "talkers": 2, "rate": 10, "megabytes": 1}
_SESSIONS = (1, 10, 30, 100, 250, 500, 1000)
_RATES = (10, 25, 50, 100, 200, 400, 800, 1600)
_TALK_S = 5
_SHARES = {"the hub": HUB_SERVER, "connector": "hub", "broker": "broker", "session": "session", "agent": "agent"}
_STEADY = 0.002  # of the seconds of processor time so far: all is quiet
Reports = dict[int, Report]


def measure(sessions: int, idle_s: int, talkers: int, rate: int, megabytes: int) -> list[Result]:
    """Load tests at rising sizes, and long answers, through a hub."""
    sizes = sorted({*(count for count in _SESSIONS if count < sessions), sessions})
    with stage() as both:
        filled = {count: _idle(both.hub, count, idle_s) for count in sizes}
        busy = {much: _busy(both.hub, talkers, much) for much in _RATES if much <= rate}
        said = over_output(both.ours, megabytes)
    return [*over_sessions(filled), *over_rate(busy), *said]


def over_sessions(filled: Reports) -> list[Result]:
    """What idle sessions have and burn, and how long requests take beside them."""
    memory = _curves(
        filled,
        "B",
        {
            "all sessions": lambda report: pss(report, "session"),
            "all agents": lambda report: pss(report, "agent"),
            "the runner itself": lambda report: pss(report, *RUNNER),
        },
    )
    burnt = _curves(
        filled,
        "core",
        {
            "all sessions": lambda report: share(report, "session"),
            "all agents": lambda report: share(report, "agent"),
            "the runner itself": lambda report: share(report, *RUNNER),
            "the hub": lambda report: share(report, HUB_SERVER),
        },
    )
    requests = _curves(
        filled,
        "s",
        {
            "list, median": lambda report: report.latency["list"].p50,
            "list, p99": lambda report: report.latency["list"].p99,
            "status, median": lambda report: report.latency["status"].p50,
            "status, p99": lambda report: report.latency["status"].p99,
        },
    )
    rates = _curves(
        filled,
        "/s",
        {"started": lambda report: report.rates["spawn"], "ended": lambda report: report.rates["stop"]},
    )
    spent = _costs(filled)
    over = "sessions"
    return [
        Result(title="Memory of idle sessions", over=over, plot="memory-sessions", curves=memory, wrong=_wrong(filled)),
        Result(title="CPU time while nothing happens", over=over, plot="idle-sessions", curves=burnt),
        Result(title="A request, beside idle sessions", over=over, plot="requests-sessions", curves=requests),
        Result(title="Sessions started and ended per second", over=over, plot="rates-sessions", curves=rates),
        Result(title="CPU time of one message and its reply", over=over, plot="cost-sessions", curves=spent),
    ]


def over_rate(busy: Reports) -> list[Result]:
    """Messages through hub, runner and agent and back: how long one takes, and what each process spends on it."""
    latency = _curves(
        busy,
        "s",
        {"median": lambda report: report.latency["message"].p50, "p99": lambda report: report.latency["message"].p99},
    )
    replies = _curves(busy, "/s", {"replies": lambda report: report.rates["message"]})
    spent = _costs(busy)
    over = "messages per second asked for"
    return [
        Result(title="From a message to its reply, through the hub", over=over, plot="latency-rate", curves=latency),
        Result(title="Replies per second", over=over, plot="replies-rate", curves=replies, wrong=_wrong(busy)),
        Result(title="CPU time of one message and its reply", over=over, plot="cost-rate", curves=spent),
    ]


def over_output(ours: Ours, most: int) -> list[Result]:
    """One session says so much in one turn; through the hub, until all is there."""
    ours.start()
    session = ours.spawn()
    ours.await_agent(session)
    sizes = [1 << power for power in range(most.bit_length()) if 1 << power <= most]
    costs = {size: _say(ours, session, size * MIB) for size in sizes}
    kinds = {"connector": "hub", "broker": "broker", "session": "session", "agent": "agent"}
    seconds = Curve("CPU time of all", [(size, sum(cost.values())) for size, cost in costs.items()], "s")
    parts = [
        Curve(name, [(size, cost.get(kind, 0.0)) for size, cost in costs.items()], "s") for name, kind in kinds.items()
    ]
    return [Result(title="CPU time of a long answer", over="MiB said", plot="cost-output", curves=[seconds, *parts])]


def _say(ours: Ours, session: str, size: int) -> dict[str, float]:
    """Seconds of processor time, by kind, of an answer of so many bytes and all that follows from it."""
    pids = ours.processes()
    before = footprint.cpu(pids)
    ours.local.control.ask(
        wire.SendText(session, f"/spew {size} stdout-text", secrets.token_hex(4)), wire.Accepted, 30.0
    )
    timed(lambda: ours.local.control.ask(wire.WaitSession(session, timeout_ms=60_000), wire.Waited, 70.0))
    settled(lambda: sum(footprint.cpu(pids).values()), _STEADY)
    return footprint.spent(pids, before, footprint.cpu(pids))


def _curves(reports: Reports, unit: Unit, values: dict[str, Callable[[Report], float]]) -> list[Curve]:
    return [Curve(name, [(x, value(report)) for x, report in reports.items()], unit) for name, value in values.items()]


def _costs(reports: Reports) -> list[Curve]:
    return _curves(reports, "s", {name: partial(cost, kind=kind) for name, kind in _SHARES.items()})


def _wrong(reports: Reports) -> list[str]:
    return [f"{x}: {text}" for x, report in reports.items() for text in report.wrong]


def _idle(hub: OfficialHub, sessions: int, idle_s: int) -> Report:
    words = ("--sessions", sessions, "--messages", 1, "--idle", idle_s)
    return loadtest(*map(str, words), hub=hub)


def _busy(hub: OfficialHub, sessions: int, rate: int) -> Report:
    words = ("--sessions", sessions, "--message-rate", rate, "--duration", _TALK_S, "--idle", 0)
    return loadtest(*map(str, words), hub=hub)
