"""Which agents were used last: for the order in which they are offered. Losing it costs nobody anything."""

from __future__ import annotations

import contextlib

from hapi import settings
from hapi.errors import HapiError
from hapi.paths import Paths

_KEPT = 20
_KEY = "agents"


def recent(paths: Paths) -> list[str]:
    """The agents used in this namespace, the last one first; [] when that is not known."""
    with contextlib.suppress(HapiError):
        found = settings.read(paths.recent).get(_KEY)
        return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
    return []


def used(paths: Paths, agent: str) -> None:
    """Remember that this one was used now, if that is possible."""
    names = [agent, *(name for name in recent(paths) if name != agent)]
    with contextlib.suppress(HapiError):
        settings.update(paths.recent, {_KEY: names[:_KEPT]})
