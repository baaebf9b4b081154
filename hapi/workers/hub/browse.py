"""The machine's directories for the web's picker, kept inside the workspace roots. Blocking: call it in a thread."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from hapi import workspace
from hapi.errors import ErrorCode, HapiError

MAX_ENTRIES = 5000
MAX_PATHS = 1000


def confine(path: str, roots: list[str]) -> Path:
    """What the web calls `path`, a leading `~` included, by the one rule of `workspace.confine`.

    Raises HapiError: outside_workspace_roots, or bad_request for what is not an absolute path.
    """
    expanded = os.path.expanduser(path)
    if not os.path.isabs(expanded) or "\0" in expanded:
        raise HapiError(ErrorCode.BAD_REQUEST, f"Not an absolute path: {path!r}")
    return workspace.confine(expanded, roots)


def path_exists(paths: list[str], roots: list[str]) -> dict[str, Any]:
    """The answer to `path-exists`: which of the paths are directories; those outside the roots are named."""
    exists: dict[str, bool] = {}
    outside: list[str] = []
    for path in paths[:MAX_PATHS]:
        try:
            exists[path] = confine(path, roots).is_dir()
        except HapiError as error:
            exists[path] = False
            if error.code is ErrorCode.OUTSIDE_WORKSPACE_ROOTS:
                outside.append(path)
    return {"exists": exists, "outsideWorkspaceRoots": outside} if outside else {"exists": exists}


def list_directory(path: str, roots: list[str], *, hidden: bool) -> dict[str, Any]:
    """The answer to `list-directory`: at most MAX_ENTRIES entries, directories first, or why not."""
    try:
        directory = confine(path, roots)
    except HapiError as error:
        outside = error.code is ErrorCode.OUTSIDE_WORKSPACE_ROOTS
        return {"success": False, "error": "Path is outside workspace roots" if outside else error.message}
    try:
        with os.scandir(directory) as found:
            entries = [_entry(item) for item in found if hidden or not item.name.startswith(".")]
    except OSError as error:
        return {"success": False, "error": f"Cannot list {path}: {error.strerror}"}
    entries.sort(key=lambda entry: (entry["type"] != "directory", entry["name"].casefold()))
    return {"success": True, "entries": entries[:MAX_ENTRIES]}


def _entry(item: os.DirEntry[str]) -> dict[str, Any]:
    name = item.name.encode("utf-8", "replace").decode()
    try:
        status = item.stat()
    except OSError:  # a dangling link, or gone meanwhile
        return {"name": name, "type": "other"}
    entry: dict[str, Any] = {"name": name, "size": status.st_size, "modified": int(status.st_mtime * 1000)}
    if item.is_dir():
        entry.update(type="directory", isGitRepo=os.path.lexists(os.path.join(item.path, ".git")))
    else:
        entry["type"] = "file" if item.is_file() else "other"
    return entry
