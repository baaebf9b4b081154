"""One request of a command to a runner that is there and not outdated: started or replaced first where needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from hapi import __version__, lastreport, wire
from hapi.cli import output
from hapi.config import Config
from hapi.control import Control, Waiting
from hapi.errors import ErrorCode, HapiError

if TYPE_CHECKING:
    from hapi.launch import Started

_REPEATABLE = (wire.Spawn, wire.StopSession, wire.ListSessions)  # twice is as good as once, for any supervisor
_READY_MARGIN_S = 10.0  # so that the broker is the one to say that an agent, or its turn, is late
_Reply = TypeVar("_Reply", bound=wire.ControlReply)


def carry_out(
    config: Config,
    body: wire.ControlRequest,
    kind: type[_Reply],
    waiting: Waiting,
    timeout_s: float | None = None,
) -> _Reply:
    """The runner's reply, of that kind. A runner that is replaced meanwhile is asked again, once, where that is safe.

    The runner's report tells whether it can be asked straight away; a report that is wrong costs nothing but the
    chance to replace it. Raises HapiError as `launch.ensure_running` and `Control.ask` do.
    """
    if not lastreport.is_current(config):
        have_runner(config, waiting)
    control = Control(config, waiting)
    try:
        return control.ask(body, kind, timeout_s)
    except HapiError as error:
        leaving = error.code in {ErrorCode.SHUTTING_DOWN, ErrorCode.NOT_RUNNING}
        if not (leaving and isinstance(body, _REPEATABLE)):
            raise
    have_runner(config, waiting)
    return control.ask(body, kind, timeout_s)


def spawned(config: Config, order: wire.Spawn, progress: output.Progress) -> wire.Spawned:
    """`carry_out` a spawn, with patience for its turn to come and for the agent to get ready."""
    patience_ms = wire.MAX_LINE_MS + config.ready_timeout_ms
    return carry_out(config, order, wire.Spawned, progress, patience_ms / 1000 + _READY_MARGIN_S)


def have_runner(config: Config, waiting: Waiting) -> Started:
    """A runner that answers; says on stderr when one of another version was replaced for it."""
    from hapi import launch  # late: nearly always the runner is there

    started = launch.ensure_running(config, waiting)
    if started.replaced:
        output.note(f"Replaced the runner of version {started.replaced} by {__version__}; its sessions live on.")
    return started
