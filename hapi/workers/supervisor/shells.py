"""Users' shells: what they get to see, and how one is started in a terminal."""

from __future__ import annotations

import os
import pwd
import subprocess
from collections.abc import Mapping

import msgspec

from hapi.errors import ErrorCode, HapiError
from hapi.wire import WorktreeInfo
from hapi.workers.supervisor.environment import agent_environment
from hapi.workers.supervisor.pty import Pty, terminal_environment

_SECRET_PARTS = (
    "PASSWORD", "PASSWD", "PASSPHRASE", "SSHPASS", "SECRET", "API_KEY", "APIKEY", "ACCESS_KEY", "PRIVATE_KEY"
)  # fmt: skip
_SECRET_ENDS = ("TOKEN", "_KEY", "_KEYS")
_PLACES = ("_DIR", "_FILE", "_PATH", "_HOME", "_COMMAND", "_PUBLIC_KEY")  # say where a secret lies, or are none
_LAST_RESORT = "/bin/sh"


class Habitat(msgspec.Struct, frozen=True):
    """Where the shells of a session live: its directory, their environment, the user's umask."""

    directory: str
    environment: dict[str, str]
    umask: int = 0o022


def shell_environment(base: Mapping[str, str], session_id: str, worktree: WorktreeInfo | None) -> dict[str, str]:
    """What a shell gets to see: as the agent, without anybody's tokens, passwords and keys. Pure."""
    kept = {key: value for key, value in base.items() if not is_secret(key)}
    return terminal_environment(agent_environment(kept, session_id, {}, worktree))


def is_secret(name: str) -> bool:
    """Whether a variable of that name holds what must not lie open in a browser."""
    upper = name.upper()
    parts = "TOKEN" in upper.split("_") or any(part in upper for part in _SECRET_PARTS)
    return (parts or upper.endswith(_SECRET_ENDS)) and not upper.endswith(_PLACES)


def shell(environment: Mapping[str, str]) -> str:
    """The user's shell: `$SHELL`, else that of the user's entry, else /bin/sh."""
    for path in (environment.get("SHELL"), _own_entry()):
        if path and os.path.isabs(path) and os.access(path, os.X_OK):
            return path
    return _LAST_RESORT


def start(habitat: Habitat, pty: Pty) -> subprocess.Popen[bytes]:
    """Run the user's shell in a terminal. Raises HapiError: bad_directory, or agent_unavailable."""
    program = shell(habitat.environment)
    environment = habitat.environment | {"SHELL": program}
    try:
        return subprocess.Popen([program], cwd=habitat.directory, env=environment, umask=habitat.umask, **pty.child())
    except (OSError, subprocess.SubprocessError) as error:
        gone = isinstance(error, OSError) and error.filename == habitat.directory
        code = ErrorCode.BAD_DIRECTORY if gone else ErrorCode.AGENT_UNAVAILABLE
        raise HapiError(code, f"Cannot run {program} in {habitat.directory}: {error}.") from None


def _own_entry() -> str | None:
    try:
        return pwd.getpwuid(os.getuid()).pw_shell
    except KeyError:
        return None
