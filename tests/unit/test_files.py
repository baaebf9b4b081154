"""Files whole or not at all, and locks that die with their holder."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hapi import files
from hapi.files import FileLock, exclusive, is_locked, quarantine, write_atomic
from tests.support.wait import until

ENV = {"PYTHONPATH": str(Path(__file__).parent.parent.parent)}


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_is_replaced(tmp_path, durable):
    path = tmp_path / "f"
    before = os.umask(0)
    try:
        write_atomic(path, b"one", durable=durable)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    inode = path.stat().st_ino
    write_atomic(path, b"two", durable=durable)
    assert (path.read_bytes(), path.stat().st_ino != inode) == (b"two", True)
    assert os.listdir(tmp_path) == ["f"]


def test_what_fails_leaves_the_old_and_nothing_else(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").write_text("old")
    with pytest.raises(OSError, match=r"[Dd]irectory"):
        write_atomic(tmp_path / "f", b"new")
    assert os.listdir(tmp_path) == ["f"]
    assert (tmp_path / "f" / "old").read_text() == "old"
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "nowhere" / "f", b"new")


FULL = """
import resource, signal, sys
from pathlib import Path
from hapi.files import write_atomic
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomic(Path(sys.argv[1]), b"x" * 5000)
except OSError as error:
    print(error.errno)
"""


def test_trap_24_a_full_disk_keeps_the_old_content(tmp_path):
    write_atomic(tmp_path / "f", b"old")
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "f"], env=ENV, capture_output=True, check=True)
    assert int(done.stdout) == 27
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


WRITER = """
import sys
from pathlib import Path
from hapi.files import write_atomic
print(flush=True)
while True:
    for letter in (b"a", b"b"):
        write_atomic(Path(sys.argv[1]), letter * 100_000, durable=False)
"""


def test_trap_24_killed_while_writing(tmp_path):
    path = tmp_path / "f"
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", WRITER, path], env=ENV, stdout=subprocess.PIPE) as writer:
            writer.stdout.readline()
            until(path.exists, 5, "written once")
            for _ in range(50):
                data = path.read_bytes()
                assert data in (b"a" * 100_000, b"b" * 100_000)
            writer.kill()
        assert path.read_bytes() in (b"a" * 100_000, b"b" * 100_000)


def test_quarantine_deletes_nothing(tmp_path):
    kept = []
    for content in ("one", "two"):
        (tmp_path / "f").write_text(content)
        kept.append(quarantine(tmp_path / "f"))
    assert [path.read_text() for path in kept] == ["one", "two"]
    assert all(path.name.startswith("f.bad-") for path in kept)
    with pytest.raises(FileNotFoundError):
        quarantine(tmp_path / "f")


def test_a_lock_is_held_once(tmp_path):
    path = tmp_path / "lock"
    assert not is_locked(path)
    first, second = FileLock(path), FileLock(path)
    assert first.acquire("4711\n")
    assert (is_locked(path), second.acquire("x"), path.read_text()) == (True, False, "4711\n")
    first.release()
    first.release()
    assert not is_locked(path)
    assert second.acquire("5\n")
    assert path.read_text() == "5\n"
    second.release()


HOLDER = """
import sys
from pathlib import Path
from hapi.files import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.acquire("1")
print(flush=True)
sys.stdin.read()
"""


def test_trap_06_a_lock_dies_with_its_holder(tmp_path):
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, path], env=ENV, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        holder.stdout.readline()
        assert is_locked(path)
        lock = FileLock(path)
        assert not lock.acquire()
        holder.send_signal(signal.SIGKILL)
    assert lock.acquire()
    lock.release()


def test_the_kernel_knows_who_holds_a_lock(tmp_path):
    path = tmp_path / "lock"
    assert files.kernels_holder(path) is None
    lock = FileLock(path)
    lock.acquire()
    path.write_text("")
    assert files.kernels_holder(path) == os.getpid()
    lock.release()
    assert files.kernels_holder(path) is None


@pytest.mark.parametrize("fault", ["removed", "replaced", "there"])
def test_a_lock_is_kept_when_its_file_goes(tmp_path, fault):
    path = tmp_path / "lock"
    lock = FileLock(path)
    assert not lock.keep()
    lock.acquire("4711\n")
    if fault != "there":
        path.unlink()
    if fault == "replaced":
        path.write_text("garbage")
    assert lock.keep()
    assert (is_locked(path), path.read_text(), FileLock(path).acquire()) == (True, "4711\n", False)
    path.unlink()
    path.mkdir()
    assert not lock.keep()
    path.rmdir()
    assert lock.keep()
    lock.release()
    assert not is_locked(path)


@pytest.mark.parametrize("use", [is_locked, lambda path: FileLock(path).acquire(), files.read_file])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_trap_06_what_is_no_file_hangs_nobody(tmp_path, use, make):
    make(tmp_path / "lock")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=r"not a regular file|Is a directory"):
        use(tmp_path / "lock")
    assert len(os.listdir("/proc/self/fd")) == before


def test_overwriting_leaves_one_of_both_whole(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"a long old one")
    files.overwrite(path, b"new")
    assert path.read_bytes() == b"new".ljust(14)
    files.overwrite(path, b"a much longer new one")
    assert path.read_bytes() == b"a much longer new one"
    with pytest.raises(FileNotFoundError):
        files.overwrite(tmp_path / "nowhere", b"x")


@pytest.mark.parametrize("content", [b"", b"garbage \xff", b"1\n", b"999999999\n"])
def test_trap_06_what_is_in_a_lock_file_does_not_matter(tmp_path, content):
    (tmp_path / "lock").write_bytes(content)
    assert not is_locked(tmp_path / "lock")
    lock = FileLock(tmp_path / "lock")
    assert lock.acquire("me")
    lock.release()


@pytest.mark.parametrize("use", [is_locked, lambda path: FileLock(path).acquire()])
def test_a_lock_is_not_followed_to_elsewhere(tmp_path, use):
    (tmp_path / "target").write_text("precious")
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic"):
        use(tmp_path / "lock")
    assert (tmp_path / "target").read_text() == "precious"


def test_who_asks_whether_it_is_locked_does_not_keep_others_out(tmp_path):
    """`is_locked` holds the lock for a moment: a runner that started just then gave up with `already_running`."""
    import fcntl

    path = tmp_path / "lock"
    path.write_text("")
    with path.open() as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)  # as is_locked does between its flock and its close
        lock = FileLock(path)
        threading.Timer(0.01, lambda: fcntl.flock(asking, fcntl.LOCK_UN)).start()
        taken = lock.acquire()
    lock.release()
    assert taken


def test_exclusive_lets_one_in_at_a_time(tmp_path):
    inside, most, turns = [], [], []

    def work():
        for _ in range(20):
            with exclusive(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                turns.append(1)
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (max(most), len(turns)) == (1, 80)


def test_nothing_is_left_open(tmp_path):
    before = set(os.listdir("/proc/self/fd"))
    write_atomic(tmp_path / "f", b"x")
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    FileLock(tmp_path / "lock").acquire()
    is_locked(tmp_path / "lock")
    lock.release()
    with exclusive(tmp_path / "lock"):
        pass
    assert len(os.listdir("/proc/self/fd")) == len(before)
    assert files.is_locked(tmp_path / "nowhere") is False
