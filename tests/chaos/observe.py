"""Looks at disk, process table, hub and `hapi runner list`, and says what is there. Decodes everything by itself."""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import ProxyHandler, Request, build_opener

import msgspec

from tests.chaos.facts import HubSession, Identity, Process, Record, Row, World
from tests.chaos.init import descendants
from tests.support.hub import WebClient
from tests.support.runner import Runner, open_paths

_FRAME = struct.Struct("<II")
_PAGE = 200
_NOT_SHOWN = {"consumed", "indeterminate", "turn_ended"}
_open = build_opener(ProxyHandler({})).open


def observe(runner: Runner, web: WebClient, token: str) -> World:
    """All of it, now. Raises OSError or WebError when the hub does not answer."""
    world = World(records=read_records(runner.root / "sessions"), leftovers=_leftovers(runner.root))
    status = runner.hapi("runner", "status", "--json").json
    world.running = bool(status.get("running"))
    world.hub_online = bool(status.get("hub", {}).get("online"))
    if world.running:
        workers = {name: worker["pid"] or 0 for name, worker in status["workers"].items()}
        world.runner = {"broker": status["pid"], **workers}
        world.listed = {session["sessionId"] for session in runner.sessions()}
    world.hub = {summary["id"]: _hub_session(web, token, summary) for summary in web.sessions()}
    world.processes = processes(world.records)
    return world


# -------------------------------------------------------------------------------------------------------------- disk


def read_records(sessions: Path) -> dict[str, Record]:
    """Every session's directory."""
    paths = sorted(sessions.iterdir()) if sessions.is_dir() else []
    return {path.name: _record(path) for path in paths if not path.name.startswith(".")}


def _record(path: Path) -> Record:
    try:
        state = json.loads((path / "state.json").read_bytes())
    except (OSError, ValueError) as error:
        return Record(path.name, problem=f"its record cannot be read: {error}")
    record = Record(
        path.name,
        directory=state["directory"],
        phase=state["phase"],
        reason=state.get("reason"),
        supervisor=_identity(state.get("supervisor")),
        agent=_identity(state.get("agent_process")),
    )
    _read_journal(path / "journal", record)
    return record


def _identity(value: dict[str, Any] | None) -> Identity | None:
    return (value["pid"], value["start_ticks"]) if value else None


def _read_journal(path: Path, record: Record) -> None:
    data = path.read_bytes() if path.exists() else b""
    events: dict[int, str] = {}
    delivered = at = 0
    for entry, at in journal_frames(data):  # noqa: B007 - where the last good frame ends
        match entry["type"]:
            case "received":
                message = entry["message"]
                record.fates[message["id"]] = "queued"
                record.texts[message["id"]] = message["text"]
            case "taken" | "removed":
                record.fates[entry["id"]] = entry["type"]
            case "emitted":
                if entry["event"]["event"]["type"] not in _NOT_SHOWN:
                    events[entry["event"]["seq"]] = _words(entry["event"]["event"])
            case "delivered":
                delivered = max(delivered, entry["seq"])
            case "base":
                delivered = entry["delivered"]
                record.fates.update(entry["fates"])
    record.undelivered = {seq: words for seq, words in sorted(events.items()) if seq > delivered}
    record.torn_bytes = len(data) - at


def journal_frames(data: bytes) -> Iterator[tuple[dict[str, Any], int]]:
    """The entries of a journal, with the offset behind each, up to the first that is torn."""
    at = 0
    while at + _FRAME.size <= len(data):
        length, checksum = _FRAME.unpack_from(data, at)
        payload = data[at + _FRAME.size : at + _FRAME.size + length]
        if len(payload) < length or zlib.crc32(payload) != checksum:
            return
        at += _FRAME.size + length
        yield msgspec.msgpack.decode(payload), at


def _words(event: dict[str, Any]) -> str:
    return str(event.get("text") or event["type"])


def _leftovers(root: Path) -> list[str]:
    return [str(path) for path in root.rglob("*.tmp")]


# ----------------------------------------------------------------------------------------------------- process table


def processes(records: dict[str, Record]) -> dict[int, Process]:
    """Everything below our init that is not the driver's own."""
    found = (read_process(pid) for pid in descendants(os.getppid(), leave_out=os.getpid()))
    alive = {process.pid: process for process in found if process is not None}
    ended = {f"/sessions/{record.session_id}/" for record in records.values() if not record.live}
    for process in alive.values():
        if process.state != "Z":
            process.fds = _count(process.pid)
            process.stale = _stale(process, ended)
    return alive


def read_process(pid: int) -> Process | None:
    """What /proc says of it; None when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return None
    return Process(pid, int(fields[19]), int(fields[1]), fields[0], words, _mark(pid))


def _mark(pid: int) -> str | None:
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    return next((entry[16:].decode() for entry in entries if entry.startswith(b"HAPI_SESSION_ID=")), None)


def _count(pid: int) -> int:
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def _stale(process: Process, ended: set[str]) -> list[str]:
    """Files of ended sessions (unless it is their own supervisor, which takes its leave), pidfds of the dead."""
    own = process.title.split()[3:4] if process.title.startswith("hapi: session") else []
    found = [path for path in open_paths(process.pid) if any(part in path for part in ended)]
    found = [path for path in found if not any(f"/sessions/{short}" in path for short in own)]
    return found + [f"a pidfd of a dead process ({fd})" for fd in _dead_pidfds(process.pid)]


def _dead_pidfds(pid: int) -> list[str]:
    try:
        return [fd for fd in os.listdir(f"/proc/{pid}/fdinfo") if _is_dead_pidfd(f"/proc/{pid}/fdinfo/{fd}")]
    except OSError:
        return []  # it ended while we looked


def _is_dead_pidfd(path: str) -> bool:
    try:
        return "\nPid:\t-1\n" in Path(path).read_text()
    except OSError:
        return False  # it was closed while we looked


# --------------------------------------------------------------------------------------------------------------- hub


def _hub_session(web: WebClient, token: str, summary: dict[str, Any]) -> HubSession:
    session_id = summary["id"]
    session = HubSession(session_id, summary["active"], (summary.get("metadata") or {}).get("lifecycleState"))
    session.rows = [_row(row) for row in _chat(web.url, token, session_id)]
    session.pending = list(((web.session(session_id).get("agentState") or {}).get("requests") or {}).keys())
    return session


def add_states(web: WebClient, session: HubSession, local_ids: list[str]) -> None:
    """What the hub says of these messages of the session: queued, indeterminate."""
    if local_ids:
        states = web.post(f"/api/sessions/{quote(session.session_id)}/messages/queued-state", localIds=local_ids)
        session.queued = set(states["queuedLocalIds"])
        session.indeterminate = set(states["indeterminateLocalIds"])


def _chat(url: str, token: str, session_id: str) -> Iterator[dict[str, Any]]:
    """Every stored row but indeterminate ones, by the backfill, which pages without holes."""
    after = 0
    while True:
        path = f"{url}/cli/sessions/{quote(session_id)}/messages?afterSeq={after}&limit={_PAGE}"
        with _open(Request(path, headers={"Authorization": f"Bearer {token}"}), timeout=20) as answer:
            page = json.load(answer)["messages"]
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1]["seq"]


def _row(row: dict[str, Any]) -> Row:
    content = row["content"]
    inner = content.get("content") or {}
    data = inner.get("data") or {}
    if content.get("role") == "user":
        kind, text = "user", inner.get("text", "")
    elif inner.get("type") == "event":
        kind, text = "remark", data.get("message") or data.get("type", "")
    elif data.get("type") == "message":
        kind, text = "message", data.get("message", "")
    else:
        kind, text = "other", data.get("type", "")
    return Row(row["id"], row.get("localId"), kind, text, row.get("invokedAt") is not None)
