"""`hapi doctor clean`: end every session and every runner of this home. Only processes of proven identity are hit."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from hapi import config as configuration
from hapi import control, procs, wire
from hapi.cli.diagnosis import marked
from hapi.config import Config
from hapi.control import Control, Waiting, command_line
from hapi.errors import HapiError, NotRunning
from hapi.ids import ProcessId
from hapi.lifecycle import Phase
from hapi.paths import all_namespaces
from hapi.store import session_directories

STOP_TIMEOUT_S = 30.0


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
        config = configuration.load(name)
        sessions += _sessions(config)
        runners += _runner(config)
    known = {process.pid for target in [*sessions, *runners] for process in target.processes}
    strays = [] if namespace else list(_strays(configuration.load(), known))
    return [*sessions, *strays, *runners]


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
        return _by_signal(target)
    except HapiError as error:
        result = _by_signal(target)
        result.outcome = f"{result.outcome} (the runner said: {error.message})"
        return result
    rung = f" ({reply.rung})" if reply.rung else ""
    return Result(target=target, outcome=reply.status + rung, gone=reply.status != "still_alive")


def _by_signal(target: Target) -> Result:
    """SIGTERM, then SIGKILL, to the recorded processes and all below them, each checked again first.

    The supervisor goes first, so that it can end its agent in its own way.
    """
    everyone = list(dict.fromkeys(_with_descendants(target.processes)))
    used = {control.force(process) for process in everyone if procs.is_alive(process)}
    survivors = [process.pid for process in everyone if procs.is_alive(process)]
    if survivors:
        return Result(target=target, outcome=f"still_alive: {survivors}", gone=False)
    return Result(target=target, outcome=f"stopped ({' and '.join(sorted(used))})" if used else "already_gone")


def _with_descendants(processes: list[ProcessId]) -> Iterator[ProcessId]:
    for process in processes:
        yield process
        if procs.is_alive(process):
            yield from procs.descendants(process.pid)


def _sessions(config: Config) -> Iterator[Target]:
    """The live sessions of a namespace, by the records that their supervisors keep."""
    for directory in session_directories(config.paths.sessions):
        try:
            info = directory.read_state()
        except HapiError:
            continue  # a record that cannot be read names no process; `doctor` tells of it
        processes = [process for process in (info.supervisor, info.agent_process) if process]
        alive = [process for process in processes if procs.is_alive(process)]
        if alive and info.phase is not Phase.ENDED:
            yield Target(
                config=config,
                namespace=config.namespace,
                kind="session",
                name=info.session_id,
                processes=alive,
                detail=f"{info.agent} {info.phase.value} {info.directory}",
            )


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
