"""What a person reads: a line now and then, the table at the end, and the sentence that sums it up."""

from __future__ import annotations

import sys
from collections import Counter

from tests.chaos.asked import Asked
from tests.chaos.checker import KINDS, Problem, echoes, is_indeterminate
from tests.chaos.facts import World

MOST_SHOWN = 12


def counts(asked: Asked, world: World, problems: list[Problem]) -> dict[str, int]:
    """The rows of the table."""
    messages = [(message, world.hub.get(message.session_id)) for message in asked.messages]
    kinds = Counter(problem.kind for problem in problems)
    faults = {what.removeprefix("fault: "): n for what, n in asked.counts.items() if what.startswith("fault: ")}
    return {
        "spawns asked": len(asked.spawns),
        "sessions made": len(world.records),
        "sessions still live": sum(record.live for record in world.records.values()),
        "messages asked": len(asked.messages),
        "messages accepted": sum(message.outcome == "accepted" for message, _ in messages),
        "messages answered": sum(echoes(message, session) > 0 for message, session in messages),
        "messages of unknown fate": sum(is_indeterminate(message, session) for message, session in messages),
        "permissions answered": asked.counts["permissions answered"],
        "turns aborted": asked.counts["aborts"],
        "stops asked": len(asked.stops),
        "chat rows at the hub": sum(len(session.rows) for session in world.hub.values()),
        **{f"fault: {kind}": faults[kind] for kind in sorted(faults)},
        **{kind: kinds[kind] for kind in KINDS},
    }


def table(rows: dict[str, int]) -> str:
    """Two columns."""
    width = max(map(len, rows))
    return "\n".join(f"  {name:<{width}}  {number:>6}" for name, number in rows.items())


def sentence(seed: int, seconds: float, rows: dict[str, int], problems: list[Problem]) -> str:
    """The last line."""
    faults = sum(number for name, number in rows.items() if name.startswith("fault: "))
    bad = ", ".join(f"{rows[kind]} {kind}" for kind in KINDS)
    verdict = "chaos passed" if not problems else "chaos FAILED"
    what = f"{rows['sessions made']} sessions, {rows['messages asked']} messages, {faults} faults in {seconds:.0f} s"
    return f"{verdict}: {what}: {bad} (SEED={seed})"


def show_problems(problems: list[Problem], log: str) -> None:
    """The first contradictions, and where the whole story is."""
    for problem in problems[:MOST_SHOWN]:
        print(f"  {problem}")
    if len(problems) > MOST_SHOWN:
        print(f"  ... and {len(problems) - MOST_SHOWN} more")
    print(f"The log of every action and fault, the homes of runner and hub: {log}")


class Progress:
    """A line that replaces itself on a terminal; elsewhere a plain one."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()

    def say(self, text: str) -> None:
        """Show where we are."""
        if self._terminal:
            print(f"\r\x1b[K{text}", end="", flush=True)
        else:
            print(text, flush=True)

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            print("\r\x1b[K", end="", flush=True)
