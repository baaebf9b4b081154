"""Finding a session's files by name (§5.10 `ripgrep`): with rg, else git, else by walking.

Whoever lists them, the answer is the same: regular files, no hidden ones, nothing that git ignores as far as that is
known, ordered by directory. What the hub sends as `args` is never executed.
"""

from __future__ import annotations

import fnmatch
import heapq
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from hapi.clock import monotonic
from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub import names, programs
from hapi.workers.hub.confined import resolve

MAX_QUERY = 1000
MAX_FOUND = 500
MAX_LISTING = 64 << 20
MAX_WALKED = 200_000
WALK_TIMEOUT_S = 10.0
_PASSED_OVER = frozenset({"node_modules", "__pycache__", "venv", "bower_components"})
_LIST_TRACKED = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--deduplicate")


class FileSearch(msgspec.Struct):
    """What to look for: part of a path, or with `*` and `?` all of it, in any case; empty for all files."""

    query: str = ""
    limit: int = 200


class SearchParams(msgspec.Struct, rename="camel"):
    """What `ripgrep` is given, as far as it is looked at."""

    cwd: str | None = None
    file_search: FileSearch | None = None


class Search:
    """One search. `__init__` and `answer` block: they are for a thread. Raises Outside, HapiError(bad_request)."""

    def __init__(self, root: str, asked: SearchParams) -> None:
        if asked.file_search is None or len(asked.file_search.query) > MAX_QUERY:
            raise HapiError(ErrorCode.BAD_REQUEST, f"Only files are searched, by up to {MAX_QUERY} characters.")
        self._place = resolve(root, asked.cwd or "")
        self._wanted = matcher(asked.file_search.query)
        self._rg, self._git = programs.find("rg"), programs.find("git")
        self._limit = max(1, min(asked.file_search.limit, MAX_FOUND))

    async def listed(self) -> bytes | None:
        """The files as rg or git lists them, each with a NUL behind it; None when neither can. Raises HapiError."""
        if self._rg is not None:
            command = [self._rg, "--no-config", "--files", "--null", "--no-messages", "--no-follow"]
            found = await programs.run(command, self._place, {}, MAX_LISTING)
            if found.out or found.code in (0, 1):
                return found.out
        if self._git is None:
            return None
        safe = [self._git, "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "safe.bareRepository=explicit"]
        found = await programs.run([*safe, *_LIST_TRACKED], self._place, {"GIT_TERMINAL_PROMPT": "0"}, MAX_LISTING)
        return found.out if found.code == 0 else None

    def answer(self, listing: bytes | None) -> dict[str, Any]:
        """The answer to `ripgrep`, from what was listed or else from a walk. Blocking. Raises HapiError(timeout)."""
        paths = walk(self._place) if listing is None else map(os.fsdecode, listing.split(b"\0"))
        visible = (path for path in paths if is_shown(path) and self._wanted(names.shown(path)))
        files = (path for path in visible if _is_file(os.path.join(self._place, path)))
        found = heapq.nsmallest(self._limit, files, key=lambda path: path.split("/"))
        return {"success": True, "stdout": "".join(f"{names.shown(path)}\n" for path in found), "exitCode": 0}


def matcher(query: str) -> Callable[[str], object]:
    """Whether a path is wanted: it contains the query or, if that has wildcards, is matched by it whole."""
    query = query.strip()
    if "*" not in query and "?" not in query:
        wanted = query.lower()
        return lambda path: wanted in path.lower()
    pattern = fnmatch.translate(query.replace("[", "[[]"))  # does not backtrack without end, as `.*a.*a.*` would
    return re.compile(pattern, re.IGNORECASE).fullmatch


def is_shown(path: str) -> bool:
    """Whether it is a path below the directory without a name, on its way, that begins with a dot."""
    return bool(path) and not path.startswith((".", "/")) and "/." not in path


def walk(root: str) -> Iterator[str]:
    """Every file below `root`, links not followed, bulky directories of tools passed over.

    Raises HapiError: timeout after WALK_TIMEOUT_S, too_large after MAX_WALKED files.
    """
    deadline = monotonic() + WALK_TIMEOUT_S
    count = 0
    for directory, below, found in os.walk(root):
        below[:] = [name for name in below if name not in _PASSED_OVER and not name.startswith(".")]
        prefix = os.path.relpath(directory, root)
        count += len(found)
        if monotonic() > deadline or count > MAX_WALKED:
            raise HapiError(ErrorCode.TOO_LARGE, "There are too many files to search; install ripgrep (rg).")
        yield from (name if prefix == "." else f"{prefix}/{name}" for name in found)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False
