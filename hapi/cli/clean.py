"""`hapi doctor clean`: end every session and every runner of this home. Only processes of proven identity are hit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hapi import config as configuration
from hapi import control, procs, remains, wire
from hapi.cli.diagnosis import marked
from hapi.clock import monotonic, now_ms
from hapi.config import Config
from hapi.control import Control, Waiting, command_line
from hapi.errors import HapiError, NotRunning
from hapi.ids import DEFAULT_NAMESPACE, ProcessId
from hapi.kin import holds, is_ours
from hapi.lifecycle import EndReason, Phase
from hapi.paths import all_namespaces
from hapi.store import SessionDirectory, session_directories

STOP_TIMEOUT_S = 30.0
LADDER_S = 12.0  # more than a supervisor needs to end its agent
PATIENCE_S = 2.0
LEFT_BEHIND_S = 5.0


class Target(msgspec.Struct, kw_only=True):
    """Something to end: a session, a runner, or a process that only carries our mark."""

    config: Config
    namespace: str
    kind: str
    name: str
    processes: list[ProcessId]
    detail: str = ""

    @property
    def pid(self) -> int | None:
        """The process that stands for it."""
        return self.processes[0].pid if self.processes else None

    def describe(self) -> str:
        """The target in a line."""
        return f"{self.kind} {self.name}"


class Result(msgspec.Struct, kw_only=True):
    """What became of a target."""

    target: Target
    outcome: str
    gone: bool = True

    def to_json(self) -> dict[str, object]:
        """The result as JSON."""
        target = self.target
        return {
            "namespace": target.namespace,
            "kind": target.kind,
            "name": target.name,
            "pid": target.pid,
            "outcome": self.outcome,
            "gone": self.gone,
        }


def plan(namespace: str | None = None) -> list[Target]:
    """What runs below this HAPI_HOME, or in one namespace of it: sessions first, runners last."""
    home = configuration.home_directory()
    sessions: list[Target] = []
    runners: list[Target] = []
    for name in [namespace] if namespace else all_namespaces(home):
        config = _config(home, name)
        sessions += _sessions(config)
        runners += _runner(config)
    known = {process.pid for target in [*sessions, *runners] for process in target.processes}
    strays = [] if namespace else list(_strays(_config(home, DEFAULT_NAMESPACE), known))
    return [*sessions, *strays, *runners]


def _config(home: Path, name: str) -> Config:
    """A namespace's configuration; damaged settings are no reason to leave its processes running."""
    try:
        return configuration.load(name)
    except HapiError:
        return configuration.bare(home, name)


def carry_out(target: Target, waiting: Waiting | None = None) -> Result:
    """End one target; never raises HapiError. A session is ended by its broker if that answers."""
    try:
        if target.kind == "runner":
            stopped = control.stop(target.config, waiting)
            return Result(target=target, outcome="stopped" if stopped.running else "already gone")
        if target.kind == "session":
            return _stop_session(target, waiting)
        return _by_signal(target)
    except HapiError as error:
        return Result(target=target, outcome=error.message, gone=False)


def _stop_session(target: Target, waiting: Waiting | None) -> Result:
    try:
        order = wire.StopSession(target.name)
        reply = Control(target.config, waiting).ask(order, wire.SessionStopped, STOP_TIMEOUT_S)
    except NotRunning:
        return _end_session(target)
    except HapiError as error:
        result = _end_session(target)
        result.outcome = f"{result.outcome} (the runner said: {error.message})"
        return result
    rung = f" ({reply.rung})" if reply.rung else ""
    return Result(target=target, outcome=reply.status + rung, gone=reply.status != "still_alive")


def _end_session(target: Target) -> Result:
    """End a session without its runner: the supervisor first, in its own way, then what it leaves; close its record."""
    directory = SessionDirectory(target.config.paths.session(target.name))
    result = _by_signal(target)
    _, left = remains.end(target.name, None, target.config.home, LEFT_BEHIND_S)
    if left:
        return Result(target=target, outcome=f"still_alive: {[process.pid for process in left]}", gone=False)
    if result.gone:
        try:
            info = directory.read_state()
            closed = {"phase": Phase.ENDED, "reason": EndReason.STOPPED_BY_USER, "ended_at": info.ended_at or now_ms()}
            directory.write_state(msgspec.structs.replace(info, **closed))
        except (HapiError, OSError) as error:
            result.outcome = f"{result.outcome} (its record was not closed: {error})"
    return result


def _by_signal(target: Target) -> Result:
    """SIGTERM, then SIGKILL, to the proven processes and all below them, each checked again first.

    A session's supervisor goes first and has the time that its stop ladder may take.
    """
    home = target.config.home
    everyone = list(dict.fromkeys(_with_descendants(target.processes, home)))
    if target.kind == "session":
        used = _signal_all(everyone[:1], LADDER_S) + _signal_all(everyone[1:], PATIENCE_S)
    else:
        used = _signal_all(everyone, PATIENCE_S)
    survivors = [process.pid for process in everyone if procs.is_alive(process)]
    if survivors:
        return Result(target=target, outcome=f"still_alive: {survivors}", gone=False)
    return Result(target=target, outcome=f"stopped ({' and '.join(dict.fromkeys(used))})" if used else "already_gone")


def _signal_all(processes: list[ProcessId], patience_s: float) -> list[str]:
    """End processes side by side; the names of the signals that it took."""
    used = []
    for number, wait_s in ((signal.SIGTERM, patience_s), (signal.SIGKILL, PATIENCE_S)):
        left = [process for process in processes if procs.send_signal(process, number)]
        deadline = monotonic() + wait_s
        used += [number.name] if left else []
        for process in left:
            procs.wait_gone(process, deadline - monotonic())
    return used


def _with_descendants(processes: list[ProcessId], home: Path) -> Iterator[ProcessId]:
    """The processes and all below them, but for other runners and sessions: those are targets of their own."""
    for process in processes:
        yield process
        if procs.is_alive(process):
            yield from procs.descendants(process.pid, lambda pid: is_ours(pid, home))


def _sessions(config: Config) -> Iterator[Target]:
    """The live sessions of a namespace, by the records that their supervisors keep."""
    for directory in session_directories(config.paths.sessions):
        try:
            info = directory.read_state()
        except HapiError:
            continue  # a record that cannot be read names no process; `doctor` tells of it
        alive = list(_proven(directory, info))
        if alive and info.phase is not Phase.ENDED:
            yield Target(
                config=config,
                namespace=config.namespace,
                kind="session",
                name=info.session_id,
                processes=alive,
                detail=f"{info.agent} {info.phase.value} {info.directory}",
            )


def _proven(directory: SessionDirectory, info: wire.SessionInfo) -> Iterator[ProcessId]:
    """The recorded processes that live and prove to be the session's: a record may be wrong, or somebody's copy."""
    supervisor, agent = info.supervisor, info.agent_process
    if supervisor is not None and procs.is_alive(supervisor) and holds(directory.lock, supervisor.pid):
        yield supervisor
    if agent is not None and procs.is_alive(agent) and remains.belongs(agent.pid, info.session_id):
        yield agent


def _runner(config: Config) -> Iterator[Target]:
    holder = control.lock_holder(config.paths)
    if holder:
        yield Target(
            config=config,
            namespace=config.namespace,
            kind="runner",
            name=config.namespace,
            processes=[holder],
            detail=command_line(holder.pid),
        )


def _strays(config: Config, known: set[int]) -> Iterator[Target]:
    """Processes with our home's mark in their environment that belong to no session or runner that we know."""
    below = {process.pid for pid in known for process in procs.descendants(pid)}
    spared = known | below | _ourselves()
    for process in marked(config.home):
        if process.pid not in spared:
            title = command_line(process.pid)
            yield Target(
                config=config,
                namespace="-",
                kind="process",
                name=str(process.pid),
                processes=[process],
                detail=title[:80],
            )


def _ourselves() -> set[int]:
    """This process and those above it: whoever cleans from within a session must live to see the end."""
    import psutil

    me = psutil.Process()
    return {me.pid, *(parent.pid for parent in me.parents())}
