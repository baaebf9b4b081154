"""Runs benchmarks, each in a process of its own with a time-out, prints what they say, and records it where that is asked for.

Exit status 1 when something went wrong: a benchmark that failed, or one that found a loss. A missed target is no failure.
"""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
from typing import Protocol, cast

from benchmarks import ORDER, plots, records
from benchmarks.figures import Result, table
from benchmarks.harness import machine

TIMEOUT_S, GRACE_S = 600, 60  # of one benchmark; to clean up after that


class Benchmark(Protocol):
    """A module of this package."""

    FULL: dict[str, int]
    QUICK: dict[str, int]

    def measure(self, **numbers: int) -> list[Result]:
        """Take the figures."""


def load(name: str) -> Benchmark:
    """The benchmark of that name. Raises ModuleNotFoundError."""
    return cast("Benchmark", importlib.import_module(f"benchmarks.{name}"))


def main(arguments: list[str]) -> int:
    """One benchmark here, several each in a process of its own; 1 when something went wrong."""
    chosen = _options(arguments)
    if len(chosen.names) == 1:
        return _one(chosen.names[0], chosen)
    start = time.monotonic()
    flags = [word for word in ("--quick", "--record") if getattr(chosen, word[2:])]
    failed = [name for name in chosen.names or ORDER if not _succeeds([name, *flags])]
    print(f"\n{(time.monotonic() - start) / 60:.1f} minutes; failed: {', '.join(failed) or 'none'}", flush=True)
    return 1 if failed else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks", description="What the runner costs, beside its peer and the floor."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(ORDER)}; default: all")
    parser.add_argument("--quick", action="store_true", help="the smallest size that still measures something")
    parser.add_argument("--record", action="store_true", help=f"keep the results in {records.PAGE.name}")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=NUMBER", help="another size, of one benchmark"
    )
    chosen = parser.parse_args(arguments)
    unknown = set(chosen.names) - set(ORDER)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; there are {', '.join(ORDER)}")
    if chosen.set and len(chosen.names) != 1:
        parser.error("--set needs exactly one benchmark's name")
    return chosen


def _one(name: str, chosen: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that homes are cleaned up
    benchmark = load(name)
    numbers = benchmark.QUICK if chosen.quick else benchmark.FULL
    numbers = numbers | {key: int(value) for key, _, value in (pair.partition("=") for pair in chosen.set)}
    print(f"\n## {name}: {_summary(benchmark)}\n", flush=True)
    start = time.monotonic()
    results = benchmark.measure(**numbers)
    for result in results:
        print(f"\n{table(result)}", flush=True)
    load_now = os.getloadavg()[0]
    print(f"\n{machine()}, load {load_now:.1f}, {time.monotonic() - start:.0f} s", flush=True)
    if chosen.record:
        records.keep(name, _summary(benchmark), numbers, results)
        plots.draw(results)
    return 1 if any(result.wrong for result in results) else 0


def _summary(benchmark: Benchmark) -> str:
    return (benchmark.__doc__ or "").strip().split("\n\n")[0]


def _succeeds(arguments: list[str]) -> bool:
    process = subprocess.Popen([sys.executable, "-m", "benchmarks", *arguments])
    try:
        return process.wait(TIMEOUT_S) == 0
    except subprocess.TimeoutExpired:
        print(f"{arguments[0]}: not done within {TIMEOUT_S} s", flush=True)
        return False
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to clean up, and see that it is gone. Does nothing to one that has ended."""
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
