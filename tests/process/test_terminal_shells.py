"""Users' shells: what they get to see, how long they live, that they end."""

from __future__ import annotations

import os
import signal

import psutil

from hapi import wire
from hapi.errors import ErrorCode
from hapi.ids import SESSION_MARK
from hapi.terminal.protocol import (
    Attach,
    CloseTerminal,
    Ended,
)
from hapi.workers.supervisor import terminals
from tests.support.terminal import DEADLINE_S, RawViewer, stage
from tests.support.wait import until_async

CANARY = "canary-5d1c"
SECRETS = dict.fromkeys(
    ("CLI_API_TOKEN", "ANTHROPIC_API_KEY", "GH_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD"), CANARY
)


async def test_trap_17_a_shell_sees_no_tokens_and_no_keys(tmp_path):
    """Neither in its environment nor in its arguments. Seen to fail: without `is_secret` in `shell_environment`."""
    base = {"PATH": os.environ["PATH"], "SHELL": "/bin/bash", "EDITOR": "vi", "TMUX": "/tmp/x", **SECRETS}
    async with stage(tmp_path, environment=base) as scene:
        viewer, _ = await scene.attach(terminal="mine", open_shell=True)
        (shell,) = scene.terminals.shells.values()
        viewer.type(b"echo ready $((6*7))\r")
        await viewer.until(b"ready 42")
        process = psutil.Process(shell.leader)
        environment = process.environ()
        assert CANARY not in str(environment) + str(process.cmdline())
        assert environment["EDITOR"] == "vi"
        assert environment[SESSION_MARK] == scene.info.session_id
        assert (environment["TERM"], environment["COLORTERM"]) == ("xterm-256color", "truecolor")
        assert "TMUX" not in environment


async def test_a_shell_lives_on_without_viewers_and_is_found_again(tmp_path):
    async with stage(tmp_path) as scene:
        first, attached = await scene.attach(terminal="mine", open_shell=True, cols=90, rows=30)
        assert attached.created
        assert (attached.cols, attached.rows) == (90, 30)
        first.type(b"X=kept; tty; pwd\r")
        await first.until(str(tmp_path).encode())
        await first.close()
        second, attached = await scene.attach(terminal="mine", open_shell=True)
        assert not attached.created
        second.type(b"echo $X $((6*7))\r")
        await second.until(b"kept 42")
        second.type(b"exit 5\r")
        assert (await second.next(Ended)).code == 5
        _, attached = await scene.attach(terminal="mine", open_shell=True)
        assert attached.created


async def test_trap_45_shells_leave_no_descriptor_behind(tmp_path):
    """Neither those that ran nor those that could not. Seen to fail: without `os.close(self._slave)` in `Pty.close`."""
    async with stage(tmp_path, environment={"PATH": os.environ["PATH"], "SHELL": "/bin/sh"}) as scene:
        before = 0
        for number in range(5):
            viewer, _ = await scene.attach(terminal="mine", open_shell=True)
            viewer.type(b"exit\r")
            assert (await viewer.next(Ended)).code == 0
            await viewer.close()
            await until_async(lambda: scene.terminals.viewers == 0, DEADLINE_S, "the viewer is gone")
            before = before or len(os.listdir("/proc/self/fd"))
            assert len(os.listdir("/proc/self/fd")) == before, f"after {number + 1} shells"
        scene.directory.rename(tmp_path.parent / "moved")
        refused = await RawViewer.connect(tmp_path.parent / "moved" / scene.path.name)
        refused.send(Attach(terminal="mine", open_shell=True))
        assert (await refused.next(wire.Failure)).code == ErrorCode.BAD_DIRECTORY
        await refused.close()
        (tmp_path.parent / "moved").rename(scene.directory)
        await until_async(lambda: scene.terminals.viewers == 0, DEADLINE_S, "the viewer is gone")
        assert len(os.listdir("/proc/self/fd")) == before


async def test_four_shells_and_no_more(tmp_path):
    async with stage(tmp_path) as scene:
        viewers = [(await scene.attach(terminal=f"t{number}", open_shell=True))[0] for number in range(4)]
        fifth = await scene.connect()
        fifth.send(Attach(terminal="t5", open_shell=True))
        assert (await fifth.next(wire.Failure)).code == ErrorCode.AT_CAPACITY
        viewers[0].send(CloseTerminal())
        assert (await viewers[0].next(Ended)).signal == signal.SIGHUP
        _, attached = await scene.attach(terminal="t5", open_shell=True)
        assert attached.created


async def test_a_forgotten_shell_makes_room(tmp_path):
    """One that was left and runs nothing, and of those the one left first: pages that are gone keep nobody out.

    Seen to fail: without `_make_room`.
    """
    async with stage(tmp_path) as scene:
        viewers = [(await scene.attach(terminal=f"t{number}", open_shell=True))[0] for number in range(4)]
        viewers[0].type(b"sleep 1000 & echo busy $((6*7))\r")
        await viewers[0].until(b"busy 42")
        shell = psutil.Process(scene.terminals.shells["t1"].leader)
        for left, viewer in enumerate(viewers[:3]):
            await viewer.close()
            await until_async(lambda n=3 - left: scene.terminals.viewers == n, DEADLINE_S, "the viewer is gone")
        await scene.attach(terminal="t5", open_shell=True)
        assert set(scene.terminals.shells) == {"t0", "t2", "t3", "t5"}
        await until_async(lambda: _over(shell), DEADLINE_S, "its process ends")
        await scene.attach(terminal="t6", open_shell=True)
        assert set(scene.terminals.shells) == {"t0", "t3", "t5", "t6"}
        refused = await scene.connect()
        refused.send(Attach(terminal="t7", open_shell=True))
        assert (await refused.next(wire.Failure)).code == ErrorCode.AT_CAPACITY


async def test_a_shell_that_nobody_looks_at_is_hung_up_in_the_end(tmp_path):
    async with stage(tmp_path, idle_s=0.3) as scene:
        viewer, _ = await scene.attach(terminal="mine", open_shell=True)
        shell = scene.terminals.shells["mine"]
        await viewer.close()
        again, attached = await scene.attach(terminal="mine")
        assert not attached.created
        again.type(b"echo $((6*7))\r")
        await again.until(b"42")
        await again.close()
        await until_async(lambda: "mine" not in scene.terminals.shells, DEADLINE_S, "it is gone")
        await until_async(lambda: not psutil.pid_exists(shell.leader), DEADLINE_S, "its process too")


async def test_shells_and_what_runs_in_them_end_with_the_session(tmp_path):
    async with stage(tmp_path) as scene:
        viewer, _ = await scene.attach(terminal="mine", open_shell=True)
        viewer.type(b"sleep 1000 & echo pid=$!; cat\r")
        text = (await viewer.until(b"\r\npid=")) + await viewer.until(b"\r\n")
        background = psutil.Process(int(text.rsplit(b"=")[-1]))
        shell = psutil.Process(scene.terminals.shells["mine"].leader)
        await scene.terminals.close()
        assert await viewer.next(Ended) == Ended(signal=signal.SIGHUP, reason="the session was stopped")
        for process in (background, shell):
            await until_async(lambda p=process: _over(p), DEADLINE_S, "a process of the shell is gone")


def _over(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


async def test_a_shell_that_cannot_run_there(tmp_path):
    place = tmp_path / "gone"
    place.mkdir()
    async with stage(place) as scene:
        viewer = await scene.connect()
        moved = place.rename(tmp_path / "moved")
        viewer.send(Attach(terminal="mine", open_shell=True))
        failure = await viewer.next(wire.Failure)
        assert (failure.code, str(place) in failure.message) == (ErrorCode.BAD_DIRECTORY, True)
        moved.rename(place)


async def test_a_shell_under_the_name_of_one_that_was_closed_is_hung_up_in_its_turn(tmp_path, monkeypatch):
    """The end of the first one, told late, does not stop the clock of the second."""
    monkeypatch.setattr(terminals, "HANG_UP_S", 0.5)
    async with stage(tmp_path, idle_s=1.5) as scene:
        first, _ = await scene.attach(terminal="mine", open_shell=True)
        first.send(CloseTerminal())
        await first.next(Ended)
        second, attached = await scene.attach(terminal="mine", open_shell=True)
        assert attached.created
        (shell,) = scene.terminals.shells.values()
        await second.close()
        await until_async(lambda: shell.end is not None, DEADLINE_S, "it was hung up")
