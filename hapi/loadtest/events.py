"""The hub's stream of events, read for what agents say and for nothing else."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from hapi.loadtest.side import Heard

REMEMBERED = 64  # rows of a session that may be told again: as many as the connector sends the hub at a time
_AGENT_ROWS = re.compile(rb'^data: (\{"type":"message-received".*"role":"agent".*"type":"message".*)$', re.MULTILINE)
_EVENT_IDS = re.compile(rb"^id: (.+)$", re.MULTILINE)


class _Data(msgspec.Struct):
    type: str = ""
    message: Any = None


class _Words(msgspec.Struct):
    type: str = ""
    data: _Data = msgspec.field(default_factory=_Data)


class _Content(msgspec.Struct):
    role: str = ""
    content: Any = None


class Row(msgspec.Struct):
    """A row of a chat, as far as it matters here."""

    content: _Content = msgspec.field(default_factory=_Content)
    seq: int = 0
    id: str = ""

    def words(self) -> str | None:
        """What an agent says in it; None for any other row."""
        if self.content.role != "agent":
            return None
        try:
            said = msgspec.convert(self.content.content, _Words)
        except msgspec.ValidationError:
            return None
        whole = said.type == "codex" and said.data.type == "message" and isinstance(said.data.message, str)
        return said.data.message if whole else None


class _Received(msgspec.Struct, rename="camel"):
    session_id: str = ""
    message: Row = msgspec.field(default_factory=Row)


_decoder = msgspec.json.Decoder(_Received)


class Hearing:
    """Bytes of the stream in, an agent's words out, once per row of the chat.

    A row that the connector sends again, after it was killed for instance, is stored once under its `localId`, but told
    again (seen with the hub's version 0.30.7): so rows are known by their ids for a while.
    """

    def __init__(self, heard: Heard) -> None:
        self.last_id = ""
        self._heard = heard
        self._rest = b""
        self._rows: dict[str, dict[str, None]] = {}

    def take(self, chunk: bytes) -> None:
        """Read on. Of some thirty events per message one is of interest: a pattern finds it, only that is decoded."""
        whole, newline, self._rest = (self._rest + chunk).rpartition(b"\n")
        if not newline:
            return
        for found in _AGENT_ROWS.finditer(whole):
            received = _decoder.decode(found.group(1))
            words = received.message.words()
            if words is not None and self._is_new(received):
                self._heard(received.session_id, words)
        ids = _EVENT_IDS.findall(whole[whole.rfind(b"\nid: ") + 1 :])
        if ids:
            self.last_id = ids[-1].decode()

    def restart(self) -> None:
        """The stream broke off; what was read of a line is not to be had again."""
        self._rest = b""

    def _is_new(self, received: _Received) -> bool:
        rows = self._rows.setdefault(received.session_id, {})
        if received.message.id in rows:
            return False
        rows[received.message.id] = None
        if len(rows) > REMEMBERED:
            del rows[next(iter(rows))]
        return True
