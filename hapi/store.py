"""Session directories on disk: the truth about sessions when a runner starts.

    sessions/<uuid>/spec.json    what was asked, never rewritten      sessions/<uuid>/journal    see hapi.journal
    sessions/<uuid>/state.json   SessionInfo, replaced atomically     sessions/<uuid>/*.log      bounded
    sessions/<uuid>/moment.json  what of it is so just now; laid over the record, never synced
    sessions/<uuid>/untold.<n>   there while the hub has yet to hear of the end of generation n
    sessions/<uuid>/transcript   see hapi.transcript; bounded
    sessions/<uuid>/uploads/     what the web attached to messages; written by the hub connector
    sessions/<uuid>/scrollback   the text that was in its terminal when that ended, bounded
    sessions/<uuid>/hub          which hub has a row of it: when that one came to know this machine (Unix ms)

The only writer of the rest is its supervisor, which holds `lock` there; a record whose supervisor is proven dead
is closed by the broker.
"""

from __future__ import annotations

import errno
import os
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

from hapi import __version__
from hapi.errors import ErrorCode, HapiError
from hapi.files import NotAFile, overwrite, quarantine, read_file, replace, write_atomic
from hapi.lifecycle import READY, Phase
from hapi.wire import SessionInfo, Spawn

_spec_decoder = msgspec.json.Decoder(Spawn)
_state_decoder = msgspec.json.Decoder(SessionInfo)
_NOT_JSON = (NotAFile, msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Fault(StrEnum):
    """What is wrong with a record. Only `damaged` means that its content is lost."""

    MISSING = "missing"
    DAMAGED = "damaged"
    REFUSED = "refused"  # the system does not let us read it: it may be sound
    NEWER = "newer"  # JSON that another version wrote and this one does not understand


class StateUnreadable(HapiError):
    """A record that cannot be read, and why."""

    def __init__(self, path: Path, fault: Fault, why: object) -> None:
        super().__init__(ErrorCode.STATE_UNREADABLE, f"{path}: {why}")
        self.fault = fault


class _Moment(msgspec.Struct):
    """What is so at the moment and is gone in the next: too fleeting for a synced record."""

    generation: int
    phase: Phase
    queued: int = 0
    last_words: str | None = None


_moment_decoder = msgspec.json.Decoder(_Moment)
SCROLLBACK_BYTES = 512 * 1024
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SessionDirectory:
    """One session's directory. Computing paths creates nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec = path / "spec.json"
        self.state = path / "state.json"
        self.moment = path / "moment.json"
        self.journal = path / "journal"
        self.lock = path / "lock"
        self.log = path / "session.log"
        self.agent_log = path / "agent.log"
        self.scrollback = path / "scrollback"
        self.transcript = path / "transcript"
        self.uploads = path / "uploads"
        self._hub = path / "hub"

    def create(self) -> None:
        """Make the directory, mode 0700. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write_spec(self, spec: Spawn) -> None:
        """Keep what was asked, once; the caller's environment is left out (it may hold secrets). Raises OSError.

        It survives a power cut once the record is written, which syncs the directory for both.
        """
        if not self.spec.exists():
            bare = msgspec.structs.replace(spec, env=None)
            os.close(replace(self.spec, msgspec.json.format(msgspec.json.encode(bare))))

    def read_spec(self) -> Spawn:
        """What was asked. Raises HapiError(state_unreadable) for a file that is missing or damaged."""
        try:
            return _spec_decoder.decode(read_file(self.spec))
        except (OSError, *_NOT_JSON) as error:
            raise HapiError(ErrorCode.STATE_UNREADABLE, f"{self.spec}: {error}") from None

    def write_state(self, info: SessionInfo) -> None:
        """Replace the record. Raises OSError; then the old one stays.

        How a session ended is written over the old record when the disk has no room for a new one.
        """
        self._replace_state(msgspec.json.encode(info), ends=info.phase is Phase.ENDED)

    def _replace_state(self, data: bytes, *, ends: bool) -> None:
        try:
            write_atomic(self.state, data)
        except OSError as error:
            if not ends or error.errno not in _FULL:
                raise
            overwrite(self.state, data)

    def write_moment(self, info: SessionInfo) -> None:
        """Put down at what a session is that is up, for who reads its record. Never synced. Raises OSError."""
        moment = _Moment(info.generation, info.phase, info.queued, info.last_words)
        write_atomic(self.moment, msgspec.json.encode(moment), durable=False)

    def close_state(self, info: SessionInfo) -> None:
        """Record the end of a session whose supervisor is dead, keeping what a newer version wrote besides.

        Raises OSError; then the old record stays, and says the same at the next start.
        """
        known = {field.encode_name for field in msgspec.structs.fields(SessionInfo)}
        foreign = {key: value for key, value in self._raw_state().items() if key not in known}
        self._replace_state(msgspec.json.encode(foreign | msgspec.to_builtins(info)), ends=True)

    def read_state(self) -> SessionInfo:
        """The record, with what is so at the moment. Raises StateUnreadable with the fault."""
        try:
            return self._at_the_moment(_state_decoder.decode(read_file(self.state)))
        except FileNotFoundError as error:
            raise StateUnreadable(self.state, Fault.MISSING, error) from None
        except _NOT_JSON as error:
            writer = self._raw_state().get("version")
            newer = isinstance(writer, str) and writer not in {"", __version__}
            raise StateUnreadable(self.state, Fault.NEWER if newer else Fault.DAMAGED, error) from None
        except OSError as error:
            raise StateUnreadable(self.state, Fault.REFUSED, error) from None

    def _at_the_moment(self, info: SessionInfo) -> SessionInfo:
        if info.phase not in READY:
            return info
        try:
            moment = _moment_decoder.decode(read_file(self.moment))
        except (OSError, *_NOT_JSON):
            return info
        if moment.generation != info.generation or moment.phase not in READY:
            return info
        phase, queued, last_words = moment.phase, moment.queued, moment.last_words
        return msgspec.structs.replace(info, phase=phase, queued=queued, last_words=last_words)

    def last_generation(self) -> int:
        """How often this session was started, as far as its files tell, damaged records too; 0 for a new one."""
        records = [self._raw_state(path) for path in (self.state, *self._named(f"{self.state.name}.bad-"))]
        counts = [count for record in records if isinstance(count := record.get("generation"), int)]
        return max([*counts, int(self.spec.exists())])

    def _raw_state(self, path: Path | None = None) -> dict[str, Any]:
        """What the file holds if it is a JSON object, else {}."""
        try:
            return msgspec.json.decode(read_file(path or self.state), type=dict[str, Any])
        except (OSError, *_NOT_JSON):
            return {}

    def promise(self, generation: int) -> None:
        """From now on the hub is owed the end of that generation, whoever may die meanwhile; not that of older ones,
        for the session goes on. Raises OSError.
        """
        os.close(os.open(self._untold(generation), os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        for path in self._named("untold."):
            if path != self._untold(generation):
                path.unlink(missing_ok=True)

    def is_told(self, generation: int) -> bool:
        """Whether the hub has been told all of that generation, its end included."""
        return not self._untold(generation).exists()

    def told(self, generation: int) -> None:
        """The hub has been told all. Raises OSError."""
        self._untold(generation).unlink(missing_ok=True)

    def newest_promise(self) -> int:
        """The highest generation that the hub is still owed the end of; 0 for none."""
        found = [path.suffix[1:] for path in self._named("untold.")]
        return max((int(number) for number in found if number.isdigit()), default=0)

    def hub(self) -> int | None:
        """The hub that is known to have a row of this session, by when it came to know this machine; None for none."""
        try:
            return int(read_file(self._hub))
        except (OSError, NotAFile, ValueError):
            return None

    def note_hub(self, known_since: int) -> None:
        """That hub has a row of this session now. A session without a directory is not noted. Raises OSError."""
        if self.path.is_dir() and self.hub() != known_since:
            write_atomic(self._hub, str(known_since).encode())

    def keep_scrollback(self, text: str) -> None:
        """Keep the text of a terminal that ended, its last SCROLLBACK_BYTES. Raises OSError."""
        data = text.encode(errors="replace")[-SCROLLBACK_BYTES:]
        write_atomic(self.scrollback, data.decode(errors="ignore").encode())

    def _untold(self, generation: int) -> Path:
        return self.path / f"untold.{generation}"

    def _named(self, beginning: str) -> list[Path]:
        """The files whose names begin so; none where the directory cannot be read. Every session asks: no patterns."""
        try:
            return [self.path / name for name in os.listdir(self.path) if name.startswith(beginning)]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return []

    def quarantine_state(self) -> Path:
        """Move a damaged record out of the way; returns where it is now. Raises OSError."""
        return quarantine(self.state)


def session_directories(sessions: Path) -> list[SessionDirectory]:
    """Every session directory under `sessions`; names that begin with a dot are skipped."""
    try:
        return [SessionDirectory(entry) for entry in sorted(sessions.iterdir()) if entry.name[0] != "."]
    except FileNotFoundError:
        return []
