"""The stamp of a session, with real processes: what keeps it, what takes it off, whom it finds."""

import resource
import signal
import subprocess
import sys
import uuid

import pytest

from hapi import procs, remains

pytestmark = pytest.mark.skipif(not procs.LINUX, reason="the stamp is Linux's")

STAMPING = """
import os, sys
from hapi import remains
print(remains.put_stamp(sys.argv[1]), flush=True)
if sys.argv[2:] == ["clear"]:
    remains.clear_stamp()
os.execve("/usr/bin/env", ["env", "-i", "setsid", "sh", "-c", "sleep 60 >/dev/null 2>&1 & echo $!"], {})
"""


@pytest.fixture
def hide():
    """Leaves a process behind that kept nothing of its session but the stamp; returns it."""
    hidden = []

    def run(session_id, *words):
        done = subprocess.run(
            [sys.executable, "-c", STAMPING, session_id, *words],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=20,
        )
        said, pid = done.stdout.split()
        assert said == "True"
        hidden.append(procs.identity(int(pid)))
        return hidden[-1]

    yield run
    for process in hidden:
        procs.send_signal(process, signal.SIGKILL)


def test_the_stamp_outlives_environment_session_and_parent(hide, tmp_path):
    session_id = str(uuid.uuid4())
    process = hide(session_id)
    assert procs.marked("HAPI_SESSION_ID", session_id) == []
    assert remains.stamped(process.pid) == remains.stamp(session_id)
    assert remains.find(session_id, None, tmp_path) == [process]
    assert remains.find(str(uuid.uuid4()), None, tmp_path) == []
    assert remains.end(session_id, None, tmp_path, 5) == (1, [])
    assert not procs.is_alive(process)


def test_a_stamp_is_taken_off_for_good(hide):
    assert remains.stamped(hide(str(uuid.uuid4()), "clear").pid) is None


def test_a_limit_that_somebody_uses_is_left_alone():
    code = (
        "import resource; from hapi import remains; resource.setrlimit(resource.RLIMIT_RTTIME, (200000, 200000));"
        "print(remains.put_stamp('x'), resource.getrlimit(resource.RLIMIT_RTTIME))"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, timeout=20)
    assert done.stdout.split(None, 1) == ["False", "(200000, 200000)\n"]


def test_this_process_and_dead_ones_have_none():
    assert resource.getrlimit(resource.RLIMIT_RTTIME)[0] == resource.RLIM_INFINITY
    assert remains.stamped(1 << 22) is None
    remains.clear_stamp()


def test_stamps_differ_and_fit():
    stamps = {remains.stamp(str(uuid.uuid4())) for _ in range(1000)}
    assert len(stamps) == 1000
    assert all(1 << 62 <= one < 1 << 63 for one in stamps)
