"""Versioned writes: the hub takes one only if we know the newest version, and others write too (§5.3 of its page)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from hapi.workers.hub import incoming
from hapi.workers.hub.backoff import Backoff
from hapi.workers.hub.door import Door
from hapi.workers.hub.problems import Denied, HubProblem, NotFound, Rejected
from hapi.workers.hub.schema import Call, MachineUpdateState, UpdateState
from hapi.workers.hub.timing import pause

TRIES = 20
CALL_TIMEOUT_S = 10.0

JsonObject = dict[str, Any]


class Cell:
    """The hub's copy of one value, as far as we know it. Not for two writers at once."""

    def __init__(self, version: int, value: JsonObject | None) -> None:
        self.version = version
        self.value: JsonObject = value or {}

    async def write(
        self, door: Door, change: Callable[[JsonObject], JsonObject], call: Callable[[int, JsonObject], Call]
    ) -> bool:
        """Make the hub's value equal `change(that value)`; False when it is so already.

        On a mismatch `change` is applied to the newest value, so what others wrote stays. Raises HubProblem: NotFound,
        Denied, Offline, or that the hub did not take it.
        """
        backoff = Backoff(0.05, 1.0)
        for _ in range(TRIES):
            wanted = change(self.value)
            if wanted == self.value:
                return False
            message = call(self.version, wanted)
            answer = _read(await door.call(message, CALL_TIMEOUT_S))
            if answer.result == "success":
                self.version, self.value = answer.version, wanted
                return True
            if answer.result != "version-mismatch":
                raise _problem(answer)
            self.version, self.value = answer.version, _value(answer, message) or {}
            await pause(backoff.next_s())
        raise HubProblem("The hub's value changes faster than we can write it.")


def _read(raw: Any) -> incoming.VersionedAck:
    try:
        return incoming.read(raw, incoming.VersionedAck)
    except msgspec.ValidationError as error:
        raise HubProblem(f"The hub's acknowledgement makes no sense to us: {error}") from None


def _value(answer: incoming.VersionedAck, message: Call) -> JsonObject | None:
    if isinstance(message, UpdateState):
        return answer.agent_state
    return answer.runner_state if isinstance(message, MachineUpdateState) else answer.metadata


def _problem(answer: incoming.VersionedAck) -> HubProblem:
    if answer.reason == "not-found":
        return NotFound("The hub no longer knows it.")
    if answer.reason == "access-denied":
        return Denied("It belongs to another namespace of the hub.")
    return Rejected("The hub calls our message malformed.")
