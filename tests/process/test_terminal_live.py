"""Shells beside a session of a real runner: they outlive brokers and viewers, and nothing of them outlives the session."""

from __future__ import annotations

import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hapi import config, wire
from hapi.clock import monotonic
from hapi.terminal.client import Connection, ConnectionLost, connect
from hapi.terminal.protocol import Attach, Ended, Output, Replay
from tests.support.runner import Runner
from tests.support.wait import until

DEADLINE_S = 20.0
CANARY = "canary-77af"


@pytest.fixture(scope="module")
def desk() -> Iterator[Runner]:
    path = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    with Runner(path / "h") as home:
        secrets = dict.fromkeys(("ANTHROPIC_API_KEY", "GITHUB_TOKEN", "DB_PASSWORD"), CANARY)
        home.environment |= secrets | {"SHELL": "/bin/bash"}
        home.start()
        yield home
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def session(desk: Runner) -> str:
    desk.ensure()
    spawned: str = desk.spawn()["sessionId"]
    return spawned


def socket_of(desk: Runner, session: str) -> Path:
    return config.load(environ=desk.environment).paths.terminal_socket(session)


def shell(desk: Runner, session: str) -> Connection:
    """A viewer of the shell `mine`."""
    return connect(socket_of(desk, session), Attach(terminal="mine", open_shell=True))


def read(viewer: Connection, pattern: str) -> str:
    """Read until that is shown; answers what stands in its parentheses."""
    seen, deadline = "", monotonic() + DEADLINE_S
    while (found := re.search(pattern, seen)) is None:
        message = viewer.receive(max(0.1, deadline - monotonic()))
        assert message is not None, f"no {pattern} in {seen[-500:]!r}"
        if isinstance(message, Output | Replay):
            seen += message.data.decode(errors="replace")
    return found[1]


def started(viewer: Connection, command: str) -> psutil.Process:
    """The process whose pid the shell's variable names after that command."""
    viewer.type(command.encode() + b"\r")
    return psutil.Process(int(read(viewer, r"pid-(\d+)-")))


def test_trap_17_a_shell_beside_a_session_sees_no_tokens(desk: Runner, session: str) -> None:
    """The runner, and the terminal that spawned the session, have them. Seen to fail: without `is_secret`."""
    with shell(desk, session) as viewer:
        process = started(viewer, "echo pid-$$-")
        assert process.cwd() == str(desk.project)
        environment = process.environ()
        assert environment["HAPI_HOME"] == str(desk.home)
        assert CANARY not in str(environment)


def test_a_shell_does_not_notice_that_the_broker_dies_and_ends_with_its_session(desk: Runner, session: str) -> None:
    with shell(desk, session) as viewer:
        background = started(viewer, "sleep 3600 & echo pid-$!-")
        process = started(viewer, "echo pid-$$-")
        psutil.Process(desk.status()["pid"]).send_signal(signal.SIGKILL)
        viewer.type(b"echo still $((6*7))\r")
        read(viewer, "(still 42)")
        desk.ensure()
        until(lambda: desk.info(session), DEADLINE_S, "the new broker has adopted the session")
        viewer.type(b"echo again $((6*7))\r")
        read(viewer, "(again 42)")
        stopped = desk.ask(wire.StopSession(session), wire.SessionStopped)
        assert (stopped.status, stopped.survivors) == ("stopped", [])
        while not isinstance(message := viewer.receive(DEADLINE_S), Ended):
            assert message is not None
        assert message.reason
    assert not process.is_running()
    assert not background.is_running()
    until(lambda: not socket_of(desk, session).exists(), DEADLINE_S, "the socket is gone")


def test_a_shell_ends_with_a_supervisor_that_is_killed(desk: Runner, session: str) -> None:
    with shell(desk, session) as viewer:
        process = started(viewer, "echo pid-$$-")
        info = desk.info(session)
        assert info is not None
        assert info.supervisor is not None
        psutil.Process(info.supervisor.pid).send_signal(signal.SIGKILL)
        with pytest.raises(ConnectionLost):
            read(viewer, "(nothing more)")
    until(lambda: not process.is_running(), DEADLINE_S, "the shell is gone")
    desk.ended(session)
    until(lambda: not socket_of(desk, session).exists(), DEADLINE_S, "the socket is gone")
