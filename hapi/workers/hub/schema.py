"""What we send to the hub, as types: the only place that knows the names of its events and their fields.

Two families, because the hub dies (the whole process, for everybody) when an event that wants an acknowledgement
comes without one: a `Notice` is never acknowledged, a `Call` always. `door.Door` takes each only through its own
method. Fields that are UNSET are absent on the wire; None is sent as null. Times are Unix milliseconds.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

OptionalText = str | None | UnsetType
EndWord = Literal["completed", "terminated", "error", "handoff", "cleared"]


class _Outgoing(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    event: ClassVar[str]

    def payload(self) -> dict[str, Any] | None:
        """The event's only argument as plain JSON values; None for an event that takes no argument."""
        return msgspec.to_builtins(self, str_keys=True) or None


class Notice(_Outgoing, frozen=True, kw_only=True):
    """An event that the hub does not acknowledge."""


class Call(_Outgoing, frozen=True, kw_only=True):
    """An event that must carry an acknowledgement callback, always."""


# ------------------------------------------------------------------------------------------------------- notices


class RpcRegister(Notice, frozen=True, kw_only=True):
    """This connection answers RPCs named `method` (`<machine or session id>:<name>`)."""

    event: ClassVar[str] = "rpc-register"
    method: str


class RpcUnregister(Notice, frozen=True, kw_only=True):
    """This connection answers no more RPCs named `method`: the hub then does not wait for an answer that cannot come."""

    event: ClassVar[str] = "rpc-unregister"
    method: str


class SessionAlive(Notice, frozen=True, kw_only=True):
    """The session lives, and how it is set up. Makes the hub send unconsumed user messages again."""

    event: ClassVar[str] = "session-alive"
    sid: str
    time: int
    thinking: bool
    mode: str | UnsetType = UNSET
    permission_mode: str | UnsetType = UNSET
    model: OptionalText = UNSET
    model_reasoning_effort: OptionalText = UNSET
    effort: OptionalText = UNSET
    service_tier: str | UnsetType = UNSET
    collaboration_mode: str | UnsetType = UNSET
    copilot_agent_mode: str | UnsetType = UNSET


class SessionReady(Notice, frozen=True, kw_only=True):
    """The agent takes input."""

    event: ClassVar[str] = "session-ready"
    sid: str
    time: int


class SessionEnd(Notice, frozen=True, kw_only=True):
    """The session is over; the hub shows it inactive at once."""

    event: ClassVar[str] = "session-end"
    sid: str
    time: int
    reason: EndWord


class MessageRow(Notice, frozen=True, kw_only=True):
    """One row for the chat. A row with a known `local_id` is not stored twice; it needs MessagesConsumed behind it."""

    event: ClassVar[str] = "message"
    sid: str
    message: dict[str, Any]
    local_id: str | UnsetType = UNSET
    created_at: int | UnsetType = UNSET


class MessagesConsumed(Notice, frozen=True, kw_only=True):
    """These rows need no delivery any more."""

    event: ClassVar[str] = "messages-consumed"
    sid: str
    local_ids: list[str]
    clear_queued_thinking_grace: bool = False  # what the keepalives say of `thinking` counts at once


class MessagesIndeterminate(Notice, frozen=True, kw_only=True):
    """Whether these reached the agent is unknown; the hub asks the user."""

    event: ClassVar[str] = "messages-indeterminate"
    sid: str
    local_ids: list[str]


class Health(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """How the machine feels. The hub drops it whole when a value is out of range."""

    collected_at: int
    cpu_count: int | UnsetType = UNSET
    load1m: float | UnsetType = UNSET
    cpu_percent: float | UnsetType = UNSET
    memory_percent: float | UnsetType = UNSET
    uptime_seconds: int | UnsetType = UNSET


class MachineAlive(Notice, frozen=True, kw_only=True):
    """The machine lives. Silence of 45 s takes it off the web's list."""

    event: ClassVar[str] = "machine-alive"
    machine_id: str
    time: int
    health: Health | UnsetType = UNSET


class _OfTerminal(Notice, frozen=True, kw_only=True):
    """The hub takes these only from the connection that it opened the terminal on."""

    session_id: str
    terminal_id: str


class TerminalReady(_OfTerminal, frozen=True, kw_only=True):
    """The shell of a browser's terminal is there."""

    event: ClassVar[str] = "terminal:ready"


class TerminalOutput(_OfTerminal, frozen=True, kw_only=True):
    """What the shell wrote."""

    event: ClassVar[str] = "terminal:output"
    data: str


class TerminalExit(_OfTerminal, frozen=True, kw_only=True):
    """The shell ended; the hub wants both keys, null for the one that does not apply."""

    event: ClassVar[str] = "terminal:exit"
    code: int | None
    signal: str | None


class TerminalError(_OfTerminal, frozen=True, kw_only=True):
    """There is no such terminal (any more), and why."""

    event: ClassVar[str] = "terminal:error"
    message: str


class AgentTerminalOutput(Notice, frozen=True, kw_only=True):
    """What the agent's own program wrote, for all browsers that watch."""

    event: ClassVar[str] = "agent-terminal:output"
    session_id: str
    data: str
    terminal_id: str = "agent"

    def payload(self) -> dict[str, Any]:
        """With the name that is always the same."""
        return {"sessionId": self.session_id, "terminalId": self.terminal_id, "data": self.data}


class AgentTerminalReset(Notice, frozen=True, kw_only=True):
    """The hub is to forget the output that it kept: a whole screen follows."""

    event: ClassVar[str] = "agent-terminal:reset"
    session_id: str


# --------------------------------------------------------------------------------------------------------- calls


class Ping(Call, frozen=True, kw_only=True):
    """A barrier: its acknowledgement proves that all that was emitted before it has been handled."""

    event: ClassVar[str] = "ping"


class _Versioned(Call, frozen=True, kw_only=True):
    expected_version: int


class UpdateMetadata(_Versioned, frozen=True, kw_only=True):
    """Replace a session's metadata if it still has the expected version."""

    event: ClassVar[str] = "update-metadata"
    sid: str
    metadata: dict[str, Any]


class UpdateState(_Versioned, frozen=True, kw_only=True):
    """Replace a session's agentState if it still has the expected version."""

    event: ClassVar[str] = "update-state"
    sid: str
    agent_state: dict[str, Any]


class MachineUpdateMetadata(_Versioned, frozen=True, kw_only=True):
    """Replace the machine's metadata if it still has the expected version."""

    event: ClassVar[str] = "machine-update-metadata"
    machine_id: str
    metadata: dict[str, Any]


class MachineUpdateState(_Versioned, frozen=True, kw_only=True):
    """Replace the machine's runnerState if it still has the expected version."""

    event: ClassVar[str] = "machine-update-state"
    machine_id: str
    runner_state: dict[str, Any]
