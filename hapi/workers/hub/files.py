"""Reading, listing and looking at files of a session (§5.10). Blocking: call it in a thread.

Every answer is bounded: a file travels as base64 in one frame of the hub's, which holds 48 MiB.
"""

from __future__ import annotations

import base64
import heapq
import os
import stat
from typing import Any

from hapi.workers.hub import names
from hapi.workers.hub.confined import Outside, Unusable, is_inside, locate, open_inside

MAX_READ = 32 << 20
MAX_ENTRIES = 5000
MAX_STATS = 500


def read_file(root: str, path: str) -> dict[str, Any]:
    """The answer to `readFile`. Raises HapiError: Outside, Unusable, also for a file of more than MAX_READ bytes."""
    fd = open_inside(root, path)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Unusable(path, "It is a directory.")
        if status.st_size > MAX_READ:
            raise _too_large(path, status.st_size)
        content = _read(fd, status.st_size)
    except OSError as error:
        raise Unusable(path, f"{error.strerror}.") from None
    finally:
        os.close(fd)
    if content is None:
        raise Unusable(path, f"It grew beyond {MAX_READ >> 20} MiB while it was read.")
    return {
        "success": True,
        "content": base64.b64encode(content).decode(),
        "size": len(content),
        "modified": _milliseconds(status),
    }


def list_directory(root: str, path: str) -> dict[str, Any]:
    """The answer to `listDirectory`: directories first, MAX_ENTRIES at most. Raises Outside, Unusable."""
    fd = open_inside(root, path)
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            raise Unusable(path, "It is not a directory.")
        place, inside = locate(root, path), os.path.realpath(root)
        with os.scandir(fd) as found:
            lines = (_entry(inside, place, fd, item.name) for item in found)
            entries = heapq.nsmallest(MAX_ENTRIES, lines, key=_rank)  # holds no more than that
    except OSError as error:
        raise Unusable(path, f"{error.strerror}.") from None
    finally:
        os.close(fd)
    return {"success": True, "entries": entries}


def stat_files(root: str, paths: list[str]) -> dict[str, Any]:
    """The answer to `statFiles`: size and time of each path that is a file or directory inside; the others bare."""
    return {"success": True, "entries": [_stat_entry(root, path) for path in paths[:MAX_STATS]]}


def _stat_entry(root: str, path: str) -> dict[str, Any]:
    try:
        status = os.lstat(locate(root, path))
    except (Outside, Unusable, OSError):
        return {"path": path}
    plain = stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)
    return {"path": path, **_facts(status)} if plain else {"path": path}


def _entry(root: str, place: str, fd: int, name: str) -> dict[str, Any]:
    """A line of the listing; a link is what it leads to if that is inside, else `other`, which the web does not show."""
    entry: dict[str, Any] = {"name": names.shown(name), "type": "other"}
    try:
        status = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            real = os.path.realpath(os.path.join(place, name))
            if not is_inside(real, root):
                return entry
            status = os.lstat(real)
    except OSError:  # gone meanwhile, a loop, or may not be looked at
        return entry
    if stat.S_ISDIR(status.st_mode):
        return {**entry, "type": "directory", **_facts(status)}
    return {**entry, "type": "file", **_facts(status)} if stat.S_ISREG(status.st_mode) else entry


def _rank(entry: dict[str, Any]) -> tuple[bool, str, str]:
    return entry["type"] != "directory", entry["name"].casefold(), entry["name"]


def _facts(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "modified": _milliseconds(status)}


def _milliseconds(status: os.stat_result) -> int:
    return status.st_mtime_ns // 1_000_000


def _read(fd: int, expected: int) -> bytes | None:
    """All of the file; None when it turns out longer than MAX_READ."""
    pieces: list[bytes] = []
    left = MAX_READ + 1
    while left and (piece := os.read(fd, min(left, max(expected + 1, 65536)))):
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces) if left else None


def _too_large(path: str, size: int) -> Unusable:
    return Unusable(path, f"It has {size / (1 << 20):.1f} MiB; files of up to {MAX_READ >> 20} MiB can be shown here.")
