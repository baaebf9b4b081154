"""`hapi runner install` and `uninstall`: this runner as a service of the user. What the file says is in `unitfile`."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from hapi import control, detached, files, launch, wire
from hapi.clock import monotonic
from hapi.config import Config
from hapi.errors import ErrorCode, HapiError
from hapi.managers import Manager
from hapi.unitfile import Service, is_ours, roots_of

START_TIMEOUT_S = 15.0
_POLL_S = 0.05
_KNOWN_TO_THE_UNIT = frozenset({"HAPI_HOME", "HAPI_NAMESPACE", "HAPI_RUNNER_SUPERVISED"})


class Installed(msgspec.Struct, kw_only=True):
    """What `install` did. `pid`: the runner that the manager started; `replaced`: the detached one before it."""

    outcome: Literal["installed", "updated", "already_installed"]
    roots: list[str]
    pid: int | None = None
    replaced: int | None = None
    notes: list[str] = []


class Uninstalled(msgspec.Struct, kw_only=True):
    """What `uninstall` did. `stopped`: the runner that ran under the manager."""

    removed: bool
    stopped: int | None = None
    notes: list[str] = []


def install(config: Config, manager: Manager, roots: Sequence[str] = (), *, force: bool = False) -> Installed:
    """Write the unit file; start nothing. The same content again changes nothing.

    Without `roots` those of the runner that runs, of the installed file, or of the last runner are kept: an install
    widens nothing. Raises HapiError: not_ours for a file that we did not write, unless `force`; bad_configuration.
    """
    kept = list(roots) or known_roots(config, manager)
    text = manager.render(facts(config, kept))
    return Installed(outcome=_write(manager.path, text, force=force), roots=kept, notes=_notes(config))


def start(config: Config, manager: Manager, installed: Installed, waiting: control.Waiting | None = None) -> None:
    """Have the manager start the unit now and at every login; a detached runner hands over, its sessions live on.

    Returns when the unit's runner answers, START_TIMEOUT_S at most. Raises HapiError: missing_tool, service_manager,
    already_running (it is another service's) before anything is stopped; later ones only after the detached runner
    has been started again.
    """
    manager.check()
    before = launch.probe(config, waiting)
    if before is not None and before.supervised and before.pid != manager.main_pid():
        raise _another(before, manager)
    detached = before if before is not None and not before.supervised else None
    if detached:
        installed.replaced = control.stop(config, waiting).pid
    try:
        manager.activate(changed=installed.outcome != "already_installed")
        installed.pid = _await_runner(config, manager)
    except HapiError:
        if detached:
            _go_back(config, manager, detached)
        raise
    installed.notes += manager.advice()


def uninstall(manager: Manager) -> Uninstalled:
    """Stop the unit, disable it and remove its file; sessions live on. Nothing installed: nothing is done.

    Where no manager can be reached the file goes all the same. Raises HapiError: not_ours, service_manager.
    """
    text = read(manager.path)
    if text is None:
        return Uninstalled(removed=False)
    if not is_ours(text):
        raise _not_ours(manager.path, "Remove it by hand.")
    done = Uninstalled(removed=True)
    try:
        manager.check()
    except HapiError as error:
        done.notes.append(f"Nothing was stopped: {error.message}")
    else:
        done.stopped = manager.main_pid()
        manager.deactivate()
    manager.path.unlink(missing_ok=True)
    manager.forget()
    return done


def facts(config: Config, roots: Sequence[str]) -> Service:
    """The service that starts what runs now: this program, home, namespace, PATH and umask."""
    environment = {"PATH": _search_path(os.environ.get("PATH", os.defpath))}
    if config.home != _service_home() / ".hapi":
        environment["HAPI_HOME"] = str(config.home)
    if python_path := detached.environment().get("PYTHONPATH"):
        environment["PYTHONPATH"] = python_path
    return Service(
        program=program(),
        namespace=config.namespace,
        roots=list(roots),
        environment=environment,
        umask=files.own_umask(),
    )


def program() -> list[str]:
    """What starts this very `hapi`: the script that was called, else the interpreter and the module."""
    script = os.path.abspath(sys.argv[0])
    if os.path.basename(script) == "hapi" and os.path.isfile(script) and os.access(script, os.X_OK):
        return [script]
    return [sys.executable, "-m", "hapi"]


def known_roots(config: Config, manager: Manager) -> list[str]:
    """The workspace roots in force: of the runner that answers, else of the installed file, else of the last runner."""
    try:
        status = launch.probe(config)
    except HapiError:  # it holds its lock in silence: what it wrote down must do
        status = None
    if status is not None:
        return status.workspace_roots
    text = read(manager.path)
    if text is not None and is_ours(text):
        return roots_of(manager.command(text))
    return launch.recorded_roots(config.paths)


def read(path: Path) -> str | None:
    """An installed file's text; None when there is none. Raises HapiError(bad_configuration) if it cannot be read."""
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HapiError(ErrorCode.BAD_CONFIGURATION, f"Cannot read {path}: {error.strerror}") from None


def _write(path: Path, text: str, *, force: bool) -> Literal["installed", "updated", "already_installed"]:
    found = read(path)
    if found == text:
        return "already_installed"
    if found is not None and not is_ours(found) and not force:
        raise _not_ours(path, "To replace it: hapi runner install --force")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_atomic(path, text.encode())
    except OSError as error:
        message = f"Cannot write {path}: {error.strerror}"
        raise HapiError(ErrorCode.BAD_CONFIGURATION, message, "Its directory must be yours.") from None
    return "installed" if found is None else "updated"


def _not_ours(path: Path, hint: str) -> HapiError:
    return HapiError(ErrorCode.NOT_OURS, f"{path} was not written by hapi runner install; it is left alone.", hint)


def _notes(config: Config) -> list[str]:
    """What this shell says and the service will not hear."""
    variables = {
        source
        for source in config.sources.values()
        if source.startswith(("HAPI_", "CLI_API_")) and source not in _KNOWN_TO_THE_UNIT
    }
    return [
        f"{variable} is set in this shell; the service does not see it. "
        + ("Save it with: hapi auth login" if variable == "CLI_API_TOKEN" else "docs/configuration.md has its key.")
        for variable in sorted(variables)
    ]


def _search_path(path: str) -> str:
    """PATH without what means something else in another directory, and without repetitions."""
    absolute = [entry for entry in path.split(os.pathsep) if os.path.isabs(entry)]
    return os.pathsep.join(dict.fromkeys(absolute)) or os.defpath


def _service_home() -> Path:
    """The home directory that a service manager gives to this user's services."""
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return Path.home()


def _await_runner(config: Config, manager: Manager) -> int:
    """The pid of the unit's runner, once it answers."""
    deadline = monotonic() + START_TIMEOUT_S
    while True:
        status = launch.probe(config)
        if status is not None and status.pid == manager.main_pid():
            return status.pid
        if monotonic() >= deadline:
            break
        select.select([], [], [], _POLL_S)  # the socket appears: that cannot be waited for
    if status is not None:
        raise _another(status, manager)
    message = f"{manager.unit} was started, but no runner answers within {START_TIMEOUT_S:g} s."
    raise HapiError(ErrorCode.START_FAILED, message, f"{manager.trouble()}; {config.paths.log('runner')}")


def _another(status: wire.Status, manager: Manager) -> HapiError:
    message = f"Another runner (pid {status.pid}) answers, not the one of {manager.unit}."
    return HapiError(ErrorCode.ALREADY_RUNNING, message, "Stop it where it is kept, then: hapi runner install --now")


def _go_back(config: Config, manager: Manager, detached: wire.Status) -> None:
    """The unit does not work: have the detached runner again, so that sessions are not left alone."""
    try:
        manager.deactivate()
    finally:
        launch.start(config, detached.workspace_roots)
