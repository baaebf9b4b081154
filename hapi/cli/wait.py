"""`hapi wait`: until a session has nothing left to do, or has ended. And the waiting itself, for other commands."""

from __future__ import annotations

import math
import select
from enum import StrEnum
from typing import Annotated

import msgspec
import typer

from hapi import wire
from hapi.cli import output
from hapi.cli.common import Json, examples
from hapi.cli.request import carry_out, have_runner
from hapi.cli.scope import load
from hapi.cli.session_commands import SessionTarget
from hapi.cli.sessions import end_words, to_json
from hapi.clock import monotonic
from hapi.config import Config
from hapi.control import Control, Waiting
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import Phase

EXIT_TIMEOUT = 124  # as timeout(1) has it
RETURN_S = 20.0  # how long a runner may be away, while it is restarted or replaced
_SLICE_S = 20.0  # of one request
_AGAIN_S = 1.0  # of the first one to a runner that comes back: it may be lost with the one that goes
_TICK_S = 0.1
_PASSING = frozenset({ErrorCode.SHUTTING_DOWN, ErrorCode.NOT_RUNNING})


class Goal(StrEnum):
    """What is waited for."""

    IDLE = "idle"
    ENDED = "ended"


Timeout = Annotated[float | None, typer.Option(metavar="S", min=0, help="Give up after S seconds: exit status 124.")]


def register(app: typer.Typer) -> None:
    """Add `hapi wait`."""
    app.command(
        "wait",
        epilog=examples(
            "hapi send 1f0c 'Run the tests.' && hapi wait 1f0c",
            "hapi wait 1f0c --for ended --timeout 600",
        ),
    )(wait)


def wait(
    target: SessionTarget,
    goal: Annotated[Goal, typer.Option("--for", help="Nothing left to do (or ended); or ended.")] = Goal.IDLE,
    timeout: Timeout = None,
    as_json: Json = False,  # noqa: FBT002
) -> None:
    """Wait until a session has nothing left to do, or has ended. The runner may be restarted meanwhile."""
    with output.Progress("Waiting for the session …") as progress:
        waited = wait_for(load(), target, goal.value, timeout, progress)
    if as_json:
        output.say_json(to_json(waited.info) | {"reached": waited.reached})
    else:
        output.say(_words(waited.info))
    if not waited.reached:
        if not as_json:
            output.note(f"Not {goal.value} within {timeout:g} s.")
        raise typer.Exit(EXIT_TIMEOUT)


def wait_for(
    config: Config, target: str, goal: str, patience_s: float | None, progress: output.Progress
) -> wire.Waited:
    """How the session is when it is what is waited for, or when the time is up; without `patience_s` it never is.

    A runner that crashes meanwhile is started again, as every command does; one that is stopped is not, and has
    RETURN_S to come back. Raises HapiError: shutting_down if it does not, else what `carry_out` raises.
    """
    started = monotonic()
    deadline = math.inf if patience_s is None else started + patience_s
    seeker = _Seeker(config, lambda _: progress(monotonic() - started))
    while True:
        left = max(0.0, deadline - monotonic())
        waited = seeker.ask(wire.WaitSession(target, "ended" if goal == Goal.ENDED else "idle"), left)
        if waited is not None:
            if waited.reached or monotonic() >= deadline:
                return waited
            target = waited.info.session_id  # a prefix may come to mean another one


class _Seeker:
    """Asks the runner, and the next one when that goes."""

    def __init__(self, config: Config, waiting: Waiting) -> None:
        self._config = config
        self._waiting = waiting
        self._asked = False
        self._stopped = False
        self._away_until = math.inf

    def ask(self, body: wire.WaitSession, left_s: float) -> wire.Waited | None:
        """The answer within `left_s` or so; None when the runner went, and there is, or may soon be, another."""
        patience_s = min(left_s, _SLICE_S if self._away_until == math.inf else _AGAIN_S)
        body = msgspec.structs.replace(body, timeout_ms=round(patience_s * 1000))
        try:
            waited = self._request(body)
        except HapiError as error:
            self._survive(error, left_s)
            return None
        self._stopped, self._away_until = False, math.inf
        return waited

    def _request(self, body: wire.WaitSession) -> wire.Waited:
        budget = (body.timeout_ms + self._config.control_timeout_ms) / 1000
        try:
            if self._asked:
                return Control(self._config, self._waiting).ask(body, wire.Waited, budget)
            waited = carry_out(self._config, body, wire.Waited, self._waiting, budget)
        except HapiError as error:
            if error.code is not ErrorCode.BAD_REQUEST:
                raise
            message = "The runner is of an older version, which cannot wait for sessions."
            raise HapiError(ErrorCode.PROTOCOL_MISMATCH, message, "hapi runner restart") from None
        finally:
            self._asked = True
        return waited

    def _survive(self, error: HapiError, left_s: float) -> None:
        """Start a runner that crashed; wait a moment for one that was stopped. Raises what cannot be mended so."""
        now = monotonic()
        self._away_until = min(self._away_until, now + RETURN_S)
        self._stopped = self._stopped or error.code is ErrorCode.SHUTTING_DOWN
        if error.code not in _PASSING or left_s <= 0 or now >= self._away_until:
            raise error
        if self._stopped:
            self._waiting(0)
            select.select([], [], [], _TICK_S)  # a lock that is taken cannot be waited for
        else:
            have_runner(self._config, self._waiting)


def _words(info: wire.SessionInfo) -> str:
    if info.phase is Phase.ENDED:
        return f"{output.paint_phase('ended')} ({end_words(info)})"
    queued = f" ({output.plural(info.queued, 'message')} queued)" if info.queued else ""
    return f"{output.paint_phase(info.phase.value)}{queued}"
