"""Why a session ended: each reason only when it is true."""

import signal

import pytest

from hapi.lifecycle import EndReason
from hapi.workers.supervisor.agent_process import Exit
from hapi.workers.supervisor.memory import MemoryWatch
from hapi.workers.supervisor.session import end_reason

KILLED = Exit(None, signal.SIGKILL)


@pytest.mark.parametrize(
    ("exit_", "busy", "oom", "reason"),
    [
        (Exit(0, None), False, False, EndReason.COMPLETED),
        (Exit(0, None), True, False, EndReason.AGENT_EXITED),
        (Exit(3, None), False, False, EndReason.AGENT_EXITED),
        (KILLED, False, False, EndReason.AGENT_CRASHED),
        (KILLED, True, True, EndReason.MEMORY_LIMIT),
        (Exit(None, signal.SIGSEGV), True, True, EndReason.AGENT_CRASHED),
        (Exit(1, None), True, True, EndReason.AGENT_EXITED),
    ],
)
def test_end_reason(exit_, busy, oom, reason):
    assert end_reason(exit_, busy=busy, out_of_memory=oom) is reason


V1 = "9:name=systemd:/init.scope\n4:memory:/user/x\n0::/init.scope\n"
V2 = "0::/user.slice/hapi.service\n"


@pytest.mark.parametrize(
    ("groups", "file"),
    [
        (V1, "memory/user/x/memory.oom_control"),
        (V1, "memory/memory.oom_control"),
        (V2, "user.slice/hapi.service/memory.events"),
        (V2, "memory.events"),
    ],
)
def test_the_kernels_count_is_found_and_compared(tmp_path, groups, file):
    (tmp_path / "cgroup").write_text(groups)
    counter = tmp_path / "fs" / file
    counter.parent.mkdir(parents=True)
    before, after = ("oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    counter.write_text(before)
    watch = MemoryWatch(tmp_path / "cgroup", tmp_path / "fs")
    assert not watch.ran_out()
    counter.write_text(after)
    assert watch.ran_out()


@pytest.mark.parametrize("groups", ["", "nonsense\n", V2, None])
def test_where_the_kernel_does_not_tell_nothing_ran_out(tmp_path, groups):
    if groups is not None:
        (tmp_path / "cgroup").write_text(groups)
    watch = MemoryWatch(tmp_path / "cgroup", tmp_path / "fs")
    assert not watch.ran_out()
