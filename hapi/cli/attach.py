"""Attaching to a session's terminal. Needs no runner: the session's own supervisor serves it."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Callable
from pathlib import Path
from signal import Signals

from hapi import procs
from hapi.cli import output
from hapi.clock import monotonic, now_ms
from hapi.config import Config
from hapi.errors import EXIT_OK, EXIT_USER, ErrorCode, HapiError
from hapi.ids import SESSION_MARK
from hapi.lifecycle import EndReason, Phase
from hapi.store import SessionDirectory, StateUnreadable, session_directories
from hapi.terminal.client import Connection, connect
from hapi.terminal.detach import detach_key
from hapi.terminal.protocol import Attach, Ended
from hapi.terminal.tty import OwnTerminal, is_there, window_size
from hapi.terminal.window import Look, Outcome, Window
from hapi.wire import SessionInfo

APPEAR_S = 5.0  # a session that lives opens its socket within that, also while it starts
_POLL_S = 0.05
_DYING_S = 1.0  # a process that is killed lets go of its sockets before it is gone
_SHORT = 8
_SHORTEST_PREFIX = 4


class Options:
    """How to look, as the command line has it."""

    def __init__(self, *, read_only: bool = False, quiet: bool = False) -> None:
        self.read_only = read_only
        self.quiet = quiet


def run(config: Config, target: str | None, options: Options) -> int:
    """Attach to the session that `target` means, or that the person chooses; the exit status."""
    need_terminal("Others can look with: hapi logs ID; and speak with: hapi send ID TEXT")
    info = find(config, target) if target else choose(config)
    return show(config, info, options) if info else EXIT_USER


def need_terminal(instead: str) -> None:
    """Raises HapiError(usage) with a hint unless a person sits at standard input and output."""
    if not is_there():
        raise HapiError(ErrorCode.USAGE, "This needs a terminal, as standard input and output.", instead)


def own_size() -> tuple[int, int]:
    """Columns and rows of the terminal here, for a program that is to run in one like it."""
    return window_size(0)


# ----------------------------------------------------------------------------------------------- which session


def find(config: Config, target: str) -> SessionInfo:
    """The session meant by an id, a unique prefix of one (4 characters at least), or PID-n, as its record has it.

    Live sessions win over ended ones. Raises HapiError: unknown_session, ambiguous_session.
    """
    matches = [info for info in _records(config, target) if _is(info, target.lower())]
    found = [info for info in matches if info.phase is not Phase.ENDED] or matches
    if not found:
        message = f"No session {target!r}."
        raise HapiError(
            ErrorCode.UNKNOWN_SESSION,
            message,
            "hapi runner list --ended shows them all. At least 4 characters of an id are needed.",
        )
    if len(found) > 1:
        some = ", ".join(info.session_id[:13] for info in found[:5])
        raise HapiError(ErrorCode.AMBIGUOUS_SESSION, f"{target!r} fits {len(found)} sessions: {some}")
    return found[0]


def with_terminals(config: Config) -> list[SessionInfo]:
    """The live sessions whose program runs in a terminal, the newest first."""
    return [info for info in live(config) if info.driver == "pty"]


def live(config: Config) -> list[SessionInfo]:
    """The sessions that live, as their records have them, the newest first. Asks no runner."""
    found = [info for info in _records(config) if info.phase is not Phase.ENDED]
    found = [info for info in found if info.supervisor is not None and procs.is_alive(info.supervisor)]
    return sorted(found, key=lambda info: info.started_at, reverse=True)


def choose(config: Config) -> SessionInfo | None:
    """The only live session with a terminal, or the one that the person picks; None if they do not.

    Raises HapiError(unknown_session) when there is none.
    """
    found = with_terminals(config)
    if not found:
        hint = "Start one: hapi AGENT, or hapi run -- COMMAND. A chat comes into a terminal with: hapi resume ID"
        raise HapiError(ErrorCode.UNKNOWN_SESSION, "No session has a terminal.", hint)
    return pick_one("Which session?", found, _row)


def pick_one(title: str, found: list[SessionInfo], row: Callable[[SessionInfo, int], str]) -> SessionInfo | None:
    """The only session, or the one that the person picks; None if they do not. `row` gets the width of agents' names."""
    if len(found) == 1:
        return found[0]
    from hapi.cli.picker import pick

    width = max(len(info.agent) for info in found)
    chosen = pick(title, [row(info, width) for info in found])
    return None if chosen is None else found[chosen]


def _records(config: Config, target: str = "") -> list[SessionInfo]:
    """The records that can be read; only those that fit, if `target` can be the beginning of an id."""
    prefix = "" if target.lower().startswith("pid-") else target.lower()
    found = []
    for directory in session_directories(config.paths.sessions):
        if directory.path.name.startswith(prefix):
            try:
                found.append(directory.read_state())
            except StateUnreadable:
                continue
    return found


def _is(info: SessionInfo, target: str) -> bool:
    if target.startswith("pid-"):
        return target[4:] in {str(who.pid) for who in (info.supervisor, info.agent_process) if who is not None}
    return len(target) >= _SHORTEST_PREFIX and info.session_id.startswith(target)


def _row(info: SessionInfo, width: int) -> str:
    age = output.duration(now_ms() - info.started_at)
    return (
        f"{info.session_id[:_SHORT]}  {output.clean(info.agent).ljust(width)}  {info.phase.value.ljust(8)} "
        f"{age.rjust(8)}  {output.home_short(info.directory)}"
    )


# ----------------------------------------------------------------------------------------------- looking


def show(config: Config, info: SessionInfo, options: Options | None = None) -> int:
    """Show the terminal of the session's program until the person detaches or it ends; the exit status for that.

    Says on stderr how it ended. Raises HapiError when there is nothing to attach to, or the connection is lost.
    """
    options = options or Options()
    key = detach_key(config.detach_key)
    if os.environ.get(SESSION_MARK) == info.session_id:
        hint = "It would show itself in itself. Attach from another terminal."
        raise HapiError(ErrorCode.USAGE, "This terminal is that session's own.", hint)
    _check(info)
    greeting = f"{output.clean(info.agent)} · session {info.session_id[:_SHORT]}"
    greeting += f" · {key.text} detaches" if key.text else ""
    greeting += " · read-only" if options.read_only else ""
    look = Look(key=key, greeting=greeting, read_only=options.read_only, quiet=options.quiet)
    cols, rows = own_size()
    wish = Attach(cols=cols, rows=rows, read_only=options.read_only)
    with _connected(config.paths.terminal_socket(info.session_id), wish, config, info) as connection:
        terminal = OwnTerminal()
        try:
            outcome = Window(connection, terminal, look).run()
        finally:
            terminal.close()
    return _told(config, info, outcome)


def _connected(path: Path, wish: Attach, config: Config, info: SessionInfo) -> Connection:
    """The connection; one that cannot be had yet is waited for as long as the session lives, APPEAR_S at most."""
    started = monotonic()
    with output.Progress("Waiting for the session …") as progress:
        while True:
            try:
                return connect(path, wish)
            except HapiError as error:
                passed, now = monotonic() - started, _again(config, info)
                if (error.code is not ErrorCode.SESSION_ENDED and now.phase is not Phase.STARTING) or passed > APPEAR_S:
                    raise
            _check(now)
            progress(passed)
            select.select([], [], [], _POLL_S)  # a socket appears: there is nothing to wait for it with


def _check(info: SessionInfo) -> None:
    """Raises HapiError for a session that has no terminal to attach to."""
    name = info.session_id[:_SHORT]
    if info.phase is Phase.ENDED:
        hint = f"What it showed last: hapi logs {name}. To go on with it: hapi resume {name}"
        raise HapiError(ErrorCode.SESSION_ENDED, f"Session {name} has ended: {output.clean(info.reason or '?')}.", hint)
    if info.driver != "pty":
        hint = f"Take it into this terminal: hapi resume {name}. Speak to it: hapi send {name} TEXT"
        raise HapiError(ErrorCode.BAD_REQUEST, f"Session {name} is a chat: its agent has no terminal.", hint)
    if info.supervisor is None or not procs.is_alive(info.supervisor):
        hint = "The runner finds out what became of it: hapi runner start"
        raise HapiError(ErrorCode.SESSION_ENDED, f"The supervisor of session {name} is not running.", hint)


def _again(config: Config, info: SessionInfo) -> SessionInfo:
    """The session's record as it is by now."""
    try:
        return SessionDirectory(config.paths.session(info.session_id)).read_state()
    except StateUnreadable:
        return info


# ----------------------------------------------------------------------------------------------- how it ended


def _told(config: Config, info: SessionInfo, outcome: Outcome) -> int:
    """Say how it ended, and the exit status that tells scripts."""
    name = info.session_id[:_SHORT]
    match outcome.kind:
        case "detached":
            output.note(f"Detached. The session goes on: hapi attach {name}")
            return EXIT_OK
        case "signal":
            return 128 + outcome.signal
        case "hung_up":
            return 128 + Signals.SIGHUP
        case "lost":
            raise _lost(_again(config, info), outcome.error)
    assert outcome.ended is not None  # noqa: S101 - the one kind left
    output.note(f"Session {name} has ended: {_words(outcome.ended)}")
    return end_status(outcome.ended)


def afterwards(config: Config, info: SessionInfo, error: HapiError) -> int:
    """For a session that ended before anybody could attach: print what its terminal showed; its exit status.

    Raises `error` if it has not ended.
    """
    now = _again(config, info)
    if now.phase is not Phase.ENDED:
        raise error
    with contextlib.suppress(OSError):
        text = SessionDirectory(config.paths.session(info.session_id)).scrollback.read_text(errors="replace")
        output.say("\n".join(map(output.clean, text.splitlines())))
    ended = Ended(code=now.exit_code, signal=now.exit_signal, reason=now.reason or "")
    output.note(f"Session {info.session_id[:_SHORT]} has ended: {_words(ended)}")
    return end_status(ended)


def end_status(ended: Ended) -> int:
    """The exit status that stands for a program's end: its own, or 128 and the signal's number; 0 if handed over."""
    if ended.reason == EndReason.HANDED_OVER:
        return EXIT_OK  # the session goes on, only its program was ended for it
    if ended.signal is not None:
        return 128 + ended.signal
    if ended.code is not None:
        return ended.code
    return EXIT_OK if ended.reason == EndReason.COMPLETED else EXIT_USER


def _words(ended: Ended) -> str:
    reason = output.clean(ended.reason)
    if reason == EndReason.HANDED_OVER:
        return "handed over, it goes on elsewhere"
    if ended.signal is not None:
        how = procs.signal_name(ended.signal)
    else:
        how = "" if ended.code is None else f"exit code {ended.code}"
    if not reason or how in reason:
        return reason or how or "it does not say why"
    return f"{reason} ({how})" if how else reason


def _lost(now: SessionInfo, error: HapiError | None) -> HapiError:
    """What to say when the connection broke."""
    name = now.session_id[:_SHORT]
    if error is not None and error.code is not ErrorCode.CONNECTION_LOST:
        return error
    if now.phase is Phase.ENDED or now.supervisor is None or procs.wait_gone(now.supervisor, _DYING_S):
        message = f"Session {name} is gone: its supervisor ended without a word."
        return HapiError(ErrorCode.CONNECTION_LOST, message, "What the runner knows of it: hapi runner list --ended")
    message = error.message if error is not None else "The connection to the session was lost."
    return HapiError(ErrorCode.CONNECTION_LOST, message, f"The session goes on: hapi attach {name}")
