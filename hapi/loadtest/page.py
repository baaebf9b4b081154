"""The report as one page of HTML: no script, nothing from elsewhere, light and dark. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from hapi.footprint import Use
from hapi.loadtest import plot, stats
from hapi.loadtest.plot import Axis, Series
from hapi.loadtest.report import Report, as_text

_MB = 2**20
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:1340px;margin:2rem auto;padding:0 1rem;background:#fff;color:#1f2328}
h1{font-size:1.4rem;margin:0}p{margin:.2rem 0 1rem}pre{font:13px/1.45 ui-monospace,monospace;overflow-x:auto;
padding:1rem;border:1px solid #d0d7de;border-radius:8px}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:1.5rem}
.plots svg{width:100%;height:auto}.good{color:#1a7f37}.bad{color:#cf222e}
@media(prefers-color-scheme:dark){body{background:#0d1117;color:#e6edf3}pre{border-color:#3d444d}
.good{color:#3fb950}.bad{color:#f85149}}
"""


def page(report: Report) -> str:
    """The whole document."""
    title = f"Load test: {report.plan.sessions} sessions of {report.plan.agent}"
    if report.wrong:
        verdict = "bad", "; ".join(report.wrong)
    else:
        verdict = "good", "All well: nothing was lost, doubled, failed or left behind."
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>"
        f"<h1>{escape(title)}</h1>"
        f"<p>through {escape(report.through)} · {escape(report.machine)} · hapi {escape(report.version)} · "
        f'{escape(report.began)}<br><strong class="{verdict[0]}">{escape(verdict[1])}</strong></p>'
        f'<div class="plots">{"".join(plots(report))}</div>'
        f"<pre>{escape(chr(10).join(as_text(report)))}</pre></html>\n"
    )


def plots(report: Report) -> list[str]:
    """The plots that there is something to show in."""
    drawn = []
    if report.moments:
        drawn += _over_time(report)
    for kind, words in (("message", "Message → answer"), ("spawn", "Spawn")):
        bins = report.histograms.get(kind)
        if bins:
            labels = [stats.duration(one.high) for one in bins]
            counts = [[float(one.count)] for one in bins]
            drawn.append(plot.bars(f"{words}: how many took up to so long", labels, Axis("count"), counts, ["count"]))
    shares = [Series(kind, _milliseconds(points)) for kind, points in report.distribution.items()]
    if shares:
        drawn.append(plot.cumulative("How many took no longer", Axis("ms", log=True), shares))
    if report.memory:
        drawn.append(_memory(report))
    if len(report.samples) > 2:
        drawn += _samples(report)
    return drawn


def _over_time(report: Report) -> list[str]:
    since = Axis("seconds since the conversation began")
    rates = [(moment.at_s, moment.answers_per_s) for moment in report.moments]
    curves = [
        Series(name, [(moment.at_s, getattr(moment, name) * 1000) for moment in report.moments if moment.answers_per_s])
        for name in ("p50", "p99", "max")
    ]
    return [
        plot.lines("Message → answer over time", since, Axis("ms"), curves),
        plot.lines("Answers per second", since, Axis("1/s"), [Series("answers", rates)]),
    ]


def _memory(report: Report) -> str:
    kinds = list(dict.fromkeys(kind for one in report.memory.values() for kind in one))
    stacks = [[one.get(kind, Use()).pss / _MB for kind in kinds] for one in report.memory.values()]
    words = {"empty": "no sessions", "idle": "all idle", "after": "after the talk"}
    return plot.bars(
        f"Memory ({report.memory_is})", [words.get(name, name) for name in report.memory], Axis("MB"), stacks, kinds
    )


def _samples(report: Report) -> list[str]:
    since = Axis("seconds since the conversation began")
    kinds = list(dict.fromkeys(kind for sample in report.samples for kind in sample.pss))
    curves = [
        Series(kind, [(one.at_s, one.pss[kind] / _MB) for one in report.samples if kind in one.pss]) for kind in kinds
    ]
    return [plot.lines(f"Memory of one process over time ({report.memory_is})", since, Axis("MB"), curves)]


def _milliseconds(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(seconds * 1000, share) for seconds, share in points]
