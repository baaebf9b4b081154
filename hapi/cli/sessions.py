"""`hapi runner list | stop-session`: what they do. Declared in `session_commands`; needs no command line parser."""

from __future__ import annotations

from typing import Any

from hapi import procs, wire
from hapi.cli import output
from hapi.cli.request import carry_out
from hapi.cli.scope import load, load_all
from hapi.clock import iso, now_ms
from hapi.config import Config
from hapi.control import has_socket
from hapi.errors import EXIT_OK, EXIT_USER, HapiError, NotRunning
from hapi.lifecycle import Phase

STOP_TIMEOUT_S = 30.0


def show_list(*, every: bool, ended: bool, as_json: bool) -> None:
    """Print the sessions. Raises NotRunning without a runner, HapiError as `carry_out`."""
    found = _of_all_namespaces(ended=ended) if every else _sessions(load(), ended=ended)
    if as_json:
        output.say_json([to_json(info) for info in found])
    elif found:
        _print(found, with_namespace=every)
    else:
        output.say("No active sessions" if not ended else "No sessions")


def stop_session(target: str, *, as_json: bool) -> int:
    """End a session and print how that went; the exit status. Raises HapiError as `carry_out`."""
    config = load()
    with output.Progress("Stopping the session …") as progress:
        reply = carry_out(config, wire.StopSession(target), wire.SessionStopped, progress, STOP_TIMEOUT_S)
    if as_json:
        answer = {"status": reply.status, "rung": reply.rung, "sessionId": reply.session_id}
        output.say_json(answer | ({"survivors": reply.survivors} if reply.survivors else {}))
    else:
        output.say(reply.status + (f" ({reply.rung})" if reply.rung else ""))
    if reply.status != "still_alive":
        return EXIT_OK
    if not as_json and reply.survivors:
        output.note(f"Still alive: {', '.join(map(str, reply.survivors))}")
    return EXIT_USER


def to_json(info: wire.SessionInfo) -> dict[str, Any]:
    """A session as JSON; the memory is measured now."""
    answer: dict[str, Any] = {
        "sessionId": info.session_id,
        "agent": info.agent,
        "directory": info.directory,
        "phase": info.phase.value,
        "pid": info.supervisor.pid if info.supervisor else None,
        "agentPid": info.agent_process.pid if info.agent_process else None,
        "startedBy": info.started_by,
        "startedAt": iso(info.started_at),
        "namespace": info.namespace,
        "memoryBytes": memory(info),
        "unknownMessages": info.unknown_messages,
        "eventsLost": info.events_lost,
        "driver": info.driver,
        "title": info.title,
        "queued": info.queued,
        "lastWords": info.last_words,
    }
    if info.phase is Phase.ENDED:
        answer |= {
            "reason": info.reason,
            "exitCode": info.exit_code,
            "exitSignal": info.exit_signal,
            "endedAt": None if info.ended_at is None else iso(info.ended_at),
            "detail": info.detail,
        }
    return answer


def memory(info: wire.SessionInfo) -> int:
    """Bytes held by a session's processes. 0 when they are gone."""
    return sum(map(procs.memory_bytes, processes(info)))


def processes(info: wire.SessionInfo) -> set[int]:
    """The pids of a session: its supervisor's, its agent's, and of everything below them."""
    pids: set[int] = set()
    for process in (info.supervisor, info.agent_process):
        if process is not None and info.phase is not Phase.ENDED and procs.is_alive(process):
            pids |= {process.pid} | {below.pid for below in procs.descendants(process.pid)}
    return pids


def _sessions(config: Config, *, ended: bool) -> list[wire.SessionInfo]:
    """The sessions of one runner. Starts none, but replaces an older one as every session command does."""
    with output.Progress("Waiting for the runner …") as progress:
        has_socket(config.paths)  # raises NotRunning: this command starts no runner
        return carry_out(config, wire.ListSessions(ended=ended), wire.SessionList, progress).sessions


def _of_all_namespaces(*, ended: bool) -> list[wire.SessionInfo]:
    """The sessions of all runners. Those in trouble are told on stderr; NotRunning when none answers."""
    found: list[wire.SessionInfo] = []
    answered = False
    for name, config in load_all():
        try:
            if isinstance(config, HapiError):
                raise config
            found += _sessions(config, ended=ended)
            answered = True
        except NotRunning:
            continue
        except HapiError as error:
            output.note(f"{name}: {error.message}")
    if not answered:
        raise NotRunning("No runner is running, in any namespace.")
    return found


def _print(found: list[wire.SessionInfo], *, with_namespace: bool) -> None:
    headings = ["ID", "AGENT", "DIRECTORY", "PHASE", "PID", "STARTED BY", "AGE", "MEMORY"]
    rows = [_row(info) for info in found]
    if with_namespace:
        headings = ["NAMESPACE", *headings]
        rows = [[info.namespace, *row] for info, row in zip(found, rows, strict=True)]
    output.table(headings, rows)


def end_words(info: wire.SessionInfo) -> str:
    """Why the session ended, with the signal that did it."""
    if info.exit_signal is None:
        return output.clean(info.reason or "")
    return f"{output.clean(info.reason or '')} ({procs.signal_name(info.exit_signal)})"


def _row(info: wire.SessionInfo) -> list[str]:
    ended = info.phase is Phase.ENDED
    why = f" ({end_words(info)})" if ended and info.reason else ""
    return [
        info.session_id,
        output.clean(info.agent),
        output.home_short(info.directory),
        output.paint_phase(info.phase.value) + why,
        str(info.supervisor.pid) if info.supervisor and not ended else "-",
        info.started_by,
        output.duration((info.ended_at or now_ms()) - info.started_at),
        "-" if ended else output.size(memory(info)),
    ]
