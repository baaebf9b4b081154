"""What the hub sends us, as types. Unknown fields are skipped; what does not fit raises msgspec.ValidationError."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

import msgspec

_T = TypeVar("_T")


class _Incoming(msgspec.Struct, rename="camel", kw_only=True):
    """What all have in common; `kw_only` is not inherited, so each repeats it."""


class MachineRow(_Incoming, kw_only=True):
    """A machine as REST answers it; `metadata` is None when the stored one does not satisfy the hub's schema."""

    id: str
    created_at: int = 0
    metadata: dict[str, Any] | None = None
    metadata_version: int
    runner_state: dict[str, Any] | None = None
    runner_state_version: int


class SessionRow(_Incoming, kw_only=True):
    """A session as REST answers it."""

    id: str
    metadata: dict[str, Any] | None = None
    metadata_version: int
    agent_state: dict[str, Any] | None = None
    agent_state_version: int
    active: bool = False


class AttachmentPart(_Incoming, kw_only=True):
    """A file beside a user's message."""

    id: str = ""
    filename: str = ""
    mime_type: str = ""
    size: int = 0
    path: str = ""


class ChatRow(_Incoming, kw_only=True):
    """A stored message. `content` stays raw: agents' rows have many shapes, and we look at users' rows only."""

    id: str
    seq: int
    created_at: int = 0
    local_id: str | None = None
    invoked_at: int | None = None
    content: Any = None


class UserContent(_Incoming, kw_only=True):
    """The inner content of a user's row."""

    text: str = ""
    attachments: list[AttachmentPart] = []


class NewMessage(_Incoming, kw_only=True, tag_field="t", tag="new-message"):
    """A message entered the session's chat."""

    sid: str
    message: ChatRow


class CancelQueued(_Incoming, kw_only=True, tag_field="t", tag="cancel-queued-message"):
    """The user takes a queued message back; wants {removed | inFlight | consumed} within 500 ms."""

    sid: str
    message_id: str
    local_id: str | None = None


class RetryQueued(_Incoming, kw_only=True, tag_field="t", tag="retry-queued-message"):
    """The user wants a message of unknown fate to run; wants {accepted, removed}."""

    sid: str
    message_id: str
    message: ChatRow
    local_id: str | None = None


class UpdateBody(_Incoming, kw_only=True):
    """The kind of an `update`; the kinds that concern us are NewMessage, CancelQueued and RetryQueued."""

    body: dict[str, Any]


class ErrorNote(_Incoming, kw_only=True):
    """The hub refused an event: `code` is not-found or access-denied, of the machine or session `id`."""

    message: str = ""
    code: str = ""
    scope: str = ""
    id: str = ""


class RpcRequest(_Incoming, kw_only=True):
    """The hub calls us; `params` is JSON text."""

    method: str
    params: str | None = None


class TerminalOrder(_Incoming, kw_only=True):
    """`terminal:open`, `:write`, `:resize` and `:close`, each with those of the fields that it needs."""

    session_id: str
    terminal_id: str
    cols: int = 80
    rows: int = 24
    data: str = ""


class AgentTerminalOrder(_Incoming, kw_only=True):
    """`agent-terminal:refresh`, `:input`, `:resize` and `:idle`, each with those of the fields that it needs."""

    session_id: str
    cols: int = 80
    rows: int = 24
    data: str = ""


class VersionedAck(_Incoming, kw_only=True):
    """The answer to a versioned write; the value is None where the hub has none or cannot serve it."""

    result: str
    version: int = 0
    reason: str | None = None
    metadata: dict[str, Any] | None = None
    agent_state: dict[str, Any] | None = None
    runner_state: dict[str, Any] | None = None


class SpawnParams(_Incoming, kw_only=True):
    """`spawn-happy-session`: what the web asked for."""

    directory: str
    agent: str = "claude"
    fork_session: bool = False
    model: str | None = None
    model_reasoning_effort: str | None = None
    effort: str | None = None
    permission_mode: str | None = None
    yolo: bool = False
    session_type: Literal["simple", "worktree"] = "simple"
    worktree_name: str | None = None
    service_tier: str | None = None
    collaboration_mode: str | None = None
    copilot_agent_mode: str | None = None
    starting_mode: str | None = None
    resume_session_id: str | None = None
    existing_session_id: str | None = None
    session_id: str | None = None


class PermissionParams(_Incoming, kw_only=True):
    """`permission`: the user's answer to a request."""

    id: str
    approved: bool
    decision: Literal["approved", "approved_for_session", "denied", "abort"] | None = None
    mode: str | None = None
    allow_tools: list[str] | None = None
    answers: Any = None


def read(data: Any, kind: type[_T]) -> _T:
    """Foreign JSON values as `kind`. Raises msgspec.ValidationError."""
    return msgspec.convert(data, kind)


def read_update(data: Any) -> NewMessage | CancelQueued | RetryQueued | None:
    """The update if it is of a kind that concerns us, else None. Raises msgspec.ValidationError."""
    body = read(data, UpdateBody).body
    kinds: dict[str, type[NewMessage | CancelQueued | RetryQueued]] = {
        "new-message": NewMessage,
        "cancel-queued-message": CancelQueued,
        "retry-queued-message": RetryQueued,
    }
    kind = kinds.get(str(body.get("t")))
    return None if kind is None else read(body, kind)


def read_params(text: str | None) -> Any:
    """The parameters of an RPC; None when there are none. Raises ValueError for text that is not JSON."""
    return json.loads(text) if text else None
