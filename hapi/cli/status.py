"""`hapi runner status`: the broker's own account, as text and as the JSON of docs/cli.md."""

from __future__ import annotations

from typing import Any

import msgspec

from hapi import __version__, procs, wire
from hapi.cli import output
from hapi.cli.scope import load_all
from hapi.clock import iso, now_ms
from hapi.config import Config
from hapi.control import Control
from hapi.errors import EXIT_NOT_RUNNING, EXIT_OK, EXIT_USER, HapiError, NotRunning
from hapi.files import read_file


def show(config: Config, *, as_json: bool) -> int:
    """Print the status of one namespace; the exit status. Raises HapiError when the runner does not answer."""
    status, reason = ask(config)
    if as_json:
        output.say_json(to_json(status) if status else absent(config, reason))
    elif status:
        _print(status)
    else:
        _print_absent(config, reason)
    return EXIT_OK if status else EXIT_NOT_RUNNING


def show_all(*, as_json: bool) -> int:
    """Print every namespace; 0 if a runner answered, 1 if one is in trouble, 3 if none runs."""
    documents: list[dict[str, Any]] = []
    codes = []
    for name, config in load_all():
        try:
            if isinstance(config, HapiError):
                raise config
            status, reason = ask(config)
        except HapiError as error:
            documents.append({"namespace": name, "error": {"code": error.code.value, "message": error.message}})
            codes.append(EXIT_USER)
            _block(as_json, lambda name=name, error=error: output.say(f"{name}: {error.message}"))
            continue
        documents.append(to_json(status) if status else absent(config, reason))
        codes.append(EXIT_OK if status else EXIT_NOT_RUNNING)
        _block(as_json, lambda s=status, c=config, r=reason: _print(s) if s else _print_absent(c, r))
    if as_json:
        output.say_json(documents)
    return next((code for code in (EXIT_USER, EXIT_OK) if code in codes), EXIT_NOT_RUNNING)


def ask(config: Config) -> tuple[wire.Status | None, str]:
    """The runner's status, or None and why it is not running."""
    try:
        with output.Progress("Waiting for the runner …") as progress:
            status = Control(config, progress).ask(wire.GetStatus(), wire.Status)
            status.hub.url = status.hub.url or config.api_url  # the connector has yet to tell
            return status, ""
    except NotRunning as error:
        return None, error.message


def to_json(status: wire.Status) -> dict[str, Any]:
    """A running runner as JSON."""
    return {
        "running": True,
        "pid": status.pid,
        "version": status.version,
        "installedVersion": __version__,
        "namespace": status.namespace,
        "endpoint": status.endpoint,
        "startedAt": iso(status.started_at),
        "lastHeartbeat": None if status.last_heartbeat is None else iso(status.last_heartbeat),
        "logPath": status.log_path,
        "workspaceRoots": status.workspace_roots,
        "supervised": status.supervised,
        "protocol": status.protocol,
        "fingerprint": status.fingerprint,
        "handoffDisabled": status.handoff_disabled,
        "handoff": _handoff_json(status.handoff),
        "stopping": status.stopping,
        "hub": _hub_json(status.hub),
        "workers": {name: _worker_json(worker) for name, worker in sorted(status.workers.items())},
        "sessions": status.sessions,
        "verdicts": status.verdicts,
        "counters": status.counters,
        "warnings": status.warnings,
    }


def absent(config: Config, reason: str) -> dict[str, Any]:
    """A runner that is not running as JSON, with what it wrote down last."""
    return {
        "running": False,
        "reason": reason,
        "installedVersion": __version__,
        "namespace": config.namespace,
        "endpoint": config.paths.control_endpoint,
        "logPath": str(config.paths.log("runner")),
        "lastKnown": last_known(config),
    }


def last_known(config: Config) -> dict[str, Any] | None:
    """`runner.state.json`, or None when there is none that can be read. It is a report, not the truth."""
    try:
        state = msgspec.json.decode(read_file(config.paths.state))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None
    return state if isinstance(state, dict) else None


def _hub_json(hub: wire.HubStatus) -> dict[str, Any]:
    answer: dict[str, Any] = {"url": hub.url, "online": hub.online}
    if hub.reason:
        answer["reason"] = hub.reason
    if not hub.online:
        answer["refused"] = hub.refused
        answer["retryAt"] = None if hub.retry_at is None else iso(hub.retry_at)
    return answer | {"machineId": hub.machine_id, "counters": hub.counters}


def _handoff_json(handoff: wire.HandoffStatus | None) -> dict[str, Any] | None:
    """How the runner stands with what is installed where it was started from; None from one that does not tell."""
    if handoff is None:
        return None
    return {
        "installedVersion": handoff.installed_version,
        "installedFingerprint": handoff.installed_fingerprint,
        "recent": handoff.recent,
        "reason": handoff.reason,
        "againAt": None if handoff.again_at is None else iso(handoff.again_at),
    }


def _worker_json(worker: wire.WorkerStatus) -> dict[str, Any]:
    memory = procs.memory_bytes(worker.pid) if worker.pid else 0
    answer = {"pid": worker.pid or None, "restarts": worker.restarts, "memoryBytes": memory}
    return answer | ({"failed": worker.failed} if worker.failed else {})


def _block(as_json: bool, write: Any) -> None:  # noqa: FBT001
    if not as_json:
        write()
        output.say()


def _print(status: wire.Status) -> None:
    now = now_ms()
    state = "stopping" if status.stopping else "running"
    installed = "" if status.version == __version__ else f" (installed: {__version__}; hapi runner restart uses it)"
    output.facts(
        [
            ("runner", output.paint(state, "green") + (", by a service manager" if status.supervised else "")),
            ("namespace", status.namespace),
            ("pid", str(status.pid)),
            ("uptime", output.duration(now - status.started_at)),
            ("version", status.version + installed),
            ("protocol", f"{wire.PROTOCOL}, level {status.protocol}"),
            ("handoff", _handoff(status)),
            ("endpoint", status.endpoint),
            ("heartbeat", _heartbeat(status, now)),
            ("log", status.log_path),
            ("roots", ", ".join(map(output.home_short, status.workspace_roots)) or "anywhere"),
            ("hub", hub_line(status.hub, now)),
            ("sessions", _numbers(status.sessions) or "none"),
            ("verdicts", _numbers(status.verdicts)),
            ("counters", _numbers(status.counters)),
        ]
    )
    _print_workers(status)
    for warning in status.warnings:
        output.say(f"{output.paint('Warning:', 'yellow')} {output.clean(warning)}")


def _print_workers(status: wire.Status) -> None:
    output.say()
    rows = []
    for name, worker in sorted(status.workers.items()):
        memory = output.size(procs.memory_bytes(worker.pid)) if worker.pid else "-"
        trouble = output.paint(output.clean(worker.failed), "red") if worker.failed else ""
        rows.append([name, str(worker.pid) if worker.pid else "down", str(worker.restarts), memory, trouble])
    output.table(["WORKER", "PID", "RESTARTS", "MEMORY", ""], rows)


def _print_absent(config: Config, reason: str) -> None:
    output.say(f"{output.paint('not running', 'yellow')} [{config.namespace}]: {reason}")
    known = last_known(config)
    if known:
        told = [("last pid", "pid"), ("started", "startTime"), ("last heartbeat", "lastHeartbeat")]
        output.facts([(name, output.clean(str(known.get(key) or ""))) for name, key in told])
    output.facts([("log", str(config.paths.log("runner")))])
    output.note("Start it: hapi runner start")


def _heartbeat(status: wire.Status, now: int) -> str:
    if status.last_heartbeat is None:
        return "none yet"
    age = now - status.last_heartbeat if status.heartbeat_age_ms is None else status.heartbeat_age_ms
    late = age > 3 * status.heartbeat_interval_ms
    text = f"{output.duration(age)} ago ({iso(status.last_heartbeat)})"
    return output.paint(f"{text}, overdue", "red") if late else text


def _handoff(status: wire.Status) -> str:
    """Whether the runner would follow an upgrade by itself."""
    handoff = status.handoff
    if handoff is None:
        return ""
    if status.handoff_disabled:
        return "off (HAPI_DISABLE_VERSION_HANDOFF)"
    if handoff.again_at is None:
        return "on"
    return f"tripped after {output.plural(handoff.recent, 'handoff')}, on again at {iso(handoff.again_at)}"


def hub_line(hub: wire.HubStatus, now: int) -> str:
    """How the hub is, in a line."""
    if hub.online:
        return f"{hub.url} {output.paint('online', 'green')}"
    reason = f": {output.clean(hub.reason)}" if hub.reason else ""
    if hub.refused:
        return f"{hub.url} {output.paint('refused', 'red')}{reason}"
    retry = "" if hub.retry_at is None else f", retrying in {max(0, round((hub.retry_at - now) / 1000))} s"
    return f"{hub.url} {output.paint('offline', 'yellow')}{retry}{reason}"


def _numbers(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(counts.items()) if count)
