"""Where everything lies under `$HAPI_HOME` (docs/configuration.md has the picture), and the sockets' addresses."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from hapi.errors import ErrorCode, HapiError
from hapi.ids import DEFAULT_NAMESPACE

SUN_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_LONGEST_SOCKET_NAME = "broker.sock"
_TERMINAL_DIGITS = len(_LONGEST_SOCKET_NAME) - 1


class Paths:
    """Every path of one namespace. Computes only; creates nothing."""

    def __init__(self, home: Path, namespace: str = DEFAULT_NAMESPACE) -> None:
        self.home = home
        self.namespace = namespace
        self.root = home if namespace == DEFAULT_NAMESPACE else home / "namespaces" / namespace
        self.settings = self.root / "settings.json"
        self.home_settings = home / "settings.json"
        self.state = self.root / "runner.state.json"
        self.lock = self.root / "runner.state.json.lock"
        self.handoffs = self.root / "handoffs.json"
        self.recent = self.root / "recent.json"
        self.sessions = self.root / "sessions"
        self.logs = self.root / "logs"
        self.run = _socket_directory(self.root)
        self.control_endpoint = f"ipc://{self.run}/broker.sock"
        self.bus_endpoint = f"ipc://{self.run}/bus.sock"

    def log(self, process: str) -> Path:
        """The log file of one of the runner's processes: runner, hub, reaper or nursery."""
        return self.logs / f"{process}.log"

    def session(self, session_id: str) -> Path:
        """The directory of one session."""
        return self.sessions / session_id

    def terminal_socket(self, session_id: str) -> Path:
        """Where a session's supervisor lets terminals attach. The name is no longer than the other sockets' names."""
        return self.run / f"t{session_id.replace('-', '')[:_TERMINAL_DIGITS]}"

    def make_private(self) -> None:
        """Create the directories that a runner writes to, mode 0700 whatever the umask.

        Raises HapiError(bad_configuration) when that is impossible, or when the sockets' directory is somebody else's.
        """
        for directory in (self.home, self.root, self.sessions, self.logs):
            _make_private(directory)
        _make_private(self.run, may_be_link=False)


def all_namespaces(home: Path) -> list[str]:
    """The namespaces that have a directory under `home`, the default one first."""
    try:
        names = sorted(entry.name for entry in (home / "namespaces").iterdir() if entry.is_dir())
    except FileNotFoundError:
        names = []
    return [DEFAULT_NAMESPACE, *names]


def _socket_directory(root: Path) -> Path:
    """`root/run`, or a short hashed directory when the socket's path would not fit into `sun_path`."""
    natural = root / "run"
    if len(os.fsencode(natural / _LONGEST_SOCKET_NAME)) <= SUN_PATH_BYTES:
        return natural
    import hashlib  # late: needed for long paths only, and it costs every command milliseconds

    digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and len(os.fsencode(runtime)) <= SUN_PATH_BYTES - 40:
        return Path(runtime) / f"hapi-{digest}"
    return Path(f"/tmp/hapi-{os.getuid()}-{digest}")  # noqa: S108 - owner and mode are checked by make_private


def _make_private(directory: Path, *, may_be_link: bool = True) -> None:
    hint = "HAPI_HOME must be a directory of yours that you may write to."
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
        if directory.is_symlink() and not may_be_link:
            raise HapiError(ErrorCode.BAD_CONFIGURATION, f"{directory} is a symbolic link.", "Remove it.")
        if status.st_uid != os.getuid():
            raise HapiError(ErrorCode.BAD_CONFIGURATION, f"{directory} belongs to another user.", hint)
        if not directory.is_symlink() and status.st_mode & 0o077:
            directory.chmod(0o700)
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            raise OSError(errno.EACCES, "it must be readable and writable for us")
    except OSError as error:
        raise HapiError(ErrorCode.BAD_CONFIGURATION, f"Cannot use {directory}: {error.strerror}", hint) from None
