"""What a load test found, as a structure (its JSON is in docs/cli.md) and as text. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hapi.footprint import Use
from hapi.loadtest import stats
from hapi.loadtest.ledger import Totals
from hapi.loadtest.plan import Plan
from hapi.loadtest.stats import Bin, Summary

HUB_SERVER = "hub server"
RUNNER = ("broker", "hub", "nursery", "reaper")
MOMENTS, WIDTH = 120, 100
_WORDS = {
    "spawn": "spawn",
    "message": "message → answer",
    "list": "list, warm",
    "status": "status, warm",
    "stop": "stop of a session",
}


class Sessions(msgspec.Struct, kw_only=True, rename="camel"):
    """What became of the sessions. `gone`: ended by themselves; `survivors`: processes that outlived it all."""

    asked: int = 0
    started: int = 0
    failed: int = 0
    gone: int = 0
    stopped: int = 0
    not_stopped: int = 0
    left_at_hub: int = 0
    survivors: list[str] = []


class Burn(msgspec.Struct, kw_only=True, rename="camel"):
    """Processor time in one phase, by kind of process, in seconds. `own` is the load test's, not part of the others."""

    wall_s: float
    by_kind: dict[str, float]
    own_s: float

    @property
    def share(self) -> float:
        """Of one core, by all but us and the hub."""
        return sum(seconds for kind, seconds in self.by_kind.items() if kind != HUB_SERVER) / (self.wall_s or 1.0)


class Moment(msgspec.Struct, kw_only=True, rename="camel"):
    """What one stretch of the conversation was like; `at_s` since its start, durations in seconds."""

    at_s: float
    answers_per_s: float
    p50: float
    p99: float
    max: float


class Sample(msgspec.Struct, kw_only=True, rename="camel"):
    """Memory at one time: PSS in bytes of each worker, and of a session and an agent on average over a few."""

    at_s: float
    pss: dict[str, int]


class Report(msgspec.Struct, kw_only=True, rename="camel"):
    """All of it. `wrong` is empty when nothing was lost, doubled, failed or left behind. Durations are seconds.

    `cut_short` says why a test did not come to its end. `memory_is`: what is meant by memory, PSS or, on macOS, RSS.
    """

    version: str
    machine: str
    began: str
    through: str
    home: str
    namespace: str
    plan: Plan
    took_s: float = 0.0
    ready_s: float = 0.0
    online_s: float = 0.0
    sessions: Sessions
    messages: Totals
    latency: dict[str, Summary] = {}
    rates: dict[str, float] = {}
    histograms: dict[str, list[Bin]] = {}
    distribution: dict[str, list[tuple[float, float]]] = {}
    moments: list[Moment] = []
    memory_is: str = "PSS"
    memory: dict[str, dict[str, Use]] = {}
    samples: list[Sample] = []
    cpu: dict[str, Burn] = {}
    killed: list[str] = []
    streams_lost: int = 0
    errors: dict[str, int] = {}
    cut_short: str = ""
    wrong: list[str] = []

    def judge(self) -> None:
        """Fill in `wrong`."""
        told, all_ = self.sessions, self.sessions.asked
        bad = {
            "did not start": told.failed,
            "ended by themselves": told.gone,
            "could not be stopped": told.not_stopped,
            "could not be deleted at the hub": told.left_at_hub,
        }
        self.wrong = [f"it was cut short: {self.cut_short}"] if self.cut_short else []
        self.wrong += [f"{count} of {all_} sessions {what}" for what, count in bad.items() if count]
        self.wrong += self.messages.faults()
        missed = [name for name in self.plan.kill if name not in self.killed]
        self.wrong += [f"{name} was to be killed, and was not" for name in missed]
        self.wrong += [f"was left running: {name}" for name in told.survivors]


def as_text(report: Report, columns: int = WIDTH) -> list[str]:
    """The report for people: histograms in so many columns, the tables as wide as they are, WIDTH or less."""
    plan = report.plan
    lines = [
        f"Load test of {plan.sessions} sessions (agent {plan.agent}) through {report.through}",
        f"{report.machine}; hapi {report.version}; {report.began}; took {stats.duration(report.took_s)}",
        "",
        *_table(["", "count", "p50", "p90", "p99", "max", "per second"], _latency_rows(report)),
        "",
        *_accounts(report),
        "",
        *_memory(report),
        *_cpu(report),
    ]
    for kind, bins in report.histograms.items():
        lines += ["", _WORDS.get(kind, kind), *(f"  {line}" for line in stats.drawn(bins, min(columns, WIDTH) - 2))]
    if report.errors:
        lines += ["", "What went wrong, the most frequent first"]
        lines += [f"  {count} times {words}" for words, count in report.errors.items()]
    return [*lines, "", *_verdict(report)]


def _latency_rows(report: Report) -> list[list[str]]:
    rows = [["runner start", "1", stats.duration(report.ready_s)]]
    if report.online_s:
        rows.append(["listed by the hub", "1", stats.duration(report.online_s)])
    for kind, one in report.latency.items():
        figures = [stats.duration(value) for value in (one.p50, one.p90, one.p99, one.max)]
        rate = report.rates.get(kind)
        rows.append([_WORDS.get(kind, kind), str(one.count), *figures, f"{rate:.1f}" if rate else ""])
    return rows


def _accounts(report: Report) -> list[str]:
    told, sent = report.sessions, report.messages
    lines = [
        (
            f"sessions  {told.started} of {told.asked} started, {told.failed} failed, {told.gone} ended by themselves, "
            f"{told.stopped} stopped, {len(told.survivors)} left running"
        ),
        (
            f"messages  {sent.answered} of {sent.sent} answered, {sent.lost} lost, {sent.doubled} doubled, "
            f"{sent.out_of_order} out of order, {sent.refused} refused, {sent.late} late, "
            f"{sent.reread} found later"
        ),
    ]
    if report.killed:
        lines.append(f"killed    {', '.join(report.killed)}, in the middle of the conversation")
    if report.streams_lost:
        lines.append(f"events    the hub's stream broke off {report.streams_lost} times")
    return lines


def _memory(report: Report) -> list[str]:
    columns = [name for name in ("empty", "idle", "after") if name in report.memory]
    if not columns:
        return []
    kinds = list(dict.fromkeys(kind for name in columns for kind in report.memory[name]))
    heads = {"empty": "no sessions", "idle": "all idle", "after": "after the talk"}
    rows = []
    for kind in kinds:
        uses = [report.memory[name].get(kind, Use()) for name in columns]
        count = max(use.count for use in uses)
        each = [f" ({stats.size(use.pss / use.count)} each)" if use.count > 1 else "" for use in uses]
        shown = [f"{stats.size(use.pss)}{one}" if use.count else "" for use, one in zip(uses, each, strict=True)]
        rows.append([kind, str(count), *shown])
    rows.append(["runner", "", *(stats.size(total(report.memory[name], RUNNER)) for name in columns)])
    rows.append(["runner and sessions", "", *(stats.size(total(report.memory[name])) for name in columns)])
    return [*_table([f"memory ({report.memory_is})", "count", *(heads[name] for name in columns)], rows), ""]


def total(memory: Mapping[str, Use], kinds: tuple[str, ...] | None = None) -> int:
    """PSS of these kinds in bytes; without `kinds`, of all but the hub."""
    return sum(use.pss for kind, use in memory.items() if kind != HUB_SERVER and (kinds is None or kind in kinds))


def _cpu(report: Report) -> list[str]:
    """For each session that was spawned and each message that was sent; of the time, where nothing was done."""
    counts = {"spawn": report.sessions.started, "talk": report.messages.sent}
    phases = [(burn, counts.get(name, 0)) for name, burn in report.cpu.items()]
    if not phases:
        return []
    words = {"spawn": "a spawn", "talk": "a message"}
    heads = [words[name] if counts.get(name) else name for name in report.cpu]
    kinds = list(dict.fromkeys(kind for burn, _ in phases for kind in burn.by_kind))
    rows = [[kind, *(_each(burn.by_kind.get(kind), burn, count) for burn, count in phases)] for kind in kinds]
    rows += [
        ["this load test", *(_each(burn.own_s, burn, count) for burn, count in phases)],
        ["of a core, runner and sessions", *(f"{100 * burn.share:.1f} %" for burn, _ in phases)],
        ["in", *(stats.duration(burn.wall_s) for burn, _ in phases)],
    ]
    return _table(["processor time", *heads], rows)


def _each(seconds: float | None, burn: Burn, count: int) -> str:
    if seconds is None:
        return ""
    return stats.duration(seconds / count) if count else f"{100 * seconds / (burn.wall_s or 1.0):.2f} %"


def _verdict(report: Report) -> list[str]:
    if not report.wrong:
        return ["All well: every session started and ended, every message was answered once, nothing was left behind."]
    return ["NOT well:", *(f"  {words}" for words in report.wrong)]


def _table(heads: list[str], rows: list[list[str]]) -> list[str]:
    """Columns two blanks apart; all but the first are right-aligned."""
    full = [row + [""] * (len(heads) - len(row)) for row in [heads, *rows]]
    widths = [max(len(row[index]) for row in full) for index in range(len(heads))]
    return [
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in full
    ]


def moments(sent_at: Sequence[float], took: Sequence[float], start: float) -> list[Moment]:
    """The conversation in at most MOMENTS stretches of one length, a second or more, by when answers came."""
    if not sent_at:
        return []
    ends = [sent + seconds - start for sent, seconds in zip(sent_at, took, strict=True)]
    last = max(ends) or 1.0
    count = min(max(int(last), 1), MOMENTS)
    width = last / count
    stretches: list[list[float]] = [[] for _ in range(count)]
    for end, seconds in zip(ends, took, strict=True):
        stretches[min(int(end / width), count - 1)].append(seconds)
    found = []
    for index, stretch in enumerate(map(sorted, stretches)):
        p50, p99, high = (stats.percentile(stretch, share) if stretch else 0.0 for share in (0.5, 0.99, 1.0))
        moment = Moment(at_s=(index + 0.5) * width, answers_per_s=len(stretch) / width, p50=p50, p99=p99, max=high)
        found.append(moment)
    return found
