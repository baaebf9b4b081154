"""Handing a session over for the command line: stop it where it is, start it where it is wanted, attach."""

from __future__ import annotations

import os

import msgspec

from hapi import files, handover, wire
from hapi.cli import attach, output
from hapi.cli.request import carry_out, spawned
from hapi.cli.sessions import STOP_TIMEOUT_S
from hapi.cli.spawn import environment
from hapi.clock import now_ms
from hapi.config import Config
from hapi.errors import EXIT_USER, ErrorCode, HapiError
from hapi.ids import SESSION_MARK
from hapi.lifecycle import Phase

_MOST = 50
_SHORT = 8


def here(config: Config, target: str | None, *, cut: bool) -> int:
    """Take the session into this terminal and attach; the exit status. Raises HapiError as `handover.steps`."""
    attach.need_terminal("In a script: hapi resume ID --chat, then hapi send ID TEXT")
    info = _meant(config, target)
    return EXIT_USER if info is None else attach.show(config, handed_over(config, info, "pty", cut=cut))


def to_chat(config: Config, target: str | None, *, cut: bool) -> wire.SessionInfo:
    """Give the session to the chat. Raises HapiError as `handover.steps`."""
    if target is None:
        raise HapiError(ErrorCode.USAGE, "Which session?", "hapi resume ID --chat; all of them: hapi runner list")
    info = _meant(config, target)
    assert info is not None  # noqa: S101 - nobody was asked to choose
    return handed_over(config, info, "acp", cut=cut)


def handed_over(config: Config, info: wire.SessionInfo, driver: wire.Driver, *, cut: bool) -> wire.SessionInfo:
    """The session as it goes on with that driver. What cannot be done is refused before anything is stopped.

    Where its agent does not start there, it is started again as it was, and the error says that.
    """
    own = environment()
    steps = handover.steps(info, driver, config, own, cut=cut)
    if steps.spawn is None:
        return info
    if os.environ.get(SESSION_MARK) == info.session_id:
        hint = "Do it from another terminal, or in the web."
        raise HapiError(ErrorCode.USAGE, "This terminal is that session's own, and ends with it.", hint)
    with output.Progress("Handing the session over …") as progress:
        if steps.stop is not None:
            stopped = carry_out(config, steps.stop, wire.SessionStopped, progress, STOP_TIMEOUT_S)
            if stopped.status == "still_alive":
                raise HapiError(ErrorCode.STILL_ALIVE, f"Session {info.session_id} does not end.", "hapi doctor")
        try:
            return _spawned(config, steps.spawn, progress)
        except HapiError as error:
            if steps.stop is not None:
                error.hint = f"{error.hint}\n{_put_back(config, info, progress)}".strip()
            raise


def candidates(found: list[wire.SessionInfo], directory: str, config: Config) -> list[wire.SessionInfo]:
    """Those of the sessions in `directory` that can come into a terminal, the newest first, at most _MOST."""
    near = [info for info in found if info.directory == directory and _can_come(info, config)]
    return sorted(near, key=lambda info: info.ended_at or now_ms(), reverse=True)[:_MOST]


def _can_come(info: wire.SessionInfo, config: Config) -> bool:
    if info.phase is not Phase.ENDED and info.driver == "pty":
        return True
    return handover.can_come(info, config)


def _meant(config: Config, target: str | None) -> wire.SessionInfo | None:
    """The session that the person names or picks; the runner has judged the records before they are read."""
    with output.Progress("Looking …") as progress:
        found = carry_out(config, wire.ListSessions(ended=True), wire.SessionList, progress).sessions
    if target is not None:
        meant = attach.find(config, target)  # its record may be some seconds behind in whether it is at work
        return next((info for info in found if info.session_id == meant.session_id), meant)
    near = candidates(found, os.getcwd(), config)
    if not near:
        hint = "Elsewhere: hapi resume ID. A new one: hapi AGENT"
        raise HapiError(ErrorCode.UNKNOWN_SESSION, "No session of this directory can go on here.", hint)
    return attach.pick_one("Go on with which session?", near, _row)


def _row(info: wire.SessionInfo, width: int) -> str:
    age = output.duration(now_ms() - (info.ended_at or info.started_at))
    what = output.clean(info.title or info.last_words or "")
    state = "ended" if info.phase is Phase.ENDED else info.phase.value
    return (
        f"{info.session_id[:_SHORT]}  {output.clean(info.agent).ljust(width)}  {state.ljust(8)} {age.rjust(8)}  {what}"
    )


def _spawned(config: Config, order: wire.Spawn, progress: output.Progress) -> wire.SessionInfo:
    cols, rows = attach.own_size() if order.driver == "pty" else (order.cols, order.rows)
    whole = msgspec.structs.replace(order, env=environment(), umask=files.own_umask(), cols=cols, rows=rows)
    return spawned(config, whole, progress).info


def _put_back(config: Config, info: wire.SessionInfo, progress: output.Progress) -> str:
    """Start it again as it was; what became of that, in words."""
    try:
        _spawned(config, handover.back(info), progress)
    except HapiError as error:
        return f"It could not be put back either: {error.words}"
    return "It goes on as it was."
