"""Session directories on disk: the truth about sessions when a runner starts.

    sessions/<uuid>/spec.json    what was asked, never rewritten      sessions/<uuid>/journal    see hapi.journal
    sessions/<uuid>/state.json   SessionInfo, replaced atomically     sessions/<uuid>/*.log      bounded
    sessions/<uuid>/untold.<n>   there while the hub has yet to hear of the end of generation n

The only writer of a directory is its supervisor, which holds `lock` there; a record whose supervisor is proven dead
is closed by the broker.
"""

from __future__ import annotations

import os
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

    def promise(self, generation: int) -> None:
        """From now on the hub is owed the end of that generation, whoever may die meanwhile. Raises OSError."""
        os.close(os.open(self._untold(generation), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def is_told(self, generation: int) -> bool:
        """Whether the hub has been told all of that generation, its end included."""
        return not self._untold(generation).exists()

    def told(self, generation: int) -> None:
        """The hub has been told all. Raises OSError."""
        self._untold(generation).unlink(missing_ok=True)

    def newest_promise(self) -> int:
        """The highest generation that the hub is still owed the end of; 0 for none."""
        found = [path.suffix[1:] for path in self.path.glob("untold.*")]
        return max((int(number) for number in found if number.isdigit()), default=0)

    def _untold(self, generation: int) -> Path:
        return self.path / f"untold.{generation}"

    def state_is_damaged(self) -> bool:
        """Whether what should be the record is none at all: missing, empty, no JSON object.

        False for what may be another user's, or the record of a newer build: that is not ours to replace.
        """
        try:
            content = msgspec.json.decode(self.state.read_bytes())
        except FileNotFoundError:
            return True
        except OSError:
            return False
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return True
        return not isinstance(content, dict) or "session_id" not in content

    def quarantine_state(self) -> Path:
        """Move a damaged record out of the way; returns where it is now. Raises OSError."""
        return quarantine(self.state)


def session_directories(sessions: Path) -> list[SessionDirectory]:
    """Every session directory under `sessions`; names that begin with a dot are skipped."""
    try:
        return [SessionDirectory(entry) for entry in sorted(sessions.iterdir()) if entry.name[0] != "."]
    except FileNotFoundError:
        return []
