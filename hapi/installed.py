"""What is installed: hapi's version and a digest of its code, read from disk without importing it.

A changed time stamp is not another version: contents are compared. A file is read again only when its time stamps,
size or inode changed, so that a look costs about a millisecond.
"""

from __future__ import annotations

import os
import re

from hapi.handoff import Build

PACKAGE = os.path.dirname(os.path.abspath(__file__))  # not resolved: an upgrade may turn a link around
_VERSION = re.compile(rb"^__version__\s*=\s*[\"']([^\"'\s]+)[\"']", re.MULTILINE)


class Installed:
    """The package in one directory. Keep it to look again cheaply."""

    def __init__(self, package: str = PACKAGE) -> None:
        self._package = package
        self._known: dict[str, tuple[tuple[int, ...], bytes]] = {}

    @property
    def newest_ms(self) -> int:
        """When the newest file of the last look was written (Unix ms); 0 before a look."""
        return max((state[0] for state, _ in self._known.values()), default=0) // 1_000_000

    def look(self) -> Build:
        """What is there now; an empty Build when it is missing, unreadable, or has no version."""
        import hashlib  # late: it costs every command milliseconds

        whole = hashlib.sha256()
        known, self._known = self._known, {}
        try:
            for path, state in sorted(_sources(self._package)):
                cached = known.get(path)
                if cached is None or cached[0] != state:
                    cached = (state, hashlib.sha256(_read(path)).digest())
                self._known[path] = cached
                whole.update(os.fsencode(path.removeprefix(self._package)) + b"\0" + cached[1])
            found = _VERSION.search(_read(os.path.join(self._package, "__init__.py")))
        except OSError:
            return Build("", "")
        return Build(found[1].decode(errors="replace"), whole.hexdigest()[:16]) if found else Build("", "")


def _sources(directory: str) -> list[tuple[str, tuple[int, ...]]]:
    """The Python files below `directory`, each with what changes when it is written. Raises OSError."""
    found: list[tuple[str, tuple[int, ...]]] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found += _sources(entry.path) if entry.name != "__pycache__" else []
            elif entry.name.endswith(".py"):
                status = entry.stat()
                found.append((entry.path, (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)))
    return found


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
