"""The last recorded results: `results.json`; RESULTS.md and the targets in docs/performance.md are made from it. Each benchmark's newest record replaces the one before."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import msgspec

from benchmarks import ORDER
from benchmarks.figures import Result, table
from benchmarks.harness import machine

PLACE = Path(__file__).parent
PAGE, DATA = PLACE / "RESULTS.md", PLACE / "results.json"
DOCUMENT = PLACE.parent / "docs" / "performance.md"
_BEGIN, _END = "<!-- targets: written by `make bench RECORD=1` -->\n", "<!-- /targets -->\n"
_HEAD = """# Benchmark results

Made by `make bench RECORD=1`. Medians; the spread is the least and the most of few values, the quartiles of many. Each table was measured in one run, its rows taking
turns where they can. *peer* is the official runner (`@twsxtd/hapi@0.30.7`) on the same machine, at the same hub, with the same agent; *floor* is what the
parts cost bare. MiB are 2²⁰ bytes; memory is PSS: a page that n processes share counts 1/n for each.
"""


class Record(msgspec.Struct, frozen=True):
    """One run of a benchmark."""

    summary: str
    commit: str  # abbreviated, with "+" when files were changed since
    date: str
    machine: str
    numbers: dict[str, int]
    results: list[Result]


def keep(name: str, summary: str, numbers: dict[str, int], results: list[Result]) -> None:
    """Put a run on record."""
    record = Record(summary, commit(), time.strftime("%Y-%m-%d"), machine(), numbers, list(map(_rounded, results)))
    known = read() | {name: record}
    found = {one: known[one] for one in ORDER if one in known}
    _write(DATA, as_lines(found))
    _write(PAGE, page(found).encode())
    _write(DOCUMENT, with_targets(DOCUMENT.read_text(), found).encode())


def as_lines(found: dict[str, Record]) -> bytes:
    """JSON with a line for each benchmark: what is recorded anew is one changed line."""
    lines = (msgspec.json.encode(name) + b": " + msgspec.json.encode(record) for name, record in found.items())
    return b"{\n" + b",\n".join(lines) + b"\n}\n"


def _rounded(result: Result) -> Result:
    """With as many digits as a measurement has; tens of thousands of values are kept."""
    rows = [msgspec.structs.replace(row, values=[float(f"{value:.6g}") for value in row.values]) for row in result.rows]
    return msgspec.structs.replace(result, rows=rows)


def read() -> dict[str, Record]:
    """What is on record, by the benchmark's name."""
    if not DATA.exists():
        return {}
    return msgspec.json.decode(DATA.read_bytes(), type=dict[str, Record])


def page(found: dict[str, Record]) -> str:
    """All records as Markdown: the targets first, then each benchmark's tables."""
    return "\n".join([_HEAD, *_summary(found, ""), "", *(_section(name, record) for name, record in found.items())])


def with_targets(document: str, found: dict[str, Record]) -> str:
    """The document with the verdicts of all records between its marks. Raises ValueError when it has none."""
    before, mark, rest = document.partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not end:
        raise ValueError(f"no {_BEGIN.strip()} … {_END.strip()} in the document")
    return before + mark + "\n".join([*_summary(found, "../benchmarks/RESULTS.md"), end]) + after


def _summary(found: dict[str, Record], path: str) -> list[str]:
    lines = ["| benchmark | target | measured | aim | verdict |", "|---|---|---|---|---|"]
    for name, record in found.items():
        for result in record.results:
            lines += [
                f"| [{name}]({path}#{name}) | {v.what} | {v.figure} | {v.target} | {'met' if v.met else '**missed**'} |"
                for v in result.verdicts()
            ]
    return lines


def _section(name: str, record: Record) -> str:
    size = ", ".join(f"{key} {number}" for key, number in record.numbers.items())
    tables = "\n\n".join(table(result) for result in record.results)
    where = f"{record.date}, commit {record.commit}, {record.machine}; {size}"
    return f"## {name}\n\n{record.summary}\n\n{tables}\n\n{where}\n"


def commit() -> str:
    """The commit that is measured, with "+" when the code was changed since; "unknown" outside a repository."""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "hapi", "benchmarks/*.py", "tests/support")
    return (head or "unknown") + ("+" if changed else "")


def _git(*words: str) -> str:
    command = ["git", "-C", str(PLACE.parent), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _write(path: Path, data: bytes) -> None:
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_bytes(data)
    beside.replace(path)
