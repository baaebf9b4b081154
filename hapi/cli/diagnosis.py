"""The facts behind `hapi doctor`, gathered into one document (docs/cli.md). Looks only; changes nothing."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import Any

import msgspec

from hapi import __version__, files, procs, remains, wire
from hapi.cli import auth, hubcheck
from hapi.config import Config
from hapi.control import Control, command_line, lock_holder
from hapi.errors import HapiError, NotRunning
from hapi.ids import SESSION_MARK, ProcessId
from hapi.paths import Paths, all_namespaces
from hapi.store import session_directories

LIBRARIES = (
    "pyzmq",
    "msgspec",
    "psutil",
    "python-socketio",
    "aiohttp",
    "typer",
    "setproctitle",
)
Findings = list[dict[str, str]]


def examine(config: Config) -> dict[str, Any]:
    """Everything about one namespace. `findings` holds the problems, each with the command that mends it.

    Takes as long as a control request and a question to the hub may take. Raises nothing that a broken
    installation could cause.
    """
    findings: Findings = []
    return {
        "versions": versions(findings),
        "configuration": configuration(config),
        "runner": runner(config, findings),
        "service": service(config, findings),
        "processes": processes(config, findings),
        "hub": hub(config, findings),
        "agents": agents(config, findings),
        "logs": logs(config),
        "findings": findings,
    }


def versions(findings: Findings) -> dict[str, str | None]:
    """Ours, Python's, and those of the libraries; None for one that is not installed."""
    from importlib import metadata

    found: dict[str, str | None] = {"hapi": __version__, "python": sys.version.split()[0]}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
            _find(findings, "error", f"The library {name} is not installed.", "pip install hapi-runner")
    try:
        import zmq
    except ImportError:
        found["libzmq"] = None
    else:
        found["libzmq"] = zmq.zmq_version()
    return found


def configuration(config: Config) -> dict[str, dict[str, str]]:
    """Each setting, as text, with where it came from. The token appears as its fingerprint only."""
    shown = {
        "home": str(config.home),
        "namespace": config.namespace,
        "api_url": config.api_url,
        "token": f"set, fingerprint {auth.fingerprint(config.token)}" if config.token else "none",
        "hostname": config.hostname,
        "heartbeat_interval_ms": str(config.heartbeat_interval_ms),
        "control_timeout_ms": str(config.control_timeout_ms),
        "ready_timeout_ms": str(config.ready_timeout_ms),
        "extra_headers": ", ".join(sorted(config.extra_headers)) or "none",
        "supervised": str(config.supervised).lower(),
        "handoff_disabled": str(config.handoff_disabled).lower(),
        "handoff_window_ms": str(config.handoff_window_ms),
        "create_directories": str(config.create_directories).lower(),
        "agents": ", ".join(sorted(config.agents)) or "none",
    }
    return {name: {"value": value, "source": config.sources.get(name, "default")} for name, value in shown.items()}


def runner(config: Config, findings: Findings) -> dict[str, Any]:
    """Lock, sockets, state file, and whether somebody answers."""
    state, status = _ask(config, findings)
    for warning in status.warnings if status else []:
        _find(findings, "warning", warning, "")
    for name, worker in (status.workers if status else {}).items():
        if worker.failed:
            _find(
                findings, "error", f"The worker {name} fails: {worker.failed}", f"hapi runner logs --worker {name} -f"
            )
    if status and status.version != __version__:
        said = f"The runner has version {status.version}, installed is {__version__}."
        _find(findings, "warning", said, "hapi runner restart")
    paths = config.paths
    endpoints = (paths.control_endpoint, paths.bus_endpoint)
    return {
        "state": state,
        "pid": status.pid if status else None,
        "lock": _lock(config),
        "stateFile": _state_file(config, findings),
        "sockets": [_socket(Path(endpoint.removeprefix("ipc://")), findings) for endpoint in endpoints],
    }


def service(config: Config, findings: Findings) -> dict[str, Any]:
    """The unit that `hapi runner install` wrote, and whether the program it starts is still there."""
    import shutil

    from hapi import managers, service

    try:
        manager = managers.manager_for(config.namespace)
        text = service.read(manager.path)
    except HapiError as error:
        return {"manager": None, "installed": False, "say": error.message}
    found = {"manager": manager.name, "unit": manager.unit, "path": str(manager.path), "installed": text is not None}
    if text is None:
        return found | {"program": None, "say": "not installed"}
    program = next(iter(manager.command(text)), None)
    if program is None or shutil.which(program) is None:
        said = f"{manager.path} starts {program or 'nothing'}, which cannot be run."
        _find(findings, "error", said, "hapi runner install --now")
        return found | {"program": program, "say": f"{program or 'its program'} cannot be run"}
    return found | {"program": program, "say": f"starts {program}"}


def processes(config: Config, findings: Findings) -> list[dict[str, Any]]:
    """This home's processes: those that the runner and the records name, and those that carry our mark."""
    found: dict[int, str] = {}
    for name in all_namespaces(config.home):
        paths = Paths(config.home, name)
        holder = lock_holder(paths)
        if holder:
            for who in [holder, *procs.descendants(holder.pid)]:
                found.setdefault(who.pid, "runner")
        for directory in session_directories(paths.sessions):
            try:
                info = directory.read_state()
            except HapiError as error:
                if directory.state.exists():
                    _find(findings, "warning", error.message, "hapi runner restart")
                continue
            for process in filter(None, (info.supervisor, info.agent_process)):
                if procs.is_alive(process):
                    found.setdefault(process.pid, "session")
    for who in marked(config.home):
        found.setdefault(who.pid, "session")
    return [
        {"pid": pid, "kind": kind, "title": command_line(pid)[:200], "memoryBytes": procs.memory_bytes(pid)}
        for pid, kind in sorted(found.items())
    ]


def marked(home: Path) -> list[ProcessId]:
    """This user's processes that carry the mark or the stamp of a session of this home."""
    import psutil

    names = {
        entry.path.name for name in all_namespaces(home) for entry in session_directories(Paths(home, name).sessions)
    }
    stamps = {remains.stamp(name) for name in names}
    found = []
    for process in psutil.process_iter(["environ"]):
        environ = process.info["environ"] or {}
        if environ.get(SESSION_MARK) in names or remains.stamped(process.pid) in stamps:
            who = procs.identity(process.pid)
            if who is not None:
                found.append(who)
    return found


def hub(config: Config, findings: Findings) -> dict[str, Any]:
    """What the hub says to our token."""
    verdict = hubcheck.check(config.api_url, config.token, config.extra_headers)
    if config.token is None:
        _find(findings, "warning", "No hub token is set; sessions are local.", "hapi auth login")
        detail = "no token is set" if verdict.state == "refused" else verdict.detail
        return {"url": config.api_url, "state": "no_token", "detail": detail}
    if verdict.state == "refused":
        _find(findings, "error", f"{config.api_url}: {verdict.detail}.", "hapi auth login")
    elif verdict.state != "accepted":
        fix = "hapi hub" if hubcheck.is_loopback(config.api_url) else "hapi auth login --url URL"
        _find(findings, "warning", f"{config.api_url}: {verdict.detail}.", fix)
    return {"url": config.api_url, "state": verdict.state, "detail": verdict.detail}


def agents(config: Config, findings: Findings) -> list[dict[str, str | None]]:
    """Every agent that can be asked for, and the program that would be run."""
    from hapi.agents.table import find, names, resolve

    found: list[dict[str, str | None]] = []
    for name in names(config):
        try:
            argv = resolve(find(name, config), None)
        except HapiError as error:
            found.append({"name": name, "path": None, "problem": error.message, "hint": error.hint})
            if name in config.agents:
                _find(findings, "warning", error.message, error.hint)
        else:
            found.append({"name": name, "path": argv[0]})
    return found


def logs(config: Config) -> list[dict[str, Any]]:
    """The runner's log files with their sizes."""
    try:
        entries = sorted(entry for entry in config.paths.logs.iterdir() if entry.is_file())
    except OSError:
        return []
    return [{"path": str(entry), "bytes": entry.stat().st_size} for entry in entries]


def _find(findings: Findings, severity: str, message: str, fix: str) -> None:
    findings.append({"severity": severity, "message": message, "fix": fix})


def _ask(config: Config, findings: Findings) -> tuple[str, wire.Status | None]:
    try:
        status = Control(config).ask(wire.GetStatus(), wire.Status)
    except NotRunning as error:
        _find(findings, "warning", error.message, "hapi runner start")
        return f"not running: {error.message}", None
    except HapiError as error:
        _find(findings, "error", error.message, "hapi runner restart")
        return f"not answering: {error.message}", None
    return f"running (pid {status.pid}, version {status.version})", status


def _lock(config: Config) -> dict[str, Any]:
    path = config.paths.lock
    try:
        held = files.is_locked(path)
    except OSError as error:
        return {"path": str(path), "held": None, "say": f"cannot be read: {error.strerror}"}
    holder = lock_holder(config.paths) if held else None
    by = f" by pid {holder.pid}" if holder else ""
    return {"path": str(path), "held": held, "say": f"held{by}" if held else "free"}


def _state_file(config: Config, findings: Findings) -> dict[str, Any]:
    path = config.paths.state
    try:
        value = msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        return {"path": str(path), "say": "missing"}
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        _find(findings, "error", f"{path} is damaged: {error}", "hapi runner restart")
        return {"path": str(path), "say": "damaged"}
    said = value.get("status") if isinstance(value, dict) else None
    return {"path": str(path), "say": f"readable, says {said}" if said else "readable"}


def _socket(path: Path, findings: Findings) -> dict[str, Any]:
    try:
        directory, socket = path.parent.stat(), path.stat()
    except OSError:
        return {"path": str(path), "exists": False, "say": "missing"}
    mode = stat.S_IMODE(directory.st_mode)
    if mode & 0o077 or directory.st_uid != os.getuid():
        _find(findings, "error", f"{path.parent} is open to other users.", f"chmod 700 {path.parent}")
    kind = "socket" if stat.S_ISSOCK(socket.st_mode) else "not a socket"
    return {"path": str(path), "exists": True, "say": f"{kind}, directory mode {mode:04o}"}
