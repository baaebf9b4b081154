"""Names of things: sessions, namespaces, processes. Small frozen types and their validation; no I/O."""

from __future__ import annotations

import re
import uuid

import msgspec

from hapi.errors import ErrorCode, HapiError

DEFAULT_NAMESPACE = "default"
SESSION_MARK = "HAPI_SESSION_ID"  # in the environment of an agent and of all that it starts
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class ProcessId(msgspec.Struct, frozen=True):
    """Which process, for good: a pid alone is reused, pid + start ticks + boot id is not (docs/architecture.md).

    `start_ticks` is field 22 of /proc/PID/stat on Linux (clock ticks since boot); elsewhere the start time in
    hundredths of a second. `boot_id` names the boot it belongs to.
    """

    pid: int
    start_ticks: int
    boot_id: str


NOBODY = ProcessId(0, 0, "")  # stands for a process whose identity is lost; it is never alive


def new_session_id() -> str:
    """A fresh session id: a uuid4 in its usual text form."""
    return str(uuid.uuid4())


def session_id(text: str) -> str:
    """`text` as a canonical session id. Raises HapiError(bad_request) when it is not a uuid."""
    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise HapiError(ErrorCode.BAD_REQUEST, f"Not a session id: {text!r}", "A session id is a uuid.") from None


def namespace(text: str) -> str:
    """`text` if it can name a namespace (and its directory). Raises HapiError(bad_configuration) otherwise."""
    if not _NAMESPACE.fullmatch(text):
        hint = "Use 1 to 64 letters, digits, dots, dashes or underscores, beginning with a letter or a digit."
        raise HapiError(ErrorCode.BAD_CONFIGURATION, f"Not a namespace name: {text!r}", hint)
    return text


def split_token(token: str) -> tuple[str, str]:
    """(base, namespace) of a hub token, cut at the last colon; no colon means the default namespace.

    The hub refuses empty parts and blanks around them (docs/protocol of the hub, §1); so do we, with words.
    """
    base, colon, name = token.rpartition(":")
    if not colon:
        return token, DEFAULT_NAMESPACE
    if not base or not name or base != base.strip() or name != name.strip():
        raise HapiError(ErrorCode.BAD_CONFIGURATION, "The hub token is malformed.", "It is TOKEN or TOKEN:NAMESPACE.")
    return base, namespace(name)
