"""Session directories on disk: the truth about sessions when a runner starts.

    sessions/<uuid>/spec.json    what was asked, never rewritten      sessions/<uuid>/journal    see hapi.journal
    sessions/<uuid>/state.json   SessionInfo, replaced atomically     sessions/<uuid>/*.log      bounded

The only writer of a directory is its supervisor, which holds `lock` there; a record whose supervisor is proven dead
is closed by the broker.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hapi.errors import ErrorCode, HapiError
from hapi.files import quarantine, write_atomic
from hapi.wire import SessionInfo, Spawn

_spec_decoder = msgspec.json.Decoder(Spawn)
_state_decoder = msgspec.json.Decoder(SessionInfo)


class SessionDirectory:
    """One session's directory. Computing paths creates nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "spec.json"
        self.state = path / "state.json"
        self.journal = path / "journal"
        self.lock = path / "lock"
        self.log = path / "session.log"
        self.agent_log = path / "agent.log"

    def create(self) -> None:
        """Make the directory, mode 0700. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write_spec(self, spec: Spawn) -> None:
        """Keep what was asked, once; the caller's environment is left out (it may hold secrets). Raises OSError."""
        if not self.spec.exists():
            bare = msgspec.structs.replace(spec, env=None)
            write_atomic(self.spec, msgspec.json.format(msgspec.json.encode(bare)), durable=False)

    def read_spec(self) -> Spawn:
        """What was asked. Raises HapiError(state_unreadable) for a file that is missing or damaged."""
        try:
            return _spec_decoder.decode(self.spec.read_bytes())
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise HapiError(ErrorCode.STATE_UNREADABLE, f"{self.spec}: {error}") from None

    def write_state(self, info: SessionInfo, *, durable: bool = True) -> None:
        """Replace the record. Raises OSError; then the old one stays."""
        write_atomic(self.state, msgspec.json.encode(info), durable=durable)

    def read_state(self) -> SessionInfo:
        """The record. Raises HapiError(state_unreadable) for a file that is missing or damaged."""
        try:
            return _state_decoder.decode(self.state.read_bytes())
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise HapiError(ErrorCode.STATE_UNREADABLE, f"{self.state}: {error}") from None

    def quarantine_state(self) -> Path:
        """Move a damaged record out of the way; returns where it is now. Raises OSError."""
        return quarantine(self.state)


def session_directories(sessions: Path) -> list[SessionDirectory]:
    """Every session directory under `sessions`; names that begin with a dot are skipped."""
    try:
        return [SessionDirectory(entry) for entry in sorted(sessions.iterdir()) if entry.name[0] != "."]
    except FileNotFoundError:
        return []
