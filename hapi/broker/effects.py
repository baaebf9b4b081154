"""What the broker's decisions ask of the world. `core` makes these, `app` carries them out; nothing else happens."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

import msgspec

from hapi.handoff import Build
from hapi.wire import SessionInfo


class Ending(StrEnum):
    """What comes after a broker: nothing, another one by its service manager, or the installed code in its place."""

    STOP = "stop"
    RESTART = "restart"
    REPLACE = "replace"


class ReplyTo(msgspec.Struct, frozen=True):
    """Where the answer to a request goes: a CLI's connection (`control`) or a worker's (`bus`)."""

    channel: Literal["control", "bus"]
    identity: bytes
    sender: str
    request: int


class Answer(msgspec.Struct, frozen=True):
    """Answer a request."""

    to: ReplyTo
    body: Any


class Send(msgspec.Struct, frozen=True):
    """Tell a peer something; `request` is not 0 when it shall answer."""

    identity: bytes
    to: str
    body: Any
    request: int = 0


class ForkSession(msgspec.Struct, frozen=True):
    """Have the nursery fork a supervisor."""

    session_id: str


class CloseRecord(msgspec.Struct, frozen=True):
    """Write the end of a session whose supervisor cannot any more."""

    info: SessionInfo


class WriteReport(msgspec.Struct, frozen=True):
    """Bring `runner.state.json` up to date."""


class CheckInstalled(msgspec.Struct, frozen=True):
    """Find out whether the installed code may and could take over."""

    build: Build


class HandOver(msgspec.Struct, frozen=True):
    """Let the installed code take over, if the breaker still allows it."""

    build: Build


class Quit(msgspec.Struct, frozen=True):
    """End the broker and its workers; sessions live on. `ending`: what the process does then."""

    ending: Ending = Ending.STOP


Effect = Answer | Send | ForkSession | CloseRecord | WriteReport | CheckInstalled | HandOver | Quit
