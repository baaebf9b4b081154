"""Files written whole or not at all, and locks that die with their holder."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import time
from collections.abc import Iterator
from pathlib import Path


class NotAFile(OSError):
    """A directory, a FIFO, a device or a socket stands where a file should be."""


def read_file(path: Path) -> bytes:
    """The content of a regular file. Raises OSError, NotAFile for anything else: a FIFO must not hang us."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(_regular(fd, path), "rb") as file:
        return file.read()


def write_atomic(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Replace `path` by `data`, mode 0600: readers see the old content or the new, never a part.

    `durable`: so they do after a power cut. Raises OSError; then the old content stays and no temporary file is left,
    unless it was only the directory that could not be synced.
    """
    os.close(replace(path, data, durable=durable))
    if durable:
        sync_directory(path.parent)


def replace(path: Path, data: bytes, *, durable: bool = True) -> int:
    """`write_atomic` without the directory's sync; returns the new file's descriptor, open for writing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(data)
        if durable:
            os.fsync(fd)
        temporary.replace(path)
    except OSError:
        os.close(fd)
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return fd


def overwrite(path: Path, data: bytes) -> None:
    """Write `data` over the file's own blocks, padded with blanks to its length: that works on a full disk.

    For a file whose replacement was refused, where the new content matters more than that a power cut may tear it.
    Raises OSError; then the old content is back.
    """
    before = read_file(path)
    after = data.ljust(len(before))
    fd = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.pwrite(fd, after, 0) != len(after):
            os.pwrite(fd, before, 0)
            os.ftruncate(fd, len(before))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(fd)
    finally:
        os.close(fd)


def quarantine(path: Path) -> Path:
    """Move a file that cannot be read out of the way and return its new name; nothing is deleted."""
    target = path.with_name(f"{path.name}.bad-{time.time_ns()}")
    path.rename(target)
    return target


def own_umask() -> int:
    """This process's umask, which can only be read by setting it."""
    current = os.umask(0o077)
    os.umask(current)
    return current


def sync_directory(directory: Path) -> None:
    """Make what was renamed in `directory` survive a power cut. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _regular(fd: int, path: Path) -> int:
    """`fd`, if it is a regular file; else it is closed and NotAFile raised."""
    if stat.S_ISREG(os.fstat(fd).st_mode):
        return fd
    os.close(fd)
    raise NotAFile(errno.EINVAL, "It is not a regular file", str(path))


_PROBE_S = 0.05


class FileLock:
    """An exclusive flock that the kernel releases when its holder dies: it cannot go stale."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._note = b""

    def acquire(self, note: str = "", patience_s: float = _PROBE_S) -> bool:
        """Take the lock; False if another process holds it for `patience_s`. `note` is written for people.

        Without patience it would fail when `is_locked` looks, which takes the lock too, for microseconds. Raises
        OSError when the file cannot be opened, NotAFile when it is none. A disk without room for the note does not
        keep the lock from being held.
        """
        fd = _open_lock(self._path, os.O_CREAT)
        deadline = time.monotonic() + patience_s
        while not _try_exclusive(fd):
            if time.monotonic() >= deadline:
                os.close(fd)
                return False
            select.select([], [], [], _PROBE_S / 10)
        self._fd, self._note = fd, note.encode()
        written = 0
        with contextlib.suppress(OSError):  # on a full disk there is no note; the last holder's must not stay
            written = os.pwrite(fd, self._note, 0)
        os.ftruncate(fd, written if written == len(self._note) else 0)
        return True

    def keep(self) -> bool:
        """Take the lock anew if its file was removed or replaced under us; False when that is not possible."""
        if self._fd is None or is_at(self._fd, self._path):
            return self._fd is not None
        before = self._fd
        try:
            kept = self.acquire(self._note.decode())
        except OSError:
            kept = False
        if kept:
            os.close(before)
        return kept

    def adopt(self, fd: int, note: str = "") -> bool:
        """Take the lock over from the image that this process ran before: `fd` came through its exec, lock held.

        False, and `fd` is left alone, when it is not this file or another process holds the lock.
        """
        if not is_at(fd, self._path) or not _try_exclusive(fd):
            return False
        os.set_inheritable(fd, False)
        self._fd, self._note = fd, note.encode()
        return True

    def bequeath(self) -> int:
        """The descriptor of the held lock, made to survive an exec, for `adopt`."""
        if self._fd is None:
            raise RuntimeError("the lock is not held")
        os.set_inheritable(self._fd, True)
        return self._fd

    def retain(self) -> None:
        """Undo `bequeath`: the exec did not take place."""
        if self._fd is not None:
            os.set_inheritable(self._fd, False)

    def release(self) -> None:
        """Give the lock up; may be called twice."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def is_at(fd: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(fd), path.lstat())
    except OSError:
        return False


def _open_lock(path: Path, flags: int = 0) -> int:
    return _regular(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | flags, 0o600), path)


def _try_exclusive(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: Path) -> bool:
    """Whether some process holds the lock at `path` right now. A missing file is not locked. Raises OSError."""
    try:
        fd = _open_lock(path)
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


def kernels_holder(path: Path) -> int | None:
    """Who holds the lock at `path` as the kernel's list of locks has it; None when it does not say."""
    try:
        status = path.stat()
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:  # not Linux
        return None
    wanted = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for words in map(str.split, lines):  # 1: FLOCK ADVISORY WRITE 4711 00:2a:1234 0 EOF
        if words[1:2] == ["FLOCK"] and words[3] == "WRITE" and words[5] == wanted:
            return int(words[4])
    return None


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock at `path`, waiting for whoever has it; for short critical sections only. Raises OSError."""
    fd = _open_lock(path, os.O_CREAT)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
