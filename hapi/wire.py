"""Every message that crosses a socket of ours, its codec and its limits. The specification is docs/protocol.md.

A message is two frames: a `Header` (who to, who from, which request) and a body, one tagged msgspec struct in
MessagePack. The header's first element is `PROTOCOL`, name and version, so a stranger's bytes fail at once. There is
one union and one decoder per receiver; a new field gets a default, an unknown field is skipped, nothing is retyped.
The broker decodes headers and its own bodies only; all other bodies pass through untouched.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from hapi.errors import ErrorCode, HapiError
from hapi.ids import ProcessId
from hapi.lifecycle import Phase

PROTOCOL = "hapi/1"
PROTOCOL_LEVEL = 3  # the highest level that this code speaks; docs/protocol.md says what each level added
OLDEST_LEVEL = 1  # the lowest that it still serves; who says nothing speaks level 1
MAX_BODY_BYTES = 8 * 1024 * 1024
MAX_HEADER_BYTES = 4 * 1024
MAX_WAIT_MS = 60_000
MAX_LINE_MS = 60_000  # how long a spawn is in line at most; then its start begins, which has a time-out of its own
MAX_ORDER_BYTES = MAX_BODY_BYTES - 64 * 1024  # a spawn travels on inside a Welcome
MAX_FRAME_BYTES = 64 * 1024 * 1024  # ZeroMQ drops the connection of a peer that sends more

BROKER = "broker"
HUB = "hub"
REAPER = "reaper"
CLI = "cli"


Driver = Literal["acp", "pty"]


def session_peer(session_id: str) -> str:
    """The logical address of a session's supervisor."""
    return f"session:{session_id}"


class Header(msgspec.Struct, frozen=True, array_like=True, tag=PROTOCOL):
    """Routing, and nothing else. `request` is the sender's number for a request (0: none); its reply repeats it."""

    to: str
    sender: str
    request: int = 0
    reply: bool = False


# ---------------------------------------------------------------------------------------------------- shared parts


class WorktreeInfo(msgspec.Struct, omit_defaults=True):
    """A git worktree made for a session; times in Unix milliseconds."""

    base_path: str
    branch: str
    name: str
    worktree_path: str
    created_at: int


class SessionInfo(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What the runner knows of a session; also what `state.json` holds. Times are Unix milliseconds.

    `reason` is one of lifecycle.EndReason, or a word that a newer build invented. `unknown_messages`: how many messages
    may or may not have reached the agent; `events_lost`: how many words for the hub found no room on disk.
    `config`: further options in force, by the hub's names (`serviceTier`, …); `defaults`: the `model` and `effort` that
    the agent began with. `granted_mode`: the mode to continue the session with where the agent has gone by itself to
    `permission_mode`, which grants more than what a person chose; "" where nobody chose any. `driver`: how its agent is
    spoken to, over ACP (`acp`) or as a program in a pseudo-terminal (`pty`). `queued`: messages that wait for the agent;
    it has nothing left to do when it is idle and none waits. `last_words`: the last line that the agent said.
    """

    session_id: str
    namespace: str
    agent: str
    directory: str
    phase: Phase
    started_by: Literal["runner", "terminal"]
    started_at: int
    supervisor: ProcessId | None = None
    agent_process: ProcessId | None = None
    generation: int = 0
    reason: str | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    ended_at: int | None = None
    detail: str | None = None
    title: str | None = None
    native_id: str | None = None
    model: str | None = None
    permission_mode: str | None = None
    version: str = ""
    effort: str | None = None
    worktree: WorktreeInfo | None = None
    unknown_messages: int = 0
    events_lost: int = 0
    config: dict[str, str] = {}
    defaults: dict[str, str] = {}
    granted_mode: str | None = None
    driver: Driver = "acp"
    queued: int = 0
    last_words: str | None = None


class PermissionRequest(msgspec.Struct, omit_defaults=True, kw_only=True):
    """An agent waits for leave to use a tool. `request_id` is the tool call's id where the agent gave one."""

    request_id: str
    tool: str
    arguments: Any
    created_at: int
    tool_call_id: str | None = None


class PermissionOutcome(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A permission request that is settled, with who settled it how; `answers` are those to a question."""

    request: PermissionRequest
    completed_at: int
    status: Literal["approved", "denied", "canceled"]
    decision: Literal["approved", "approved_for_session", "denied", "abort"] | None = None
    mode: str | None = None
    reason: str | None = None
    answers: Any = None


class Choice(msgspec.Struct, omit_defaults=True):
    """One value of a picker (a model, a mode, an effort level)."""

    value: str
    name: str
    description: str | None = None


class SlashCommand(msgspec.Struct, omit_defaults=True):
    """A command that the agent offers in its chat."""

    name: str
    description: str | None = None


class Snapshot(msgspec.Struct, tag="snapshot", omit_defaults=True, kw_only=True):
    """All that the hub shows of a session apart from the chat. Whole state: the newest one replaces the others.

    `last_seq` is the number of the newest event that the hub has yet to confirm, 0 when it has them all: behind the
    snapshot of an ended session nothing comes after that number. None from a supervisor that does not say.
    `protocol` is the level that the supervisor speaks: the connector sends it nothing newer. `can_fork`: the agent can
    copy its conversation, and the supervisor takes ForkConversation.
    """

    info: SessionInfo
    effort: str | None = None
    requests: list[PermissionRequest] = []
    outcomes: list[PermissionOutcome] = []
    worktree: WorktreeInfo | None = None
    commands: list[SlashCommand] = []
    models: list[Choice] = []
    modes: list[Choice] = []
    config: dict[str, str] = {}
    last_seq: int | None = None
    protocol: int = 1
    efforts: list[Choice] = []
    can_fork: bool = False


class Attachment(msgspec.Struct, omit_defaults=True):
    """A file that a user put beside a message; `path` is on this machine."""

    id: str
    filename: str
    mime_type: str
    size: int
    path: str


# ------------------------------------------------------------------------------------------------------ chat events


class UserText(msgspec.Struct, tag="user_text"):
    """Words that a person typed on this machine, for the hub to show."""

    text: str


class ImageRef(msgspec.Struct, omit_defaults=True):
    """An image that the agent showed, kept in the session's directory under `image_id` (hapi.images)."""

    image_id: str
    file_name: str
    mime_type: str
    call_id: str | None = None


class AgentText(msgspec.Struct, tag="agent_text", omit_defaults=True):
    """A finished block of the agent's answer, in Markdown. With `image` that is shown; `text` is then words for it."""

    text: str
    image: ImageRef | None = None


class Reasoning(msgspec.Struct, tag="reasoning"):
    """The agent's thinking; a later one of the same `block` replaces the earlier."""

    block: str
    text: str


class ToolCall(msgspec.Struct, tag="tool_call", omit_defaults=True):
    """A tool call begins or goes on; a later one of the same `call_id` updates it."""

    call_id: str
    name: str
    input: Any
    status: Literal["pending", "in_progress"] = "pending"
    title: str | None = None
    kind: str | None = None


class ToolResult(msgspec.Struct, tag="tool_result", omit_defaults=True):
    """A tool call is over."""

    call_id: str
    output: Any
    is_error: bool = False


class PlanEntry(msgspec.Struct):
    """One step of a plan."""

    content: str
    priority: Literal["high", "medium", "low"] = "medium"
    status: Literal["pending", "in_progress", "completed"] = "pending"


class Plan(msgspec.Struct, tag="plan"):
    """The agent's whole plan; it replaces the earlier one."""

    entries: list[PlanEntry]


class Usage(msgspec.Struct, tag="usage", omit_defaults=True, kw_only=True):
    """Tokens of one turn, and how full the context is."""

    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int | None = None
    thought_tokens: int | None = None
    cached_input_tokens: int | None = None
    cache_write_tokens: int | None = None
    context_tokens: int | None = None
    context_window: int | None = None


class Note(msgspec.Struct, tag="note", omit_defaults=True):
    """A remark of ours in the chat; `is_error` draws it as an error."""

    text: str
    is_error: bool = False


class Consumed(msgspec.Struct, tag="consumed"):
    """These user messages (by the hub's `localId`) went to the agent."""

    local_ids: list[str]


class Indeterminate(msgspec.Struct, tag="indeterminate"):
    """Whether these user messages reached the agent is not known; the user decides."""

    local_ids: list[str]


class ModeChanged(msgspec.Struct, tag="mode_changed"):
    """The permission mode in force changed."""

    mode: str


class TurnEnded(msgspec.Struct, tag="turn_ended", omit_defaults=True):
    """The agent is done with a prompt; `more` says that another one follows at once."""

    stop_reason: str
    more: bool = False


Event = (
    UserText
    | AgentText
    | Reasoning
    | ToolCall
    | ToolResult
    | Plan
    | Usage
    | Note
    | Consumed
    | Indeterminate
    | ModeChanged
    | TurnEnded
)


class NumberedEvent(msgspec.Struct, omit_defaults=True):
    """An event of the journal: `seq` rises by one per event of a session, over all its generations."""

    seq: int
    at: int
    event: Event


# --------------------------------------------------------------------------------------------------- requests, replies


class GetStatus(msgspec.Struct, tag="get_status"):
    """Everything `hapi runner status` shows. Reply: Status."""


class ListSessions(msgspec.Struct, tag="list_sessions", omit_defaults=True):
    """The sessions of this namespace. Reply: SessionList."""

    ended: bool = False


class Spawn(msgspec.Struct, tag="spawn", omit_defaults=True, kw_only=True):
    """Start a session and wait until it is ready. Idempotent by `session_id`. Reply: Spawned.

    `umask`: the caller's, None for the one that the runner was started with. `worktree`: None for none, "" for one with
    a made-up name. `env`: the caller's environment (a terminal's), None for the runner's own. `existing`: continue the
    record of that id, with the agent's own memory if `resume` names it.
    `driver` `pty` runs the agent's own interface in a pseudo-terminal of `cols` times `rows`, or `command`, any command
    at all, if that is not empty; `agent` is then the name to show for it.
    """

    session_id: str
    directory: str
    agent: str
    started_by: Literal["runner", "terminal"]
    model: str | None = None
    effort: str | None = None
    permission_mode: str | None = None
    yolo: bool = False
    worktree: str | None = None
    args: list[str] = []
    env: dict[str, str] | None = None
    resume: str | None = None
    existing: bool = False
    config: dict[str, str] = {}
    umask: int | None = None
    driver: Driver = "acp"
    command: list[str] = []
    cols: int = 80
    rows: int = 24


class StopSession(msgspec.Struct, tag="stop_session", omit_defaults=True):
    """End a session: `target` is an id, a unique prefix of one, or PID-n. Reply: SessionStopped.

    `why`: no person asked for it. The session was started in vain, for this reason, and is recorded as a failed spawn.
    `handoff`: it goes on elsewhere, by another driver or another client; its end is recorded as `handed over`.
    """

    target: str
    by: Literal["user", "hub"] = "user"
    why: str = ""
    handoff: bool = False


class SendText(msgspec.Struct, tag="send_text", omit_defaults=True):
    """Say something to the agent, as a person at this machine. Idempotent by `id`, if given. Reply: Accepted."""

    target: str
    text: str
    id: str = ""


class WaitSession(msgspec.Struct, tag="wait_session", omit_defaults=True):
    """Wait until a session has nothing left to do (`idle`, or ended) or has ended. Reply: Waited.

    `timeout_ms` is bounded by MAX_WAIT_MS: whoever has more patience asks again.
    """

    target: str
    until: Literal["idle", "ended"] = "idle"
    timeout_ms: int = 30_000


class StopRunner(msgspec.Struct, tag="stop_runner", omit_defaults=True):
    """Stop the runner; sessions live on. Reply: RunnerStopping, sent when the hub has been told.

    After a `source` that asks for another runner (`hapi-app`; since level 2 `version-handoff`) one that a service
    manager owns exits so that it is started again.
    """

    source: str = "hapi-cli"


class WorkerStatus(msgspec.Struct, omit_defaults=True):
    """A worker process: pid 0 while it is down, `failed` when it is in a crash loop."""

    pid: int
    restarts: int
    failed: str | None = None


class HubStatus(msgspec.Struct, tag="hub_status", omit_defaults=True, kw_only=True):
    """How the connector stands with the hub. `retry_at` is Unix milliseconds."""

    url: str = ""
    online: bool = False
    reason: str | None = None
    refused: bool = False
    retry_at: int | None = None
    machine_id: str | None = None
    counters: dict[str, int] = {}


class HandoffStatus(msgspec.Struct, omit_defaults=True, kw_only=True):
    """How the runner stands with what is installed. `recent` handoffs took place within the breaker's window.

    `reason`: why it does not run although it differs; `again_at`: when an automatic handoff is allowed again (ms).
    """

    installed_version: str
    installed_fingerprint: str
    recent: int = 0
    reason: str | None = None
    again_at: int | None = None


class Status(msgspec.Struct, tag="status", omit_defaults=True, kw_only=True):
    """The runner's own account. Times are Unix milliseconds; an age is none the older for a clock that was set.

    `protocol` is the highest level that it speaks. `fingerprint` is the digest of the code that runs, `install` the
    directory that it was loaded from, `handoff` how it compares with what is there now.
    """

    pid: int
    version: str
    namespace: str
    endpoint: str
    started_at: int
    log_path: str
    workspace_roots: list[str]
    hub: HubStatus
    workers: dict[str, WorkerStatus]
    sessions: dict[str, int]
    verdicts: dict[str, int]
    counters: dict[str, int]
    last_heartbeat: int | None = None
    heartbeat_age_ms: int | None = None
    heartbeat_interval_ms: int = 60_000
    supervised: bool = False
    stopping: bool = False
    warnings: list[str] = []
    protocol: int = 1
    fingerprint: str = ""
    install: str = ""
    handoff_disabled: bool = False
    handoff: HandoffStatus | None = None


class SessionList(msgspec.Struct, tag="session_list"):
    """Reply to ListSessions, oldest first."""

    sessions: list[SessionInfo]


class Spawned(msgspec.Struct, tag="spawned", omit_defaults=True):
    """The session is ready. `existing`: it ran already, this request started nothing."""

    info: SessionInfo
    existing: bool = False


class SessionStopped(msgspec.Struct, tag="session_stopped", omit_defaults=True):
    """How a stop ended, and by which rung: before_start, during_start, eof or hangup, terminate, kill."""

    status: Literal["stopped", "already_gone", "still_alive"]
    session_id: str
    rung: str | None = None
    survivors: list[int] = []


class Waited(msgspec.Struct, tag="waited"):
    """How the session is now; `reached`: it is what was waited for, False when the time is up."""

    info: SessionInfo
    reached: bool


class RunnerStopping(msgspec.Struct, tag="runner_stopping"):
    """The runner has said goodbye to the hub and exits now; `sessions` live on."""

    sessions: int


class Accepted(msgspec.Struct, tag="accepted", omit_defaults=True):
    """Done or safely on disk; nothing more to say."""

    detail: str | None = None


class Failure(msgspec.Struct, tag="failure", omit_defaults=True):
    """A request failed. `code` is an errors.ErrorCode, or one that a newer peer invented."""

    code: str
    message: str
    hint: str = ""

    def error(self) -> HapiError:
        """This failure as an exception; an unknown code becomes `internal`."""
        try:
            code = ErrorCode(self.code)
        except ValueError:
            code = ErrorCode.INTERNAL
        return HapiError(code, self.message, self.hint)


def failure(error: HapiError) -> Failure:
    """An exception as it crosses the wire."""
    return Failure(error.code.value, error.message, error.hint)


# ------------------------------------------------------------------------------------------ workers ⇄ broker


class Hello(msgspec.Struct, tag="hello", omit_defaults=True, kw_only=True):
    """A peer introduces itself, after every (re)connection and whenever the broker asks. Reply: Welcome.

    `name` is the logical address (`hub`, `reaper`, `session:ID`); `generation` tells two supervisors of one session
    apart; `info` is what a supervisor knows of its session, None from one that has yet to learn its order. `protocol`
    is the highest level that the peer speaks.
    """

    name: str
    process: ProcessId
    version: str
    generation: int = 0
    info: SessionInfo | None = None
    protocol: int = 1


class Welcome(msgspec.Struct, tag="welcome", omit_defaults=True, kw_only=True):
    """The broker knows the peer now. `order`: what a new supervisor is to do; `hub`: the connector is there.

    `protocol` is the level that both speak: neither sends the other anything newer. `fingerprint` is the digest of the
    code that the broker runs.
    """

    instance: str
    hub: bool = False
    hub_online: bool = False
    order: Spawn | None = None
    workspace_roots: list[str] = []
    runner_pid: int = 0
    runner_started_at: int = 0
    umask: int = 0o022
    protocol: int = 1
    fingerprint: str = ""


class Refused(msgspec.Struct, tag="refused"):
    """The broker will not have this peer (a late child, an old generation): end, leaving nothing behind."""

    reason: str


class HelloWanted(msgspec.Struct, tag="hello_wanted"):
    """The broker does not know the sender (it is new): say hello."""


class Beat(msgspec.Struct, tag="beat"):
    """A sign of life, which earlier versions send when there is nothing else to say. Nothing follows from it."""


class SessionChanged(msgspec.Struct, tag="session_changed"):
    """A supervisor's news of its session; `info.phase` `ended` is the last one."""

    info: SessionInfo


class SpawnFailed(msgspec.Struct, tag="spawn_failed", kw_only=True):
    """The session never became ready; its supervisor exits."""

    session_id: str
    failure: Failure


class PeerUp(msgspec.Struct, tag="peer_up"):
    """A worker said hello; supervisors then tell the hub connector all it must know."""

    name: str


class PeerDown(msgspec.Struct, tag="peer_down"):
    """A worker is gone."""

    name: str


class HubOnline(msgspec.Struct, tag="hub_online"):
    """Whether the connector reaches the hub: what is worth waiting for at a session's end."""

    online: bool


class Shutdown(msgspec.Struct, tag="shutdown"):
    """The runner stops: say goodbye to the hub, answer Accepted, exit."""

    source: str


class Watched(msgspec.Struct, omit_defaults=True, kw_only=True):
    """A session's processes, for the reaper to watch."""

    session_id: str
    supervisor: ProcessId
    agent: ProcessId | None = None


class Watch(msgspec.Struct, tag="watch"):
    """Tell me when one of these supervisors dies."""

    sessions: list[Watched]


class Unwatch(msgspec.Struct, tag="unwatch"):
    """This session has ended: its supervisor may go, nothing is left behind; say only when it is gone."""

    session_id: str


class SupervisorGone(msgspec.Struct, tag="supervisor_gone", omit_defaults=True, kw_only=True):
    """The reaper saw a supervisor end; one that was still wanted left `reaped` processes behind, which are ended.

    `unknown_messages`: what its journal holds of messages that may or may not have reached the agent.
    """

    session_id: str
    process: ProcessId
    reaped: int = 0
    survivors: list[int] = []
    unknown_messages: int = 0


class Heartbeat(msgspec.Struct, tag="heartbeat", omit_defaults=True, kw_only=True):
    """The reaper's sweep is done; version and fingerprint of what is installed now, "" when it cannot be read."""

    at: int
    installed_version: str
    fingerprint: str = ""


class SessionLost(msgspec.Struct, tag="session_lost"):
    """A session has ended and its supervisor can no longer speak: the connector tells the hub what it does not know.

    Sent again to every new connector; whether something is left to tell, the session's directory says.
    """

    info: SessionInfo


# --------------------------------------------------------------------------------------------------- hub ⇄ session


class UserMessage(msgspec.Struct, tag="user_message", omit_defaults=True, kw_only=True):
    """A person's message. De-duplicated by `id`. Reply: Accepted, once it is on disk."""

    id: str
    text: str
    created_at: int
    local_id: str | None = None
    seq: int | None = None
    attachments: list[Attachment] = []


class CancelMessage(msgspec.Struct, tag="cancel_message", omit_defaults=True):
    """Take a queued message back. Reply: MessageFate."""

    id: str
    local_id: str | None = None


class MessageFate(msgspec.Struct, tag="message_fate"):
    """`removed`: it will not reach the agent; `consumed`: it has; `unknown`: we cannot tell."""

    fate: Literal["removed", "in_flight", "consumed", "unknown"]


class RetryMessage(msgspec.Struct, tag="retry_message"):
    """Queue a message again that the user chose to retry. Reply: Accepted."""

    message: UserMessage


class AnswerPermission(msgspec.Struct, tag="answer_permission", omit_defaults=True, kw_only=True):
    """A person's answer to a permission request. Reply: Accepted, or Failure when nothing waits under that id."""

    request_id: str
    approved: bool
    decision: Literal["approved", "approved_for_session", "denied", "abort"] | None = None
    mode: str | None = None
    allow_tools: list[str] | None = None
    answers: Any = None


class AbortTurn(msgspec.Struct, tag="abort_turn"):
    """Cancel the running turn; the session and its queue stay. Reply: Accepted."""


class Configure(msgspec.Struct, tag="configure"):
    """Change model, mode, effort or another option while running; None is the default again. Reply: Configured."""

    values: dict[str, str | None]


class Configured(msgspec.Struct, tag="configured"):
    """The values now in force, one for every key asked for."""

    applied: dict[str, str | None]


class ForkConversation(msgspec.Struct, tag="fork_conversation"):
    """Copy the agent's conversation as it stands, between turns; this session goes on in its own. Reply: Forked."""


class Forked(msgspec.Struct, tag="forked"):
    """The agent's own id of the copy, for another session to resume."""

    native_id: str


class Delivered(msgspec.Struct, tag="delivered"):
    """The hub has every event up to and including `seq`."""

    seq: int


class Events(msgspec.Struct, tag="events"):
    """Journalled events in order, for the hub. Answered, some time later, by Delivered."""

    events: list[NumberedEvent]


class LiveReasoning(msgspec.Struct, tag="live_reasoning"):
    """Thinking as it grows; not journalled, may be dropped."""

    block: str
    text: str


ControlRequest = GetStatus | ListSessions | Spawn | StopSession | SendText | WaitSession | StopRunner
ControlReply = Status | SessionList | Spawned | SessionStopped | Waited | RunnerStopping | Accepted | Failure
ToBroker = (
    Hello
    | Beat
    | SessionChanged
    | SpawnFailed
    | SessionStopped
    | SupervisorGone
    | Heartbeat
    | HubStatus
    | Accepted
    | Failure
    | Spawn
    | StopSession
    | StopRunner
)
ToSession = (
    Welcome
    | Refused
    | HelloWanted
    | PeerUp
    | PeerDown
    | HubOnline
    | StopSession
    | SendText
    | UserMessage
    | CancelMessage
    | RetryMessage
    | AnswerPermission
    | AbortTurn
    | Configure
    | ForkConversation
    | Delivered
    | Failure
)
ToHub = (
    Welcome
    | Refused
    | HelloWanted
    | PeerUp
    | PeerDown
    | Shutdown
    | SessionLost
    | Snapshot
    | Events
    | LiveReasoning
    | Spawned
    | SessionStopped
    | RunnerStopping
    | MessageFate
    | Configured
    | Forked
    | Accepted
    | Failure
)
ToReaper = Welcome | Refused | HelloWanted | PeerUp | PeerDown | Watch | Unwatch | Accepted | Failure

_T = TypeVar("_T")
_encoder = msgspec.msgpack.Encoder()
_header_decoder = msgspec.msgpack.Decoder(Header)
FOR_CONTROL: msgspec.msgpack.Decoder[ControlRequest] = msgspec.msgpack.Decoder(ControlRequest)
FOR_CLI: msgspec.msgpack.Decoder[ControlReply] = msgspec.msgpack.Decoder(ControlReply)
FOR_BROKER: msgspec.msgpack.Decoder[ToBroker] = msgspec.msgpack.Decoder(ToBroker)
FOR_SESSION: msgspec.msgpack.Decoder[ToSession] = msgspec.msgpack.Decoder(ToSession)
FOR_HUB: msgspec.msgpack.Decoder[ToHub] = msgspec.msgpack.Decoder(ToHub)
FOR_REAPER: msgspec.msgpack.Decoder[ToReaper] = msgspec.msgpack.Decoder(ToReaper)


def encode(message: Any) -> bytes:
    """A header or body as bytes. Raises HapiError(too_large) for a body over MAX_BODY_BYTES."""
    data = _encoder.encode(message)
    if len(data) > MAX_BODY_BYTES:
        raise _too_large(len(data))
    return data


def encode_unlimited(message: Any) -> bytes:
    """A message as bytes whatever its size, for measuring it."""
    return _encoder.encode(message)


def decode_header(data: bytes) -> Header:
    """Raises HapiError(protocol_mismatch) for anything but a header of this protocol version."""
    if len(data) > MAX_HEADER_BYTES:
        raise HapiError(ErrorCode.PROTOCOL_MISMATCH, f"{len(data)} bytes are no {PROTOCOL} header.")
    try:
        return _header_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        hint = "Both ends must speak the same protocol: hapi runner restart"
        raise HapiError(ErrorCode.PROTOCOL_MISMATCH, f"Not a {PROTOCOL} header: {error}", hint) from None


def decode(decoder: msgspec.msgpack.Decoder[_T], data: bytes) -> _T:
    """One body for one receiver. Raises HapiError: too_large, or bad_request for bytes that are no such message."""
    if len(data) > MAX_BODY_BYTES:
        raise _too_large(len(data))
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise HapiError(ErrorCode.BAD_REQUEST, f"Not a message for this receiver: {error}") from None


def _too_large(size: int) -> HapiError:
    return HapiError(ErrorCode.TOO_LARGE, f"A message of {size} bytes is over the limit of {MAX_BODY_BYTES}.")
