"""`hapi runner stop-session --all`: every session of a namespace, many at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from hapi import wire
from hapi.cli import output
from hapi.cli.request import carry_out
from hapi.cli.scope import load
from hapi.cli.sessions import STOP_TIMEOUT_S
from hapi.clock import monotonic
from hapi.config import Config
from hapi.control import Control, Waiting
from hapi.errors import EXIT_OK, EXIT_USER, ErrorCode, HapiError, NotRunning
from hapi.lifecycle import Phase

AT_ONCE = 32  # keeps every core busy, and each stop far within its deadline
_ROUNDS = 3
# the runner went, perhaps with the question unread: the next one is asked
_ASK_AGAIN = frozenset({ErrorCode.NOT_RUNNING, ErrorCode.SHUTTING_DOWN, ErrorCode.TIMEOUT})


class Tally(msgspec.Struct):
    """What became of every session that was there."""

    stopped: int = 0
    already_gone: int = 0
    still_alive: list[wire.SessionStopped] = []
    failed: list[tuple[str, HapiError]] = []

    @property
    def settled(self) -> int:
        return self.stopped + self.already_gone + len(self.still_alive) + len(self.failed)

    def add(self, session_id: str, answer: wire.ControlReply | HapiError) -> None:
        """Count the answer to one stop."""
        match answer:
            case wire.SessionStopped(status="stopped"):
                self.stopped += 1
            case wire.SessionStopped(status="already_gone"):
                self.already_gone += 1
            case wire.SessionStopped():
                self.still_alive.append(answer)
            case HapiError():
                self.failed.append((session_id, answer))
            case _:
                strange = HapiError(ErrorCode.PROTOCOL_MISMATCH, f"The runner sent {type(answer).__name__}.")
                self.failed.append((session_id, strange))

    def to_json(self, seconds: float) -> dict[str, Any]:
        """The tally as JSON."""
        return {
            "stopped": self.stopped,
            "alreadyGone": self.already_gone,
            "stillAlive": [
                {"sessionId": one.session_id, "rung": one.rung, "survivors": one.survivors} for one in self.still_alive
            ],
            "failed": [
                {"sessionId": session_id, "code": error.code.value, "message": error.message}
                for session_id, error in self.failed
            ],
            "seconds": round(seconds, 3),
        }


def run(*, as_json: bool) -> int:
    """End all sessions and print how that went; the exit status, 1 when something is left.

    Raises HapiError as `carry_out` when the sessions cannot be listed.
    """
    began = monotonic()
    with output.Progress("Stopping the sessions …") as progress:
        tally = stop_everything(load(), progress)
    if as_json:
        output.say_json(tally.to_json(monotonic() - began))
    else:
        _print(tally, monotonic() - began)
    return EXIT_USER if tally.still_alive or tally.failed else EXIT_OK


def stop_everything(config: Config, progress: output.Progress) -> Tally:
    """Stop what is there, and what came meanwhile; each session is asked for once, unless the runner goes."""
    tally, began = Tally(), monotonic()
    asked: set[str] = set()
    for left_rounds in reversed(range(_ROUNDS)):
        listed = carry_out(config, wire.ListSessions(), wire.SessionList, progress).sessions
        left = [info.session_id for info in listed if info.phase is not Phase.ENDED and info.session_id not in asked]
        if not left:
            break
        total = tally.settled + len(left)
        stops = [wire.StopSession(session_id) for session_id in left]
        for index, answer in _each(config, stops, lambda _: progress(monotonic() - began)):
            if left_rounds and isinstance(answer, HapiError) and answer.code in _ASK_AGAIN:
                continue
            asked.add(left[index])
            tally.add(left[index], answer)
            progress.now(f"Stopping the sessions: {tally.settled} of {total},")
    return tally


def _each(
    config: Config, stops: list[wire.StopSession], waiting: Waiting
) -> Iterator[tuple[int, wire.ControlReply | HapiError]]:
    """`Control.each`, also when the runner went before the first: then that is the answer to them all."""
    answered: set[int] = set()
    try:
        for index, answer in Control(config, waiting).each(stops, AT_ONCE, STOP_TIMEOUT_S):
            answered.add(index)
            yield index, answer
    except NotRunning as error:
        yield from ((index, error) for index in range(len(stops)) if index not in answered)


def _print(tally: Tally, seconds: float) -> None:
    if not tally.settled:
        output.say("No active sessions")
        return
    gone = tally.stopped + tally.already_gone
    output.say(f"Stopped {output.plural(gone, 'session')} in {seconds:.1f} s.")
    for one in tally.still_alive:
        output.note(f"{one.session_id}: still alive: {', '.join(map(str, one.survivors)) or 'not known which'}")
    for session_id, error in tally.failed:
        output.note(f"{session_id}: {error.words}")
