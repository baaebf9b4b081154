"""A session's Snapshot as the hub's metadata, agentState and keepalive. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from hapi import wire
from hapi.lifecycle import BUSY, EndReason
from hapi.workers.hub import flavors
from hapi.workers.hub.context import Host
from hapi.workers.hub.schema import EndWord, SessionAlive
from hapi.workers.hub.translate import cut, cut_deep

MAX_OUTCOMES = 50
MAX_COMMANDS = 500

Json = dict[str, Any]


def metadata(snapshot: wire.Snapshot, base: Json, host: Host, *, archived: bool, now: int) -> Json:
    """The hub's metadata: ours laid over `base`, whose other keys (a user's rename, the hub's notes) stay."""
    info = snapshot.info
    failed = info.reason == EndReason.SPAWN_FAILED  # for whoever asked, it never was: an archived row stays so
    archived = archived or (failed and base.get("lifecycleState") == "archived")
    ours: dict[str, Any] = {
        "path": info.directory,
        "host": host.name,
        "machineId": host.machine_id,
        "flavor": info.agent,
        "version": info.version or host.version,
        "os": host.platform,
        "homeDir": host.home,
        "happyHomeDir": host.hapi_home,
        "startedBy": info.started_by,
        "startedFromRunner": info.started_by == "runner",
        "startingMode": _starting_mode(info),
        "hostPid": info.supervisor.pid if info.supervisor else None,
        "worktree": _worktree(snapshot.worktree) or base.get("worktree"),
        "capabilities": {
            "terminal": True,
            **({"conversationHistory": {"forkCurrent": True}} if snapshot.can_fork else {}),
        },
        "slashCommands": [command.name for command in snapshot.commands[:MAX_COMMANDS]] or None,
        "summary": _summary(info.title, base, now),
        **_native_id(info),
        **_lifecycle(base, archived=archived, now=now),
    }
    result = {**base, **ours}
    return {key: value for key, value in result.items() if value is not None}


def agent_state(snapshot: wire.Snapshot, *, can_chat: bool = False) -> Json:
    """The hub's agentState: who waits for which permission, and what was decided lately.

    `can_chat`: it is in a terminal and could go on as a chat. `controlledByUser` makes the web offer just that ("Switch
    to remote mode").
    """
    newest = sorted(snapshot.outcomes, key=lambda outcome: outcome.completed_at)[-MAX_OUTCOMES:]
    return {
        "controlledByUser": can_chat,
        "startingMode": _starting_mode(snapshot.info),
        "requests": {request.request_id: _request(request) for request in snapshot.requests},
        "completedRequests": {outcome.request.request_id: _outcome(outcome) for outcome in newest},
    }


def alive(snapshot: wire.Snapshot, now: int) -> SessionAlive:
    """The keepalive; what the hub would not accept for this flavor is left out of it."""
    info = snapshot.info
    flavor, options = info.agent, _options(snapshot.config)
    mode = flavors.allowed_mode(flavor, info.permission_mode)
    return SessionAlive(
        sid=info.session_id,
        time=now,
        thinking=info.phase in BUSY,
        mode="remote",
        permission_mode=UNSET if mode is None else mode,
        model=UNSET if info.model is None or flavor == "dsh" else info.model,
        effort=snapshot.effort if flavor in flavors.EFFORT else UNSET,
        model_reasoning_effort=snapshot.effort if flavor in flavors.REASONING_EFFORT else UNSET,
        service_tier=options.get("serviceTier", UNSET),
        collaboration_mode=options.get("collaborationMode", UNSET),
        copilot_agent_mode=options.get("copilotAgentMode", UNSET),
    )


def creation(snapshot: wire.Snapshot, host: Host, now: int, *, can_chat: bool = False) -> Json:
    """The body of `POST /cli/sessions`, apart from id and tag."""
    keepalive = alive(snapshot, now).payload() or {}
    taken = {"model", "effort", "modelReasoningEffort"}
    chosen = {key: value for key, value in keepalive.items() if key in taken and value is not None}
    return {
        "metadata": metadata(snapshot, {}, host, archived=False, now=now),
        "agentState": agent_state(snapshot, can_chat=can_chat),
        **chosen,
    }


def lost(snapshot: wire.Snapshot, info: wire.SessionInfo) -> wire.Snapshot:
    """The last state of a session that ended as `info` says and cannot say so itself: nobody waits for leave any more."""
    canceled = [
        wire.PermissionOutcome(
            request=request, completed_at=info.ended_at or request.created_at, status="canceled", reason="Session ended"
        )
        for request in snapshot.requests
    ]
    return msgspec.structs.replace(snapshot, info=info, requests=[], outcomes=[*snapshot.outcomes, *canceled])


def end_word(info: wire.SessionInfo) -> EndWord:
    """Why the session ended, in the hub's words."""
    if was_stopped(info):
        return "terminated"
    if info.reason == EndReason.HANDED_OVER:
        return "handoff"
    if info.reason == EndReason.COMPLETED or (info.reason == EndReason.AGENT_EXITED and not info.exit_code):
        return "completed"
    return "error"


def was_stopped(info: wire.SessionInfo) -> bool:
    """Whether a person ended the session; the hub's word for that is archived."""
    return info.reason in {EndReason.STOPPED_BY_USER, EndReason.STOPPED_FROM_HUB}


def _starting_mode(info: wire.SessionInfo) -> str:
    return "pty" if info.driver == "pty" else "remote"


def _worktree(worktree: wire.WorktreeInfo | None) -> Json | None:
    if worktree is None:
        return None
    return {
        "basePath": worktree.base_path,
        "branch": worktree.branch,
        "name": worktree.name,
        "worktreePath": worktree.worktree_path,
        "createdAt": worktree.created_at,
    }


def _native_id(info: wire.SessionInfo) -> Json:
    key = flavors.NATIVE_ID_KEYS.get(info.agent)
    return {key: info.native_id} if key and info.native_id else {}


def _summary(title: str | None, base: Json, now: int) -> Json | None:
    current = base.get("summary")
    if not title or (isinstance(current, dict) and current.get("text") == title):
        return current if isinstance(current, dict) else None
    return {"text": title, "updatedAt": now}


def _lifecycle(base: Json, *, archived: bool, now: int) -> Json:
    state = "archived" if archived else "running"
    since = base.get("lifecycleStateSince") if base.get("lifecycleState") == state else None
    return {
        "lifecycleState": state,
        "lifecycleStateSince": since or now,
        "archivedBy": ((since and base.get("archivedBy")) or "cli") if archived else None,
        "archiveReason": ((since and base.get("archiveReason")) or "User terminated") if archived else None,
    }


def _request(request: wire.PermissionRequest) -> Json:
    entry = {"tool": request.tool, "arguments": cut_deep(request.arguments), "createdAt": request.created_at}
    return entry if request.tool_call_id is None else {**entry, "toolCallId": request.tool_call_id}


def _outcome(outcome: wire.PermissionOutcome) -> Json:
    extra = {"decision": outcome.decision, "mode": outcome.mode, "reason": outcome.reason and cut(outcome.reason)}
    extra["answers"] = _answers(outcome.answers)
    return {
        **_request(outcome.request),
        "completedAt": outcome.completed_at,
        "status": outcome.status,
        **{key: value for key, value in extra.items() if value is not None},
    }


def _answers(answers: Any) -> Any:
    """What was answered to a question, if it is of one of the two shapes that the hub's schema has."""
    if not isinstance(answers, dict) or not answers:
        return None
    plain = all(isinstance(words, list) for words in answers.values())
    return cut_deep(answers) if plain or all(isinstance(words, dict) for words in answers.values()) else None


def _options(config: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in config.items() if value in flavors.OPTIONS.get(key, ())}
