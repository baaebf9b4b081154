"""The process table, with real processes: who is alive, who is a stranger, who belongs to whom."""

import os
import select
import signal
import subprocess
import sys
import time
import uuid

import msgspec
import psutil
import pytest

from hapi import procs
from hapi.ids import ProcessId
from tests.support.wait import until

SLEEP = [sys.executable, "-c", "print(flush=True); input()"]


def ended(child):
    """Wait until the child has exited, and leave it a zombie."""
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)


@pytest.fixture
def start():
    """Starts processes that wait for a line, and ends them all."""
    started = []

    def run(arguments=SLEEP, **options):
        child = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options)
        started.append(child)
        child.stdout.readline()
        return child

    yield run
    for child in started:
        child.kill()
        child.wait(5)
        child.stdin.close()
        child.stdout.close()


def test_of_ourselves():
    me = procs.own_identity()
    assert (me.pid, me.boot_id) == (os.getpid(), procs.boot_id())
    assert me == procs.identity(os.getpid())
    assert procs.is_alive(me)
    assert len(procs.boot_id()) > 8


def test_of_a_child(start):
    child = start()
    who = procs.identity(child.pid)
    assert who.start_ticks >= procs.own_identity().start_ticks
    assert procs.is_alive(who)
    child.kill()
    ended(child)
    assert not procs.is_alive(who)


def test_a_zombie_is_nobody(start):
    child = start()
    who = procs.identity(child.pid)
    child.kill()
    ended(child)
    assert os.path.exists(f"/proc/{child.pid}/stat")
    assert procs.identity(child.pid) is None
    assert not procs.is_alive(who)
    assert procs.send_signal(who, signal.SIGTERM) is False
    assert procs.open_pidfd(who) is None
    assert who not in procs.descendants(os.getpid())


@pytest.mark.parametrize("pid", [0, -1, 2**22 + 1, 2**31, 2**40])
def test_pids_of_nobody(pid):
    assert procs.identity(pid) is None
    assert not procs.is_alive(ProcessId(pid, 1, procs.boot_id()))
    assert procs.send_signal(ProcessId(pid, 1, procs.boot_id()), signal.SIGKILL) is False
    assert procs.open_pidfd(ProcessId(pid, 1, procs.boot_id())) is None
    assert procs.children(pid) == []
    assert procs.descendants(pid) == []
    assert procs.memory_bytes(pid) == 0


@pytest.mark.parametrize("change", [{"start_ticks": 1}, {"boot_id": "another boot"}], ids=["reused pid", "reboot"])
def test_trap_05_a_stranger_under_a_known_pid_is_never_signalled(start, change):
    child = start()
    stranger = msgspec.structs.replace(procs.identity(child.pid), **change)
    assert not procs.is_alive(stranger)
    for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGINT):
        assert procs.send_signal(stranger, number) is False
    assert procs.open_pidfd(stranger) is None
    child.stdin.write(b"\n")
    child.stdin.flush()
    assert child.wait(5) == 0


def test_a_signal_arrives(start):
    child = start()
    assert procs.send_signal(procs.identity(child.pid), signal.SIGTERM) is True
    assert child.wait(5) == -signal.SIGTERM


def test_a_name_that_looks_like_a_stat_line(start, tmp_path):
    name = tmp_path / "a) Z 1 (b"
    name.symlink_to(sys.executable)
    child = start([str(name), *SLEEP[1:]])
    assert procs.is_alive(procs.identity(child.pid))


def test_a_pidfd_becomes_readable_at_the_end(start):
    child = start()
    fd = procs.open_pidfd(procs.identity(child.pid))
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    assert poller.poll(0) == []
    assert procs.ended([fd]) == set()
    child.kill()
    assert poller.poll(5000)
    assert procs.ended([fd]) == {fd}
    os.close(fd)


FAMILY = """
import os, sys, time
def child(action):
    if os.fork() == 0:
        action()
        os._exit(0)
def line(): print(os.getpid(), flush=True)
def daemonised():
    os.setsid()
    child(lambda: (line(), time.sleep(60)))
    time.sleep(60)
child(daemonised)
child(lambda: (line(), time.sleep(60)))
sys.stdin.readline()
"""


def test_descendants_are_found_through_sessions_and_generations(start):
    child = start([sys.executable, "-c", FAMILY])
    found = until(lambda: _all(procs.descendants(child.pid), 3), 5, "three below")
    parents = {who.pid: _parent(who.pid) for who in found}
    assert {parents[who.pid] for who in found} <= {child.pid, *parents}
    order = [who.pid for who in found]
    assert all(parents[pid] == child.pid or order.index(parents[pid]) < order.index(pid) for pid in order)
    assert set(procs.children(child.pid)) == {pid for pid, parent in parents.items() if parent == child.pid}
    for who in found:
        assert procs.send_signal(who, signal.SIGKILL)
    until(lambda: not procs.descendants(child.pid), 5, "none below")


def _all(found, count):
    return found if len(found) == count else []


def _parent(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])


DOUBLE_FORK = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(60)
    os._exit(0)
os.wait()
sys.stdin.readline()
"""


def test_what_a_double_fork_hides_is_found_by_its_mark():
    mark = uuid.uuid4().hex
    with subprocess.Popen(
        [sys.executable, "-c", DOUBLE_FORK],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"HAPI_SESSION_ID": mark},
    ) as child:  # fmt: skip
        hidden = procs.identity(int(child.stdout.readline()))
        try:
            until(lambda: hidden not in procs.descendants(child.pid), 5, "the process between is gone")
            assert {who.pid for who in procs.marked("HAPI_SESSION_ID", mark)} == {child.pid, hidden.pid}
            assert procs.marked("HAPI_SESSION_ID", mark[:-1]) == []
            assert procs.marked("SESSION_ID", mark) == []
        finally:
            procs.send_signal(hidden, signal.SIGKILL)
            child.stdin.close()
            child.wait(5)


HEADLESS = """
import ctypes, sys, threading
def live():
    print(flush=True)
    sys.stdin.readline()
threading.Thread(target=live).start()
ctypes.CDLL(None).pthread_exit(None)
"""


@pytest.mark.skipif(not procs.LINUX, reason="Linux shows a process by its first thread")
def test_a_process_whose_first_thread_has_ended_is_alive(start):
    """The kernel calls it a zombie, and its other threads work on."""
    child = start([sys.executable, "-c", HEADLESS])
    until(lambda: psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE, 5, "the first thread has ended")
    who = procs.identity(child.pid)
    assert who is not None
    assert procs.send_signal(who, signal.SIGKILL)
    assert procs.wait_gone(who, 5)


def test_waiting_for_a_process_has_a_deadline():
    started = time.monotonic()
    assert not procs.wait_gone(procs.own_identity(), 0.15)
    assert 0.1 < time.monotonic() - started < 5
    assert procs.wait_gone(ProcessId(1, 1, "another boot"), 5)


def test_memory_of_a_process_that_lives(start):
    child = start()
    assert 500_000 < procs.memory_bytes(child.pid) < 200_000_000
    child.kill()
    ended(child)
    assert procs.memory_bytes(child.pid) == 0


def test_the_open_files_of_a_process(tmp_path):
    with (tmp_path / "held").open("w"):
        assert str(tmp_path / "held") in procs.open_files(os.getpid())
    assert str(tmp_path / "held") not in procs.open_files(os.getpid())
    assert all(path.startswith("/") for path in procs.open_files(os.getpid()))
    assert procs.open_files(2**22 + 1) == []
