"""Opening what lies inside a directory and nothing else. Blocking: call it in a thread.

A path is resolved first, links included, and then opened step by step from the directory's own descriptor without
following a link: what is swapped for a link in between is refused, not followed. Only regular files and directories
are opened; FIFOs, devices and sockets are looked at, never opened, for opening one may block or do something.
"""

from __future__ import annotations

import errno
import os
import stat

from hapi.errors import ErrorCode, HapiError
from hapi.workers.hub import names

_STEP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LEAF = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_GONE = frozenset({errno.ENOENT, errno.ENOTDIR})


class Outside(HapiError):
    """The path leads out of the directory. The message has the form that the hub's web app knows (§5.10)."""

    def __init__(self, path: str) -> None:
        super().__init__(ErrorCode.NOT_OURS, f"Access denied: Path '{path}' is outside the working directory")


class Unusable(HapiError):
    """What is there cannot be used for what was asked, or is not there."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(ErrorCode.BAD_REQUEST, f"{path or '.'}: {why}")


def resolve(root: str, path: str, base: str | None = None) -> str:
    """Where `path` (relative to `base`, else to `root`) really is, links resolved. It need not exist.

    Raises Outside when that is outside `root`, also for what is no path at all; Unusable when it cannot be told.
    """
    if "\0" in path:
        raise Outside(path)
    try:
        real, inside = os.path.realpath(os.path.join(base or root, path)), os.path.realpath(root)
        resolved = os.path.realpath(real) == real  # behind a loop of links it is not, though it looks so
    except UnicodeEncodeError:  # half a character, as JavaScript may send it
        raise Outside(path.encode("utf-8", "replace").decode()) from None
    except OSError as error:  # it changed while it was looked at
        raise Unusable(path, _why(error)) from None
    if not (resolved and is_inside(real, inside)):
        raise Outside(path)
    return real


def is_inside(path: str, root: str) -> bool:
    """Whether one resolved path is the other, or below it."""
    return path == root or path.startswith(root if root.endswith(os.sep) else root + os.sep)


def locate(root: str, path: str, base: str | None = None) -> str:
    """`resolve` for a path as the web sends it: a name in git's quotes is understood when the literal one is missing.

    Raises Outside, Unusable.
    """
    first, *others = names.spellings(path)
    literal = resolve(root, first, base)
    if os.path.lexists(literal):
        return literal
    for spelling in others:
        try:
            real = resolve(root, spelling, base)
        except Outside:
            raise Outside(path) from None
        if os.path.lexists(real):
            return real
    return literal


def open_inside(root: str, path: str) -> int:
    """A descriptor, for reading, of a regular file or directory inside `root`. The caller closes it.

    Raises Outside, Unusable for what is neither, is missing, or may not be read.
    """
    real = locate(root, path)
    steps = os.path.relpath(real, os.path.realpath(root)).split(os.sep)
    if steps == ["."]:
        steps = []
    try:
        return _walk(os.path.realpath(root), steps, path)
    except OSError as error:
        if error.errno == errno.ELOOP:  # a loop, or swapped for a link after it was resolved
            raise Outside(path) from None
        raise Unusable(path, _why(error)) from None


def _walk(root: str, steps: list[str], path: str) -> int:
    fd = os.open(root, _STEP)
    try:
        for step in steps[:-1]:
            fd = _descend(fd, step, _STEP)
        for step in steps[-1:]:
            mode = os.stat(step, dir_fd=fd, follow_symlinks=False).st_mode
            if stat.S_ISLNK(mode):
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            _require_plain(mode, path)
            fd = _descend(fd, step, _LEAF)
            _require_plain(os.fstat(fd).st_mode, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _descend(fd: int, step: str, flags: int) -> int:
    below = os.open(step, flags, dir_fd=fd)
    os.close(fd)
    return below


def _require_plain(mode: int, path: str) -> None:
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise Unusable(path, "It is neither a file nor a directory.")


def _why(error: OSError) -> str:
    return "No such file or directory." if error.errno in _GONE else f"{error.strerror}."
