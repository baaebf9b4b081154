"""What broker and nursery say to each other over their pipe."""

from __future__ import annotations

import msgspec


class Fork(msgspec.Struct, tag="fork", frozen=True):
    """Fork a process: kind `hub`, `reaper` or `session`; `name` is the session's id."""

    kind: str
    name: str = ""


class Forked(msgspec.Struct, tag="forked", frozen=True):
    """It runs under `pid`."""

    kind: str
    name: str
    pid: int


class ForkFailed(msgspec.Struct, tag="fork_failed", frozen=True):
    """It could not be forked: the kernel's words."""

    kind: str
    name: str
    error: str


class Exited(msgspec.Struct, tag="exited", frozen=True):
    """It has ended; `code` is negative for a signal."""

    kind: str
    name: str
    pid: int
    code: int


FromNursery = Forked | ForkFailed | Exited
