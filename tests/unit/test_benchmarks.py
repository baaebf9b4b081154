"""The benchmarks' arithmetic and tables; that each is what the runner of benchmarks expects; and two of them, at their smallest."""

from __future__ import annotations

import inspect
import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

import benchmarks
from benchmarks import ORDER
from benchmarks.figures import MIB, Curve, Result, Row, Target, shown, table
from benchmarks.records import Record, page, with_targets
from benchmarks.web import without_agent
from tests.support.hub import find_hub

ROOT = Path(__file__).parents[2]
PEER = Row("peer", [0.5, 0.3, 0.6])
OURS = Row("hapi", [0.1, 0.2, 0.15])
RATE = Row("rate", [40.0], "/s")


def test_a_row_has_its_median_its_slowest_percent_and_its_spread():
    hundred = Row("many", [float(value) for value in range(100, 0, -1)])
    assert (hundred.median, hundred.p99, hundred.max) == (50.5, 99.0, 100.0)
    assert hundred.spread == "25.2 s to 75.8 s"  # quartiles
    assert RATE.spread == ""
    assert PEER.spread == "300 ms to 600 ms"  # least and most


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0123, "s", "12.3 ms"),
        (2.5, "s", "2.50 s"),
        (7.5 * MIB, "B", "7.50 MiB"),
        (1234.5, "/s", "1,234/s"),
        (0.016, "core", "1.60 % of a core"),
        (2e6 * 1.048576, "B/s", "2 MiB/s"),
        (3, "", "3"),
    ],
)
def test_values_are_shown_as_people_read_them(value, unit, text):
    assert shown(value, unit) == text


@pytest.mark.parametrize(
    ("target", "figure", "met"),
    [
        (Target("t", "hapi", 0.31, "peer"), "0.30 times", True),
        (Target("t", "hapi", 0.29, "peer"), "0.30 times", False),
        (Target("t", "hapi", 0.2), "150 ms", True),
        (Target("t", "hapi", 0.15, statistic="max"), "max 200 ms", False),
        (Target("t", "rate", 40.0, at_least=True), "40/s", True),
        (Target("t", "rate", 41.0, at_least=True), "40/s", False),
    ],
)
def test_a_target_is_met_up_to_its_limit(target, figure, met):
    verdict = Result(title="", rows=[PEER, OURS, RATE], targets=[target]).verdicts()[0]
    assert (verdict.figure, verdict.met) == (figure, met)


def test_a_target_without_its_row_is_left_out_not_met():
    assert Result(title="", rows=[OURS], targets=[Target("t", "hapi", 1.0, "peer")]).verdicts() == []


def test_an_agent_is_excluded_on_both_sides_or_on_none():
    rest = {row.name: row.values for row in without_agent({"peer": [0.4, 0.3], "hapi": [0.1, 0.05]}, [0.05, 0.1])}
    assert rest == {
        "peer, agent excluded": [pytest.approx(0.35), pytest.approx(0.2)],
        "hapi, agent excluded": [pytest.approx(0.05), 0.0],
    }


def test_a_table_has_ratios_to_its_first_row_verdicts_and_what_went_wrong():
    result = Result(
        title="T", rows=[PEER, OURS, RATE], targets=[Target("fast", "hapi", 0.1, "peer")], wrong=["one lost"]
    )
    text = table(result)
    assert "| hapi | 150 ms | 100 ms to 200 ms | 3 | 0.30 |" in text
    assert "| rate | 40/s |  | 1 |  |" in text  # another unit: no ratio
    assert "| fast | 0.30 times | ≤ 0.1 times peer | **missed** |" in text
    assert "**Wrong:** one lost" in text


def test_curves_make_one_line_for_each_step():
    curves = [Curve("memory", [(1, MIB), (1000, 7000.0 * MIB)], "B"), Curve("idle", [(1, 0.01), (1000, 0.05)], "core")]
    text = table(Result(title="T", curves=curves, over="sessions"))
    assert "| sessions | memory | idle |" in text
    assert "| 1,000 | 7,000 MiB | 5 % of a core |" in text


def test_a_record_survives_its_file_and_the_page_names_commit_and_machine():
    result = Result(title="T", rows=[PEER, OURS], targets=[Target("fast", "hapi", 0.1, "peer")])
    record = Record("What it is.", "abc1234", "2026-01-02", "two cores", {"rounds": 3}, [result])
    found = msgspec.json.decode(msgspec.json.encode({"spawn": record}), type=dict[str, Record])
    assert found == {"spawn": record}
    text = page(found)
    assert "| [spawn](#spawn) | fast | 0.30 times | ≤ 0.1 times peer | **missed** |" in text
    assert "2026-01-02, commit abc1234, two cores; rounds 3" in text


def test_the_targets_of_the_document_are_replaced_and_nothing_else():
    result = Result(title="T", rows=[PEER, OURS], targets=[Target("fast", "hapi", 0.5, "peer")])
    record = Record("What it is.", "abc1234", "2026-01-02", "two cores", {"rounds": 3}, [result])
    document = (ROOT / "docs" / "performance.md").read_text()
    once = with_targets(document, {"spawn": record})
    assert "| [spawn](../benchmarks/RESULTS.md#spawn) | fast | 0.30 times | ≤ 0.5 times peer | met |\n" in once
    assert with_targets(once, {"spawn": record}) == once
    assert once.partition("## How it is measured")[2] == document.partition("## How it is measured")[2]
    with pytest.raises(ValueError, match="targets"):
        with_targets("no marks", {})


def test_the_list_of_benchmarks_is_complete():
    names = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)}
    found = {name for name in names - {"__main__"} if hasattr(import_module(f"benchmarks.{name}"), "measure")}
    assert found == set(ORDER)


@pytest.mark.parametrize("name", ORDER)
def test_a_benchmark_says_what_it_measures_and_takes_its_numbers(name):
    benchmark = import_module(f"benchmarks.{name}")
    assert benchmark.__doc__
    assert set(benchmark.FULL) == set(benchmark.QUICK) == set(inspect.signature(benchmark.measure).parameters)


@pytest.mark.timeout(120)
def test_a_small_one_runs_to_the_end():
    said = _run("spawn")
    assert "**Wrong:**" not in said
    assert "| sustained spawns to 6, no hub |" in said


@pytest.mark.hub
@pytest.mark.timeout(120)
@pytest.mark.skipif(find_hub() is None, reason="the official hub is not installed")
def test_both_runners_take_part():
    said = _run("stop")
    assert "| `stop-session` |" in said
    assert "| peer |" in said
    assert "| hapi |" in said
    assert "**Wrong:**" not in said


def _run(name: str) -> str:
    words = [sys.executable, "-m", "benchmarks", name, "--quick"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
