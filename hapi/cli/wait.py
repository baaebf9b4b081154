"""`hapi wait`: until a session has nothing left to do, or has ended. And the waiting itself, for other commands."""

from __future__ import annotations

import math
import select
from enum import StrEnum
from typing import Annotated

import typer

from hapi import wire
from hapi.cli import output
from hapi.cli.common import Json, examples, load
from hapi.cli.request import carry_out, have_runner
from hapi.cli.sessions import SessionTarget, end_words, to_json
from hapi.clock import monotonic
from hapi.config import Config
from hapi.control import Waiting, has_socket
from hapi.errors import ErrorCode, HapiError, NotRunning
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
    away_until, slice_s = math.inf, _SLICE_S

    def waiting(_: float) -> None:
        progress(monotonic() - started)

    while True:
        left = max(0.0, deadline - monotonic())
        body = wire.WaitSession(target, "ended" if goal == Goal.ENDED else "idle", round(min(left, slice_s) * 1000))
        try:
            waited = _ask(config, body, waiting)
        except HapiError as error:
            away_until = min(away_until, monotonic() + RETURN_S)
            if error.code not in _PASSING or monotonic() >= min(deadline, away_until):
                raise
            _await_runner(config, error, min(deadline, away_until), waiting)
            slice_s = _AGAIN_S
            continue
        away_until, slice_s = math.inf, _SLICE_S
        if waited.reached or monotonic() >= deadline:
            return waited
        target = waited.info.session_id  # a prefix may come to mean another one


def _ask(config: Config, body: wire.WaitSession, waiting: Waiting) -> wire.Waited:
    budget = (body.timeout_ms + config.control_timeout_ms) / 1000
    try:
        return carry_out(config, body, wire.Waited, waiting, budget)
    except HapiError as error:
        if error.code is not ErrorCode.BAD_REQUEST:
            raise
        message = "The runner is of an older version, which cannot wait for sessions."
        raise HapiError(ErrorCode.PROTOCOL_MISMATCH, message, "hapi runner restart") from None


def _await_runner(config: Config, error: HapiError, deadline: float, waiting: Waiting) -> None:
    """Return when there is a runner again. Raises `error` when the time is up."""
    if error.code is ErrorCode.NOT_RUNNING:  # it crashed
        have_runner(config, waiting)
        return
    while monotonic() < deadline:
        try:
            if has_socket(config.paths):
                return
        except NotRunning:
            pass  # a stop and a start are two commands
        waiting(0)
        select.select([], [], [], _TICK_S)  # a lock that is taken cannot be waited for
    raise error


def _words(info: wire.SessionInfo) -> str:
    if info.phase is Phase.ENDED:
        return f"{output.paint_phase('ended')} ({end_words(info)})"
    queued = f" ({output.plural(info.queued, 'message')} queued)" if info.queued else ""
    return f"{output.paint_phase(info.phase.value)}{queued}"
