"""Starting and stopping the runner process. What holds the lock is running; what answers is well."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from typing import NoReturn

import msgspec

from hapi import __version__, files, lastreport, procs, wire
from hapi.breaker import Breaker, Handoff
from hapi.clock import monotonic, now_ms
from hapi.command import command as broker_command
from hapi.config import Config
from hapi.control import Control, Stopped, Waiting, lock_holder, stop
from hapi.detached import environment, run_broker
from hapi.errors import ErrorCode, HapiError, NotRunning
from hapi.handoff import SOURCE, Build, Cause, Choice, Ours, choose, restart_source
from hapi.installed import PACKAGE, Installed
from hapi.paths import Paths

START_TIMEOUT_S = 5.0
MANAGER_TIMEOUT_S = 30.0  # for a service manager to start again what ended to be replaced
_POLL_S = 0.05
COMEBACK_S = 15.0  # longer than the pause of a service manager before it starts a unit again


class Started(msgspec.Struct, kw_only=True):
    """A runner that answers. `already`: it ran before; `replaced`: the version that was stopped for it.

    `kept`: why a runner of other code was left as it is.
    """

    pid: int
    endpoint: str
    log: str
    version: str
    already: bool = False
    replaced: str | None = None
    kept: str | None = None


def start(config: Config, roots: Sequence[str] = (), waiting: Waiting | None = None) -> Started:
    """Have a runner of this version: start one, or find it running, or replace one of another version.

    A replaced runner hands down its workspace roots unless `roots` are given; one that a service manager owns is
    ended so that the manager starts it again. Returns when the control socket answers, within START_TIMEOUT_S of
    starting it, MANAGER_TIMEOUT_S for a service manager. Raises HapiError: start_failed with the reason (what runs
    is left alone when this version cannot start), timeout when the runner that holds the lock does not answer or
    does not come back, already_running when the service manager starts another version.
    """
    status = _find(config, waiting)
    return _launch(config, roots) if status is None else _renew(config, status, "start", roots, waiting)


def ensure_running(config: Config, waiting: Waiting | None = None) -> Started:
    """`start`, for commands that need a runner: only an older one is replaced, once in a while (`breaker`).

    A runner that must be started gets the workspace roots that the last one wrote down: a crash widens nothing.
    """
    status = _find(config, waiting)
    if status is None:
        return _launch(config, recorded_roots(config.paths))
    return _renew(config, status, "command", (), waiting)


def restart(config: Config, roots: Sequence[str] = (), waiting: Waiting | None = None) -> tuple[Stopped, Started]:
    """Stop the runner, if one runs, and start it with the same workspace roots unless `roots` are given.

    No breaker and no switch forbids that. Raises as `start` and `stop` do, and HapiError(already_running) when a service manager owns it.
    """
    try:
        status = _find(config, waiting)
    except HapiError as error:
        if error.code not in {ErrorCode.TIMEOUT, ErrorCode.PROTOCOL_MISMATCH}:
            raise
        status = None
    _refuse_supervised(config, status)
    kept = list(roots) or (status.workspace_roots if status else recorded_roots(config.paths))
    stopped = stop(config, waiting)
    return stopped, _launch(config, kept)


def run_in_foreground(config: Config, roots: Sequence[str] = (), ready_fd: int | None = None) -> NoReturn:
    """Become the runner: this process is replaced, its stdio kept. A runner of another version is stopped first.

    `ready_fd` gets one JSON line when it answers or cannot start (docs/protocol.md). Raises HapiError(already_running)
    when one of this version runs, or another one that must not be replaced.
    """
    status = probe(config)
    kept = list(roots)
    if status is not None:
        choice, ours = _choice(config, status, "start")
        why = choice.why
        if choice.action != "use":
            _refuse_supervised(config, status)
            why = _unfit(config, status, "start", ours) or _claim(config, status, "start", ours) or ""
        if choice.action == "use" or why:
            which = f"pid {status.pid}" if not why else f"pid {status.pid}, version {status.version}; {why}"
            hint = "Stop it first: hapi runner stop"
            raise HapiError(ErrorCode.ALREADY_RUNNING, f"The runner is running already ({which}).", hint)
        stop(config, source=SOURCE)
        kept = kept or status.workspace_roots
    sys.stdout.flush()
    os.execve(sys.executable, command(config, kept, ready_fd), environment())  # noqa: S606 - the runner is what we become


def command(config: Config, roots: Sequence[str], ready_fd: int | None = None) -> list[str]:
    """The command line of a runner process."""
    return broker_command(config.namespace, roots, ready_fd=ready_fd)


def probe(config: Config, waiting: Waiting | None = None) -> wire.Status | None:
    """The status of the runner, None when none runs. One that is just starting or stopping is waited for.

    Raises HapiError(timeout) when the lock is held and nobody answers, within the control timeout.
    """
    patience = min(START_TIMEOUT_S, config.control_timeout_ms / 1000)
    deadline = monotonic() + START_TIMEOUT_S
    while True:
        try:
            status = Control(config, waiting).ask(wire.GetStatus(), wire.Status, patience)
            if not status.stopping or monotonic() >= deadline:
                return status
        except NotRunning as error:
            if not files.is_locked(config.paths.lock):
                return None
            if monotonic() >= deadline:
                raise HapiError(ErrorCode.TIMEOUT, error.message, "See what holds it: hapi doctor") from None
        select.select([], [], [], _POLL_S)  # the socket appears or the lock goes: neither can be waited for


def _found(status: wire.Status, kept: str = "") -> Started:
    return Started(
        pid=status.pid,
        endpoint=status.endpoint,
        log=status.log_path,
        version=status.version,
        already=True,
        kept=kept or None,
    )


def _choice(config: Config, status: wire.Status, by: Cause) -> tuple[Choice, Build]:
    """What to do about the runner that answered, and the code that would take over."""
    same = status.version == __version__ and by != "start"  # then its content is the heartbeat's business
    build = Build(__version__, "") if same else msgspec.structs.replace(Installed().look(), version=__version__)
    return choose(status, Ours(build, PACKAGE, config.handoff_disabled), by), build


def _renew(config: Config, status: wire.Status, by: Cause, roots: Sequence[str], waiting: Waiting | None) -> Started:
    """Use the runner that answered, or put this code in its place."""
    choice, ours = _choice(config, status, by)
    if choice.action == "use":
        return _found(status, choice.why)
    unfit = _unfit(config, status, by, ours)
    if unfit is not None:
        return _found(status, unfit)
    now = probe(config, waiting)
    if now is None:
        return _launch(config, roots or status.workspace_roots)
    choice, ours = _choice(config, now, by)  # the heartbeat, or another command, may have been quicker
    refusal = choice.why if choice.action == "use" else _claim(config, now, by, ours)
    if choice.action == "use" or refusal is not None:
        return _found(now, refusal or "")
    if choice.action == "restart":
        return _restarted_by_manager(config, now, by, waiting)
    stop(config, waiting, SOURCE)
    started = _launch(config, roots or now.workspace_roots)
    started.replaced = now.version
    return started


def _unfit(config: Config, status: wire.Status, by: Cause, ours: Build) -> str | None:
    """Why this code cannot take over now: the breaker has tripped, or it does not start. None: it can.

    Raises HapiError(start_failed) for code that does not start when a person wants it.
    """
    from hapi.preflight import Preflight

    refusal = Breaker(config.paths.handoffs, config.handoff_window_ms).refusal(by, now_ms())
    if refusal is not None:
        return refusal
    words = broker_command(config.namespace, status.workspace_roots, check=True)
    preflight = Preflight(words, ours, environment(), cwd="/")
    preflight.wait()
    trouble = preflight.trouble()
    if trouble is not None and by == "start":
        message = f"Version {ours.version} cannot replace the runner of version {status.version}: {trouble}."
        raise HapiError(ErrorCode.START_FAILED, message, "The one that runs was left alone.")
    return trouble


def _claim(config: Config, status: wire.Status, by: Cause, ours: Build) -> str | None:
    """Count the handoff that is about to happen; why it must not, or None."""
    handoff = Handoff(at=now_ms(), by=by, old=status.version, new=ours.version)
    return Breaker(config.paths.handoffs, config.handoff_window_ms).claim(handoff, by)


def _restarted_by_manager(config: Config, status: wire.Status, by: Cause, waiting: Waiting | None) -> Started:
    """Have the service manager start its runner again, and wait until that answers, MANAGER_TIMEOUT_S at most."""
    who = procs.identity(status.pid)
    Control(config, waiting).ask(wire.StopRunner(restart_source(status)), wire.RunnerStopping)
    started = monotonic()
    back = None
    while back is None and (passed := monotonic() - started) < MANAGER_TIMEOUT_S:
        if waiting:
            waiting(passed)
        if who is None or procs.wait_gone(who, _POLL_S):
            back = probe(config, waiting)
            select.select([], [], [], _POLL_S)  # it is another program's to start
    if back is None:
        message = f"The service manager has not started the runner again within {MANAGER_TIMEOUT_S:g} s."
        raise HapiError(ErrorCode.TIMEOUT, message, "See why: systemctl --user status hapi-runner")
    if back.version != __version__ and by == "start":
        message = f"The service manager started version {back.version} again, not {__version__}."
        hint = f"Its unit runs another installation ({back.install or 'unknown'}): let it run this one."
        raise HapiError(ErrorCode.ALREADY_RUNNING, message, hint)
    answer = _found(back)
    answer.already, answer.replaced = False, status.version
    return answer


def _refuse_supervised(config: Config, status: wire.Status | None) -> None:
    """Raise HapiError(already_running) for a runner that a service manager owns; None stands for a silent one."""
    last = lastreport.read(config.paths)
    if status is None:
        holder = lock_holder(config.paths)
        supervised, pid = last.supervised and holder is not None and holder.pid == last.pid, last.pid
    else:
        supervised, pid = status.supervised, status.pid
    if supervised:
        from hapi.unitfile import restart_command

        hint = f"Restart it there, for example: {restart_command(config.namespace, sys.platform)}"
        raise HapiError(ErrorCode.ALREADY_RUNNING, f"A service manager owns the runner (pid {pid}).", hint)


def _find(config: Config, waiting: Waiting | None) -> wire.Status | None:
    """`probe`, with patience for the runner that a service manager is about to start again after a failure.

    A detached one in its place would keep the service from ever starting. COMEBACK_S at most.
    """
    started = monotonic()
    while (status := probe(config, waiting)) is None and comes_back(config.paths):
        passed = monotonic() - started
        if passed >= COMEBACK_S:
            break
        if waiting:
            waiting(passed)
        select.select([], [], [], _POLL_S)  # nobody tells us
    return status


def _launch(config: Config, roots: Sequence[str]) -> Started:
    """Start a runner; when another start wins the race, the winner's."""
    config.paths.make_private()
    deadline = monotonic() + START_TIMEOUT_S
    while True:
        log = config.paths.log("runner")
        report = run_broker(lambda fd: command(config, roots, fd), log, deadline - monotonic())
        if report.error is None:
            return Started(pid=report.pid, endpoint=report.endpoint, log=report.log, version=__version__)
        problem = wire.Failure(report.error.code, report.error.message, report.error.hint).error()
        if problem.code is not ErrorCode.ALREADY_RUNNING or monotonic() >= deadline:
            raise problem
        winner = probe(config)
        if winner is not None:
            return _found(winner)


def recorded_roots(paths: Paths) -> list[str]:
    """The workspace roots that the last runner wrote down, for when it cannot be asked."""
    return lastreport.read(paths).workspace_roots


def comes_back(paths: Paths) -> bool:
    """Whether the runner that ran last did so under a service manager, and was not stopped in good order."""
    last = lastreport.read(paths)
    return last.supervised and last.status != "stopped"
