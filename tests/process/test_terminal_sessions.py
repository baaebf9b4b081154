"""Sessions that live in a terminal, through the real broker: how they start, hear, work, end and come back."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from hapi import config, journal, procs, wire
from hapi.errors import ErrorCode, HapiError
from hapi.terminal.protocol import Ended
from tests.support.agents import members
from tests.support.power import directory, power_cut
from tests.support.runner import Runner, gone, identity
from tests.support.viewer import Viewer, spawn
from tests.support.wait import until

FLOOD_BYTES = 100 * 1024 * 1024
MEMORY_BYTES = 40 * 1024 * 1024
LISTENER = """
import os, sys, termios, time, tty
def hear():
    with open(PLACE, "ab", buffering=0) as file:
        while data := os.read(0, 65536):
            file.write(data.hex().encode() + b"\\n")
"""
FAMILY = """
import os, signal, sys
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
def leave(detached):
    if os.fork():
        return
    if detached:
        os.setsid()
        if os.fork():
            os._exit(0)
    with open(PLACE, "a") as file:
        file.write(f"{os.getpid()}\\n")
    while True:
        signal.pause()
leave(False)
leave(True)
while len(open(PLACE).readlines()) < 2:
    pass
print("there", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def desk() -> Iterator[Runner]:
    path = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    with Runner(path / "h") as home:
        home.environment["CLI_API_TOKEN"] = "canary"
        home.start()
        yield home
    shutil.rmtree(path, ignore_errors=True)


_names = iter(range(1_000))


def python(runner: Runner, text: str) -> tuple[list[str], Path]:
    """The command of a Python program, in which PLACE is an empty file of its own; and that file."""
    place = runner.home / f"place-{next(_names)}"
    place.write_text("")
    script = place.with_suffix(".py")
    script.write_text(f"PLACE = {str(place)!r}\n{text}")
    return [sys.executable, str(script)], place


def heard(place: Path) -> list[bytes]:
    """What the listener read, one piece per read."""
    return [bytes.fromhex(line) for line in place.read_text().split()]


def socket_of(runner: Runner, session_id: str) -> Path:
    return config.load(environ=runner.environment).paths.terminal_socket(session_id)


# ---------------------------------------------------------------------------------------------------- start and end


def test_a_command_has_a_terminal_of_its_own_and_none_of_our_secrets(desk: Runner) -> None:
    info = spawn(desk, "bash", "--norc", cols=100, rows=30, env=desk.environment | {"TMUX": "x"})
    assert (info.driver, info.phase, info.agent, info.generation) == ("pty", "idle", "bash", 1)
    with Viewer(desk, info.session_id, cols=100, rows=30) as viewer:
        viewer.type(
            "echo $TERM/$COLORTERM/$HAPI_SESSION_ID/$CLI_API_TOKEN$TMUX/; stty size; test -t 0 && echo it-is-a-tty\r"
        )
        viewer.until(f"xterm-256color/truecolor/{info.session_id}//\r\n30 100\r\nit-is-a-tty\r\n")
        assert info.agent_process is not None
        assert os.getsid(info.agent_process.pid) == info.agent_process.pid
        assert procs.identity(os.getpid()) != info.agent_process
        viewer.type("sleep 1000\r")
        until(lambda: len(psutil.Process(info.agent_process.pid).children()) == 1, 10, "a program in the foreground")
        answer = desk.ask(wire.StopSession(info.session_id), wire.SessionStopped)
        assert (answer.status, answer.rung) == ("stopped", "hangup")
        assert viewer.ended() == Ended(signal=signal.SIGHUP, reason="stopped by user")
    ended = desk.ended(info.session_id)
    assert (ended.reason, ended.driver) == ("stopped by user", "pty")
    assert "it-is-a-tty" in (directory(desk, info.session_id) / "scrollback").read_text()
    assert not socket_of(desk, info.session_id).exists()
    assert info.supervisor is not None
    gone(info.supervisor)


@pytest.mark.parametrize(
    ("line", "end", "reason"),
    [
        ("exit 0", Ended(code=0, reason="completed"), "completed"),
        ("echo oh no; exit 7", Ended(code=7, reason="agent exited"), "agent exited"),
        ("kill -SEGV $$", Ended(signal=signal.SIGSEGV, reason="agent crashed"), "agent crashed"),
    ],
)
def test_the_end_of_the_program_is_the_end_of_the_session(desk: Runner, line: str, end: Ended, reason: str) -> None:
    info = spawn(desk, "sh")
    with Viewer(desk, info.session_id) as viewer:
        viewer.type(f"{line}\r")
        assert viewer.ended() == end
    ended = desk.ended(info.session_id)
    assert (ended.reason, ended.exit_code, ended.exit_signal) == (reason, end.code, end.signal)
    assert ("oh no" in (ended.detail or "")) is (end.code == 7)


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["no-such-program"], ErrorCode.AGENT_UNAVAILABLE, "no program no-such-program"),
        (["echo", "a\0b"], ErrorCode.BAD_REQUEST, "null byte"),
    ],
)
def test_a_program_that_does_not_start_is_a_failure_with_its_words(
    desk: Runner, command: list[str], code: ErrorCode, words: str
) -> None:
    key = f"1f0c22ab-0000-4000-8000-{len(words):012}"
    with pytest.raises(HapiError) as failure:
        spawn(desk, *command, session_id=key)
    assert failure.value.code is code
    assert words in f"{failure.value.message} {failure.value.hint}"
    assert desk.ended(key).reason == "spawn failed"
    assert not socket_of(desk, key).exists()


def test_a_short_command_that_does_its_work_is_no_failure(desk: Runner) -> None:
    info = spawn(desk, "sh", "-c", "echo done")
    ended = desk.ended(info.session_id)
    assert (ended.reason, ended.exit_code) == ("completed", 0)
    assert (directory(desk, info.session_id) / "scrollback").read_text().strip() == "done"


def test_the_agent_has_only_its_terminal_open(desk: Runner) -> None:
    info = spawn(desk, "sleep", "1000")
    assert info.agent_process is not None
    places = {
        int(fd): os.readlink(f"/proc/{info.agent_process.pid}/fd/{fd}")
        for fd in os.listdir(f"/proc/{info.agent_process.pid}/fd")
    }
    assert set(places) == {0, 1, 2}
    assert all(place.startswith("/dev/pts/") for place in places.values())
    desk.ask(wire.StopSession(info.session_id), wire.SessionStopped)


# ---------------------------------------------------------------------------------------------------- messages


@pytest.mark.parametrize("marks", [(b"\x1b[200~", b"\x1b[201~"), (b"", b"")])
def test_a_message_is_pasted_and_enter_pressed_when_the_program_has_taken_it(
    desk: Runner, marks: tuple[bytes, bytes]
) -> None:
    """Enter comes by itself, for programs take one that comes with a paste as part of it.

    Seen to fail: without the wait for silence in `Typist.message`.
    """
    mode = "\x1b[?2004h" if marks[0] else ""
    command, place = python(desk, LISTENER + f"tty.setraw(0)\nos.write(1, {mode!r}.encode() + b'> ')\nhear()")
    info = spawn(desk, *command)
    desk.ask(wire.SendText(info.session_id, "one\ntwo\x1b[201~\n", "m-1"), wire.Accepted)
    desk.ask(wire.SendText(info.session_id, "again", "m-2"), wire.Accepted)
    until(lambda: b"".join(heard(place)).count(b"\r") >= 3, 15, "both are typed")
    pieces = heard(place)
    assert b"".join(pieces) == marks[0] + b"one\rtwo[201~" + marks[1] + b"\r" + marks[0] + b"again" + marks[1] + b"\r"
    assert pieces.count(b"\r") == 2
    until(lambda: [type(e) for e in desk.events(info.session_id)].count(wire.Consumed) == 2, 10, "both are consumed")
    assert desk.info(info.session_id).queued == 0  # type: ignore[union-attr]
    desk.ask(wire.StopSession(info.session_id), wire.SessionStopped)


def test_trap_24_a_message_that_was_typed_is_on_record_as_soon_as_the_disk_has_room(desk: Runner) -> None:
    """Nobody waits for ever for a session that has done its work, nor is told that its fate is unknown.

    Seen to fail: without the second try in `TerminalSession._run_turn`.
    """
    source = (
        "tty.setraw(0); os.write(1, b'up'); b = b''\nwhile b'\\r' not in b:\n    b += os.read(0, 999); os.write(1, b)\n"
    )
    command, _ = python(desk, LISTENER + source + "os.read(0, 1)")
    info = spawn(desk, *command)
    assert info.supervisor is not None
    place = directory(desk, info.session_id)
    with Viewer(desk, info.session_id) as viewer:
        viewer.until("up")
        desk.ask(wire.SendText(info.session_id, "typed"), wire.Accepted)
        viewer.until("typed")
        limits = resource.prlimit(info.supervisor.pid, resource.RLIMIT_FSIZE)
        full = ((place / "journal").stat().st_size, limits[1])
        resource.prlimit(info.supervisor.pid, resource.RLIMIT_FSIZE, full)
        until(lambda: "cannot journal" in (place / "session.log").read_text(), 10, "the disk refuses")
        resource.prlimit(info.supervisor.pid, resource.RLIMIT_FSIZE, limits)
    assert desk.ask(wire.WaitSession(info.session_id, timeout_ms=15_000), wire.Waited).reached
    desk.ask(wire.StopSession(info.session_id), wire.SessionStopped)
    ended = desk.ended(info.session_id)
    assert (ended.unknown_messages, ended.events_lost) == (0, 0)
    assert "Consumed" in {type(event).__name__ for event in desk.events(info.session_id)}


def test_a_message_waits_for_a_program_that_is_still_getting_ready(desk: Runner) -> None:
    """It drops what was typed before it took the terminal, as most do.

    Seen to fail: with WARM_S and WARM_LONGEST_S of 0.
    """
    slow = "os.write(1, b'loading'); time.sleep(0.3); os.write(1, b'...'); tty.setraw(0, termios.TCSAFLUSH)\nos.write(1, b'> ')\nhear()"
    command, place = python(desk, LISTENER + slow)
    info = spawn(desk, *command)
    desk.ask(wire.SendText(info.session_id, "early", "m-1"), wire.Accepted)
    until(lambda: b"".join(heard(place)) == b"early\r", 15, "the message is typed, and whole")
    desk.ask(wire.StopSession(info.session_id), wire.SessionStopped)


def test_a_program_that_does_not_read_holds_up_its_messages_and_no_stop(desk: Runner) -> None:
    command, _ = python(desk, "import signal, tty\ntty.setraw(0)\nprint('deaf', flush=True)\nsignal.pause()")
    info = spawn(desk, *command)
    desk.ask(wire.SendText(info.session_id, "x" * 1_000_000, "m-1"), wire.Accepted)
    path = desk.root / "sessions" / info.session_id / "journal"
    until(lambda: journal.read(path).in_flight is not None, 10, "it is being typed")
    told = desk.info(info.session_id)
    assert told is not None
    assert (told.phase, told.queued) == ("idle", 1)  # whoever waits for idle is not told so in the middle of it
    assert desk.ask(wire.StopSession(info.session_id), wire.SessionStopped).status == "stopped"
    assert desk.ended(info.session_id).unknown_messages == 1
    assert any(isinstance(event, wire.Indeterminate) for event in desk.events(info.session_id))


def test_its_phase_follows_its_output_and_its_title_what_it_says(desk: Runner) -> None:
    info = spawn(desk, "bash", "--norc")
    with Viewer(desk, info.session_id) as viewer:
        viewer.type("printf '\\033]0;✳ Fix the tests\\007'; while read -t 0.1; [ $? -gt 128 ]; do echo tick; done\r")
        until(lambda: desk.info(info.session_id).phase == "working", 15, "it works")  # type: ignore[union-attr]
        until(lambda: desk.info(info.session_id).title == "Fix the tests", 15, "the title is told")  # type: ignore[union-attr]
        viewer.type("\r")
        until(lambda: desk.info(info.session_id).phase == "idle", 15, "it is idle")  # type: ignore[union-attr]
    desk.ask(wire.StopSession(info.session_id), wire.SessionStopped)


# ---------------------------------------------------------------------------------------------------- what may happen


def test_trap_42_100_mb_of_output_that_nobody_looks_at_never_block_the_program(desk: Runner) -> None:
    """It ends as fast as it can write, and the supervisor keeps little of it.

    Seen to fail: without the reader of the terminal's output.
    """
    line = "the quick brown fox jumps over the lazy dog 123456789012345678901234567890123"
    flood = f"yes '{line}' | head -c {FLOOD_BYTES}"
    program = f"import os, sys\nos.system({flood!r})\nopen(PLACE, 'w').write('done')\nsys.stdin.readline()"
    command, place = python(desk, program)
    info = spawn(desk, *command)
    assert info.supervisor is not None
    before = psutil.Process(info.supervisor.pid).memory_info().rss
    with Viewer(desk, info.session_id):
        pass  # detached again
    until(lambda: place.read_text() == "done", 60, "the program has written it all")
    with Viewer(desk, info.session_id) as viewer:
        viewer.until(line)
        assert psutil.Process(info.supervisor.pid).memory_info().rss - before < MEMORY_BYTES
        viewer.type("\r")
        assert viewer.ended() == Ended(code=0, reason="completed")
    assert 0 < (directory(desk, info.session_id) / "scrollback").stat().st_size <= 512 * 1024


def test_trap_04_nothing_of_a_terminal_survives_its_session(desk: Runner) -> None:
    """The program and its children are deaf to the hang-up and to SIGTERM; one has left the terminal and its session.
    A stop, the program's own end, the supervisor's death, all at once.

    Seen to fail: with a stop that ends with the hang-up; without the subreaper.
    """
    programs = [python(desk, FAMILY) for _ in range(3)]
    infos = [spawn(desk, *command) for command, _ in programs]
    tree = [process for _, place in programs for process in members(place, 2)]
    tree += [info.agent_process for info in infos if info.agent_process is not None]
    assert len(tree) == 9
    stopped, left, lost = infos
    answers: list[wire.SessionStopped] = []
    order = wire.StopSession(stopped.session_id)
    asking = threading.Thread(target=lambda: answers.append(desk.ask(order, wire.SessionStopped)))
    asking.start()
    assert lost.supervisor is not None
    os.kill(lost.supervisor.pid, signal.SIGKILL)
    with Viewer(desk, left.session_id) as viewer:
        viewer.type("\r")
        assert viewer.ended() == Ended(code=0, reason="completed")
    asking.join(30)
    assert [(answer.status, answer.rung) for answer in answers] == [("stopped", "kill")]
    reasons = [desk.ended(info.session_id).reason for info in infos]
    assert reasons == ["stopped by user", "completed", "supervisor lost"]
    until(lambda: not any(procs.is_alive(process) for process in tree), 15, "all are gone")
    sockets = [socket_of(desk, info.session_id) for info in infos]
    until(lambda: not any(path.exists() for path in sockets), 10, "their sockets are gone")


def test_where_nobody_can_listen_a_chat_does_without_terminals_and_a_terminal_is_refused(desk: Runner) -> None:
    for key in ("aaaaaaaa-0000-4000-8000-000000000001", "bbbbbbbb-0000-4000-8000-000000000001"):
        socket_of(desk, key).mkdir()
    session = desk.spawn("--id", "aaaaaaaa-0000-4000-8000-000000000001")["sessionId"]
    assert any(isinstance(e, wire.Note) and "cannot attach" in e.text for e in desk.events(session))
    assert desk.ask(wire.StopSession(session), wire.SessionStopped).status == "stopped"
    with pytest.raises(HapiError) as refusal:
        spawn(desk, "sleep", "1000", session_id="bbbbbbbb-0000-4000-8000-000000000001")
    assert refusal.value.code is ErrorCode.DISK
    assert not procs.marked("HAPI_SESSION_ID", "bbbbbbbb-0000-4000-8000-000000000001")


def test_a_shell_beside_it_is_hung_up_with_the_session(desk: Runner) -> None:
    """An interactive shell is deaf to SIGTERM: the stop does not come to that, nor does it wait for it.

    Seen to fail: with `Session._hang_up_shells` doing nothing.
    """
    info = spawn(desk, "sleep", "1000")
    with Viewer(desk, info.session_id, terminal="shell", open_shell=True) as viewer:
        viewer.type("echo $$ $TERM\r")
        shell = identity(int(viewer.until("xterm-256color\r\n").split()[-2]))
        answer = desk.ask(wire.StopSession(info.session_id), wire.SessionStopped)
        assert (answer.status, answer.rung) == ("stopped", "hangup")
        assert viewer.ended().signal == signal.SIGHUP
    assert not procs.is_alive(shell)


def test_a_shell_beside_a_chat_lives_and_ends_with_it(desk: Runner) -> None:
    session = desk.spawn()
    with Viewer(desk, session["sessionId"], terminal="mine", open_shell=True) as viewer:
        viewer.type("pwd\r")
        viewer.until(f"\r{desk.project}\r\n")
        answer = desk.ask(wire.StopSession(session["sessionId"]), wire.SessionStopped)
        assert (answer.status, answer.rung) == ("stopped", "eof")
        viewer.ended()
    with pytest.raises(HapiError):
        Viewer(desk, session["sessionId"], terminal="mine")


def test_the_broker_dies_and_comes_back_while_somebody_types(desk: Runner) -> None:
    info = spawn(desk, "cat")
    with Viewer(desk, info.session_id) as viewer:
        viewer.type("before\r")
        viewer.until("before\r\nbefore\r\n")
        broker = identity(desk.status()["pid"])
        os.kill(broker.pid, signal.SIGKILL)
        gone(broker)
        viewer.type("between\r")
        viewer.until("between\r\nbetween\r\n")
        desk.start()
        back = until(lambda: desk.info(info.session_id), 15, "the session is known again")
        assert back is not None
        assert (back.agent_process, back.generation, back.driver) == (info.agent_process, 1, "pty")
        desk.ask(wire.SendText(info.session_id, "after", "m-1"), wire.Accepted)
        viewer.until("after\r\nafter\r\n")
    desk.ask(wire.StopSession(info.session_id), wire.SessionStopped)


def test_a_session_passes_from_the_chat_to_a_terminal_with_what_waits_for_it(desk: Runner) -> None:
    """Handed over, no message is said to have waited in vain: the next driver gets it.

    Seen to fail: with `give_back` at every stop.
    """
    session = desk.spawn()["sessionId"]
    desk.ask(wire.SendText(session, "/hang", "m-1"), wire.Accepted)
    desk.wait_phase(session, "working")
    desk.ask(wire.SendText(session, "and this", "m-2"), wire.Accepted)
    desk.ask(wire.StopSession(session, handoff=True), wire.SessionStopped)
    assert desk.ended(session).reason == "handed over"
    info = spawn(desk, "cat", session_id=session, existing=True, agent="demo")
    assert (info.session_id, info.generation, info.driver) == (session, 2, "pty")
    with Viewer(desk, session) as viewer:
        viewer.until("and this\r\nand this\r\n")
    assert not any(isinstance(e, wire.Note) and "was not given" in e.text for e in desk.events(session))
    desk.ask(wire.StopSession(session), wire.SessionStopped)


def test_trap_39_a_terminal_comes_back_after_a_reboot_with_its_command_and_size(runner: Runner) -> None:
    """Seen to fail: with the driver left out of `Restarts.take`; without `same_command`."""
    runner.start()
    info = spawn(runner, "sh", "-c", "stty size; echo again >>log; exec cat", cols=111, rows=33)
    stopped = spawn(runner, "cat")
    runner.ask(wire.StopSession(stopped.session_id), wire.SessionStopped)
    power_cut(runner)
    runner.start()
    back = runner.wait_phase(info.session_id, "idle")
    assert back["pid"] != info.supervisor.pid  # type: ignore[union-attr]
    with Viewer(runner, info.session_id, cols=111, rows=33) as viewer:
        viewer.until("33 111")
    assert (runner.project / "log").read_text() == "again\nagain\n"
    known = json.loads((directory(runner, info.session_id) / "state.json").read_text())
    assert (known["generation"], known["driver"], known["agent"]) == (2, "pty", "sh")
    assert [s["sessionId"] for s in runner.sessions()] == [info.session_id]
