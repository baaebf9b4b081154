"""What can go wrong, as types.

    HapiError                 an error with a code, a sentence and a hint; the only kind that crosses the wire
    └── NotRunning            nobody answers on the broker's socket (exit status 3)

An exit status tells a script who has to act: 0 done · 1 the user can fix it · 2 wrong usage · 3 the runner is
not running · 4 our fault. `EXIT_STATUS` is the only place where a code becomes a status.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Why something failed. The values are part of the JSON contract (docs/cli.md)."""

    BAD_REQUEST = "bad_request"
    BAD_CONFIGURATION = "bad_configuration"
    USAGE = "usage"
    NOT_RUNNING = "not_running"
    TIMEOUT = "timeout"
    UNSUPPORTED_PLATFORM = "unsupported_platform"
    PROTOCOL_MISMATCH = "protocol_mismatch"
    TOO_LARGE = "too_large"
    UNKNOWN_SESSION = "unknown_session"
    AMBIGUOUS_SESSION = "ambiguous_session"
    SESSION_ENDED = "session_ended"
    STILL_ALIVE = "still_alive"
    STOPPED_DURING_START = "stopped_during_start"
    SHUTTING_DOWN = "shutting_down"
    AT_CAPACITY = "at_capacity"
    UNKNOWN_AGENT = "unknown_agent"
    AGENT_UNAVAILABLE = "agent_unavailable"
    AGENT_FAILED = "agent_failed"
    AGENT_TIMEOUT = "agent_timeout"
    BAD_DIRECTORY = "bad_directory"
    OUTSIDE_WORKSPACE_ROOTS = "outside_workspace_roots"
    DIRECTORY_APPROVAL_REQUIRED = "directory_approval_required"
    WORKTREE_FAILED = "worktree_failed"
    START_FAILED = "start_failed"
    ALREADY_RUNNING = "already_running"
    CONNECTION_LOST = "connection_lost"
    STATE_UNREADABLE = "state_unreadable"
    NO_LOGS = "no_logs"
    HUB_REFUSED = "hub_refused"
    MISSING_TOOL = "missing_tool"
    SERVICE_MANAGER = "service_manager"
    NOT_OURS = "not_ours"
    DISK = "disk"
    INTERNAL = "internal"


EXIT_OK, EXIT_USER, EXIT_USAGE, EXIT_NOT_RUNNING, EXIT_INTERNAL = range(5)

_STATUS = {
    ErrorCode.USAGE: EXIT_USAGE,
    ErrorCode.NOT_RUNNING: EXIT_NOT_RUNNING,
    ErrorCode.INTERNAL: EXIT_INTERNAL,
}


def exit_status(code: str) -> int:
    """The process exit status for an error code; codes that a newer peer invented count as the user's to fix."""
    try:
        return _STATUS.get(ErrorCode(code), EXIT_USER)
    except ValueError:
        return EXIT_USER


class HapiError(Exception):
    """A failure that a person can read: `code` for programs, `message` for people, `hint` says what to do."""

    def __init__(self, code: ErrorCode, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint

    @property
    def words(self) -> str:
        """Message and hint, for where there is one place for both."""
        ended = self.message.endswith((".", "!", "?", ":", "…")) or not self.hint
        return f"{self.message}{'' if ended else '.'} {self.hint}".strip()


class NotRunning(HapiError):
    """No broker answers. `hapi runner start` mends it."""

    def __init__(self, message: str = "The runner is not running.", hint: str = "Start it: hapi runner start") -> None:
        super().__init__(ErrorCode.NOT_RUNNING, message, hint)
