"""The parameters of the hub's RPCs as requests to our own processes, and user rows as messages. Pure.

The settings of a running session keep the hub's names on the bus (`permissionMode`, `modelReasoningEffort`, …).
"""

from __future__ import annotations

from typing import Any

from hapi import wire
from hapi.errors import ErrorCode, HapiError
from hapi.ids import new_session_id, session_id
from hapi.workers.hub import incoming


def spawn(raw: Any) -> wire.Spawn:
    """`spawn-happy-session` as Spawn. Raises HapiError(bad_request), msgspec.ValidationError."""
    asked = incoming.read(raw, incoming.SpawnParams)
    if asked.fork_session:
        raise HapiError(ErrorCode.BAD_REQUEST, "Sessions cannot be forked yet.")
    existing = asked.existing_session_id or asked.session_id
    options = {
        "serviceTier": asked.service_tier,
        "collaborationMode": asked.collaboration_mode,
        "copilotAgentMode": asked.copilot_agent_mode,
    }
    return wire.Spawn(
        session_id=session_id(existing) if existing else new_session_id(),
        directory=asked.directory,
        agent=asked.agent,
        started_by="runner",
        model=asked.model,
        effort=asked.effort or asked.model_reasoning_effort,
        permission_mode=asked.permission_mode,
        yolo=asked.yolo,
        worktree=(asked.worktree_name or "") if asked.session_type == "worktree" else None,
        resume=asked.resume_session_id,
        existing=existing is not None,
        driver="pty" if asked.starting_mode == "pty" else "acp",
        config={key: value for key, value in options.items() if value is not None},
    )


def permission(raw: Any) -> wire.AnswerPermission:
    """`permission` as AnswerPermission. Raises msgspec.ValidationError."""
    asked = incoming.read(raw, incoming.PermissionParams)
    return wire.AnswerPermission(
        request_id=asked.id,
        approved=asked.approved,
        decision=asked.decision,
        mode=asked.mode,
        allow_tools=asked.allow_tools,
        answers=asked.answers,
    )


def configure(raw: Any) -> wire.Configure:
    """`set-session-config` as Configure. Raises HapiError(bad_request) for values that are not text."""
    if not isinstance(raw, dict):
        raise HapiError(ErrorCode.BAD_REQUEST, "The settings must be a JSON object.")
    return wire.Configure({str(key): _setting(key, value) for key, value in raw.items()})


def applied(raw: dict[str, Any], configured: wire.Configured) -> dict[str, Any]:
    """The answer to `set-session-config`: every key asked for that is in force, with its value."""
    answer: dict[str, Any] = {}
    for key, value in raw.items():
        if key in configured.applied:
            in_force = configured.applied[key]
            answer[key] = value if in_force == _setting(key, value) else in_force
    return {"applied": answer}


def user_message(row: incoming.ChatRow) -> wire.UserMessage | None:
    """A chat row as a message for the agent; None for what no user said elsewhere (agents' rows, our own echoes).

    Raises msgspec.ValidationError for a user's row that is not of the known shape.
    """
    outer = row.content
    if not isinstance(outer, dict) or outer.get("role") != "user":
        return None
    meta = outer.get("meta")
    if isinstance(meta, dict) and meta.get("sentFrom") == "cli":
        return None
    content = incoming.read(outer.get("content"), incoming.UserContent)
    return wire.UserMessage(
        id=row.id,
        text=_clean(content.text),
        created_at=row.created_at,
        local_id=row.local_id,
        seq=row.seq,
        attachments=[
            wire.Attachment(part.id, _clean(part.filename), part.mime_type, part.size, part.path)
            for part in content.attachments
        ],
    )


def _setting(key: str, value: Any) -> str | None:
    if isinstance(value, dict) and key == "model":  # Pi names a model by provider and id
        return f"{value.get('provider', '')}/{value.get('modelId', '')}"
    if value is None or isinstance(value, str):
        return value
    raise HapiError(ErrorCode.BAD_REQUEST, f"{key} must be text.")


def _clean(text: str) -> str:
    """JavaScript may cut a character in half; half a character cannot be encoded."""
    return text.encode("utf-8", "replace").decode()
