"""The configuration as the nursery read it, for its children: they read it again only when a file has changed.

Reading it is a twentieth of what a new session touches of the memory that it shares with all others until then.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from hapi import config
from hapi.errors import HapiError
from hapi.paths import Paths

_GRAIN_NS = 1_000_000_000  # two changes within less may get the same time from a file system
_Stamp = tuple[int, int, int] | None  # of a file: which, when changed, how long; None where there is none


class _Known:
    """What was read, and from which files as they were before."""

    def __init__(self, namespace: str) -> None:
        self._files = [str(path) for path in _files(namespace)]
        self._stamps = self._look()
        self._trusted = all(stamp is None or time.time_ns() - stamp[1] >= _GRAIN_NS for stamp in self._stamps)
        self.configuration = config.load(namespace)

    def is_current(self) -> bool:
        return self._trusted and self._look() == self._stamps

    def _look(self) -> list[_Stamp]:
        return [_stamp(file) for file in self._files]


_known: dict[str, _Known] = {}


def remember(namespace: str) -> None:
    """Read the configuration ahead, before the fork; one that cannot be read is left to who needs it."""
    with contextlib.suppress(HapiError):
        _known[namespace] = _Known(namespace)


def load(namespace: str) -> config.Config:
    """As `config.load`, for the environment that this process began with."""
    known = _known.get(namespace)
    return known.configuration if known is not None and known.is_current() else config.load(namespace)


def _files(namespace: str) -> list[Path]:
    paths = Paths(config.home_directory(), namespace)
    return [paths.home_settings, paths.settings]


def _stamp(file: str) -> _Stamp:
    try:
        status = os.stat(file)
    except OSError:  # a file that cannot be read is reported by who reads it
        return None
    return status.st_ino, status.st_ctime_ns, status.st_size  # unlike mtime, ctime cannot be set back
