"""Version handoff, the decisions: which build is which, and what a command does about a runner of another. Pure."""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from hapi import wire

Cause = Literal["heartbeat", "command", "start"]  # on whose account: `start` is a person's word

SOURCE = "version-handoff"  # what the hub is told of why the runner goes
_LEVEL_1_RESTART = "hapi-app"  # the only source after which a runner of level 1 asks its service manager for another
_ORDERED = re.compile(r"v?(\d+(?:\.\d+)*)(?:[-_.]?(dev|alpha|a|beta|b|rc|c|post)[-_.]?(\d*))?(?:\+.*)?")
_STAGES = {"dev": -4, "a": -3, "alpha": -3, "b": -2, "beta": -2, "c": -1, "rc": -1, None: 0, "post": 1}


class Build(msgspec.Struct, frozen=True):
    """One state of the code: two are the same when version and content are. Empty: it cannot be read."""

    version: str
    digest: str

    def __bool__(self) -> bool:
        return bool(self.version and self.digest)


class Choice(msgspec.Struct, frozen=True):
    """`use` the runner as it is, `replace` it, or `restart` it by its service manager. `why`: words for a person."""

    action: Literal["use", "replace", "restart"]
    why: str = ""


class Ours(msgspec.Struct, frozen=True):
    """The code that the command runs from, and whether its handoff is switched off."""

    build: Build
    install: str
    disabled: bool = False


def choose(status: wire.Status, ours: Ours, by: Cause) -> Choice:
    """What to do about the runner that answered.

    A person's `start` replaces any other code. A session command replaces only an older version, so that two
    installations side by side do not take turns, and restarts one that a service manager owns only if that would
    start this very installation.
    """
    if not _differs(status, ours.build, by):
        return Choice("use")
    why = _why_kept(status, ours, by)
    if why is not None:
        return Choice("use", why)
    return Choice("restart" if status.supervised else "replace")


def restart_source(status: wire.Status) -> str:
    """The source of a stop after which a supervised runner of that level comes back."""
    return SOURCE if status.protocol >= 2 else _LEVEL_1_RESTART


def _why_kept(status: wire.Status, ours: Ours, by: Cause) -> str | None:
    if ours.disabled:
        return "HAPI_DISABLE_VERSION_HANDOFF is set"
    if status.handoff_disabled:
        return "it was started with HAPI_DISABLE_VERSION_HANDOFF=1; hapi runner restart replaces it"
    if by != "start" and not older(status.version, ours.build.version):
        return "it is not older than this one"
    if by != "start" and status.supervised and status.install != ours.install:
        return "a service manager runs it from another installation"
    return None


def _differs(status: wire.Status, ours: Build, by: Cause) -> bool:
    if status.version != ours.version:
        return True
    return by == "start" and bool(ours.digest and status.fingerprint) and status.fingerprint != ours.digest


def older(one: str, other: str) -> bool:
    """Whether version `one` came before `other`; False when either cannot be understood."""
    first, second = _order(one), _order(other)
    return first is not None and second is not None and first < second


def _order(version: str) -> tuple[tuple[int, ...], int, int] | None:
    found = _ORDERED.fullmatch(version.strip().lower())
    if found is None:
        return None
    release = [int(number) for number in found[1].split(".")]
    while release and release[-1] == 0:
        release.pop()
    return tuple(release), _STAGES[found[2]], int(found[3] or 0)
