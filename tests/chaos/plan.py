"""The seed's part: which step comes when, with dice of its own. What a step hits depends on who is there by then."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

WARM_UP_S = 3.0
ACTION_EVERY_S = 0.45
FAULT_EVERY_S = 2.6

ACTIONS = {
    "spawn by control": 10,
    "spawn twice": 4,
    "spawn by command": 3,
    "spawn by hub": 9,
    "message by hub": 42,
    "message by command": 8,
    "answer permissions": 10,
    "abort": 3,
    "crash the agent": 2,
    "stop by command": 5,
    "archive by hub": 6,
    "runner restart": 2,
    "runner stop": 2,
    "look around": 3,
}
FAULTS = {
    "kill broker": 10,
    "kill hub": 10,
    "kill reaper": 7,
    "kill nursery": 7,
    "kill session": 10,
    "kill agent": 7,
    "kill all workers": 4,
    "kill all but agents": 2,
    "freeze broker": 6,
    "freeze hub": 6,
    "freeze reaper": 4,
    "freeze nursery": 4,
    "freeze session": 6,
    "freeze agent": 4,
    "hub killed": 8,
    "hub stopped": 5,
    "ambush message by hub": 16,
    "ambush spawn by control": 6,
    "ambush spawn by hub": 5,
    "ambush stop by command": 6,
    "ambush archive by hub": 5,
}


@dataclass(frozen=True)
class Step:
    """At `at_s` seconds do `kind`; `dice` are numbers in [0, 1) for its choices."""

    at_s: float
    kind: str
    is_fault: bool
    dice: tuple[float, ...]


def plan(seed: int, seconds: float) -> Iterator[Step]:
    """All steps in order of time. The same seed gives the same steps."""
    rng = random.Random(seed)
    next_action, next_fault = 0.0, WARM_UP_S
    while min(next_action, next_fault) < seconds:
        is_fault = next_fault < next_action
        at_s = next_fault if is_fault else next_action
        kinds = FAULTS if is_fault else ACTIONS
        kind = rng.choices(list(kinds), list(kinds.values()))[0]
        if at_s < WARM_UP_S / 2:
            kind = "spawn by control"
        yield Step(at_s, kind, is_fault, tuple(rng.random() for _ in range(6)))
        pause = rng.expovariate(1.0)
        if is_fault:
            next_fault += FAULT_EVERY_S * (0.3 + 0.7 * pause)
        else:
            next_action += ACTION_EVERY_S * (0.3 + 0.7 * pause)
