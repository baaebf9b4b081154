"""Files written whole or not at all, and locks that die with their holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import time
from collections.abc import Iterator
from pathlib import Path


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `data`, mode 0600: readers see the old content or the new, never a part.

    `durable` also survives a power cut (fsync of the file and its directory). Raises OSError; then the old content
    stays and no temporary file is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            if durable:
                os.fsync(fd)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    if durable:
        _sync_directory(path.parent)


def quarantine(path: Path) -> Path:
    """Move a file that cannot be read out of the way and return its new name; nothing is deleted."""
    target = path.with_name(f"{path.name}.bad-{time.time_ns()}")
    path.rename(target)
    return target


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


_PROBE_S = 0.05


class FileLock:
    """An exclusive flock that the kernel releases when its holder dies: it cannot go stale."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None

    def acquire(self, note: str = "") -> bool:
        """Take the lock; False if another process holds it. `note` is written for people.

        Waits _PROBE_S at most: `is_locked` takes the lock too, for microseconds. Raises OSError when the file cannot
        be opened.
        """
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + _PROBE_S
        while not _try_exclusive(fd):
            if time.monotonic() >= deadline:
                os.close(fd)
                return False
            select.select([], [], [], _PROBE_S / 10)
        self._fd = fd
        os.ftruncate(fd, 0)
        os.pwrite(fd, note.encode(), 0)
        return True

    def adopt(self, fd: int) -> bool:
        """Take the lock over from the image that this process ran before: `fd` came through its exec, lock held.

        False, and `fd` is left alone, when it is not this file or another process holds the lock.
        """
        try:
            if not os.path.samestat(os.fstat(fd), self._path.stat()) or not _try_exclusive(fd):
                return False
        except OSError:
            return False
        os.set_inheritable(fd, False)
        self._fd = fd
        return True

    def bequeath(self) -> int:
        """The descriptor of the held lock, made to survive an exec, for `adopt`."""
        if self._fd is None:
            raise RuntimeError("the lock is not held")
        os.set_inheritable(self._fd, True)
        return self._fd

    def keep(self) -> None:
        """Undo `bequeath`: the exec did not take place."""
        if self._fd is not None:
            os.set_inheritable(self._fd, False)

    def release(self) -> None:
        """Give the lock up; may be called twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _try_exclusive(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock at `path` right now. A missing file is not locked. Raises OSError."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, waiting for whoever has it; for short critical sections only. Raises OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
