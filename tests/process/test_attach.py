"""`hapi attach`, `hapi run`, `hapi AGENT` and `hapi` in real terminals: pyte's and tmux's, with real programs in them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from hapi import config, procs, wire
from hapi.terminal.client import connect
from hapi.terminal.guard import TITLE
from hapi.terminal.protocol import Attach, Output, Replay, Resized
from hapi.terminal.tty import LEAVE
from tests.support.person import Person, Tmux
from tests.support.runner import Runner, command_line, gone
from tests.support.wait import until

DETACH = b"\x1cd"
ECHO = "PS1='$ ' exec bash --norc --noprofile"
pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def home():
    """One runner for all; each test has sessions of its own."""
    path = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    with Runner(path / "h") as runner:
        runner.start()
        yield runner
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def tmux(home, scratch):
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    with Tmux(home, scratch) as server:
        yield server


def detached(home, *command):
    """A session that runs the command, nobody attached; its id."""
    return home.hapi("run", "--detach", "--", *command, check=0).out.strip()


def shell(home):
    return detached(home, "sh", "-c", ECHO)


def stop(home, session):
    home.hapi("runner", "stop-session", session, check=0)


def newest(home):
    """The id of the session that was started last."""
    return max(home.sessions(), key=lambda session: session["startedAt"])["sessionId"]


def guards(session):
    """The guards of the terminals that are attached to it now."""
    clients = [pid for pid in psutil.pids() if f"attach {session}" in command_line(pid)]
    below = {child for pid in clients for child in procs.children(pid)}
    return {who for pid in below if command_line(pid) == TITLE and (who := procs.identity(pid))}


# ------------------------------------------------------------------------------------------------- coming and going


def test_attach_type_detach_and_find_it_again(home):
    session = shell(home)
    with Person(home, "attach", session) as person:
        person.sees("Ctrl-\\ d detaches")
        assert person.attributes() != person.before
        person.types("echo one-$((1 + 1))\r")
        person.sees("one-2")
        person.misses("detaches")
        person.types(DETACH)
        assert person.ends() == 0
        assert person.attributes() == person.before
        assert LEAVE in person.raw
        person.sees(f"The session goes on: hapi attach {session[:8]}")
    with Person(home, "attach", session[:6], "--quiet", size=(100, 30)) as person:
        person.sees("one-2")
        person.types("stty size\r")
        person.sees("30 100")
        person.resize(90, 20)
        person.types("stty size\r")
        person.sees("20 90")
        assert "detaches" not in person.text()
        person.types("exit 7\r")
        assert person.ends() == 7
        assert person.attributes() == person.before
        person.sees(f"Session {session[:8]} has ended:")
        assert "exit code 7" in person.text()


def test_two_look_and_one_only_looks(home):
    session = shell(home)
    with Person(home, "attach", session, "-q") as one, Person(home, "attach", session, "-r", size=(60, 20)) as other:
        other.sees("read-only")
        other.sees("cut: it has 80x24 now")
        one.types("echo both-$((1 + 1))\r")
        one.sees("both-2")
        other.sees("both-2")
        other.types("echo never\r" + "x" * 10)
        one.types("stty size\r")
        one.sees("24 80")
        assert "never" not in one.text()
        other.types(b"\x03")
        assert other.ends() == 0
    stop(home, session)


def test_the_detach_key_is_configurable_and_goes_through_when_typed_twice(home):
    code = "import os,tty;tty.setraw(0);print('ready',end='\\r\\n',flush=True)\nwhile 1:print(os.read(0,9),end='\\r\\n',flush=True)"
    session = detached(home, sys.executable, "-c", code)
    with Person(home, "attach", session, HAPI_DETACH_KEY="C-a q") as person:
        person.sees("Ctrl-A q detaches")
        person.types(b"\x1cd")
        person.sees("b'\\x1cd'")
        person.types(b"\x01\x01")
        person.sees("b'\\x01'")
        person.types(b"\x1b[97;5u\x1b[113u")
        assert person.ends() == 0
    done = home.hapi("attach", session, env={"HAPI_DETACH_KEY": "a"}, check=2)
    assert "terminal" in done.err
    with Person(home, "attach", session, HAPI_DETACH_KEY="a") as person:
        person.sees("makes no sense")
        assert person.ends() == 1
    stop(home, session)


def test_a_paste_of_a_megabyte_arrives_whole(home):
    whole = b"\x1b[200~" + bytes(range(0x20, 0x7F)) * 11_000 + "ü€😀\x1cd".encode() * 1000 + b"\x1b[201~"
    code = (
        "import hashlib,os,sys,tty;tty.setraw(0);print('\\x1b[?2004hready',end='\\r\\n',flush=True)\n"
        "data=b''\nwhile not data.endswith(b'\\x1b[201~'): data+=os.read(0,65536)\n"
        "print(len(data),hashlib.sha256(data).hexdigest(),end='\\r\\n',flush=True)\nos.read(0,1)"
    )
    session = detached(home, sys.executable, "-c", code)
    with Person(home, "attach", session, "-q", size=(120, 24)) as person:
        person.sees("ready")
        assert b"\x1b[?2004h" in person.raw
        person.types(whole)
        person.sees(f"{len(whole)} {hashlib.sha256(whole).hexdigest()}")
        person.types(DETACH)
        assert person.ends() == 0
        assert person.raw.rindex(b"\x1b[?2004l") > person.raw.index(b"\x1b[?2004h")
    stop(home, session)


# ------------------------------------------------------------------------------------------------- whatever dies


def test_a_killed_client_leaves_a_terminal_as_it_was(home):
    session = shell(home)
    with Person(home, "attach", session, "-q") as person:
        person.types("printf '\\e[?1049h\\e[?1000h\\e[?25lfull-%d\\n' 7\r")
        person.sees("full-7")
        (guard,) = until(lambda: guards(session), 10, "a guard watches")
        os.killpg(person.process.pid, signal.SIGKILL)
        assert person.ends() == -signal.SIGKILL
        until(lambda: person.attributes() == person.before, 10, "the terminal is as it was")
        person.writes(LEAVE)
        gone(guard)
    with Person(home, "attach", session, "-q") as person:
        person.sees("full-7")
        assert b"\x1b[?1049h" in person.raw
        assert b"\x1b[?1000h" in person.raw
        person.types(DETACH)
        assert person.ends() == 0
    stop(home, session)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_in_good_order(home, number, status):
    session = shell(home)
    with Person(home, "attach", session, "-q") as person:
        person.sees("$")
        (guard,) = until(lambda: guards(session), 10, "a guard watches")
        person.kills(number)
        assert person.ends() == status
        assert person.attributes() == person.before
        assert LEAVE in person.raw
    gone(guard)
    stop(home, session)


def test_stopped_from_elsewhere_and_continued(home):
    session = shell(home)
    with Person(home, "attach", session, "-q") as person:
        person.types("echo here-$((1 + 1))\r")
        person.sees("here-2")
        person.kills(signal.SIGTSTP)
        stopped = psutil.Process(person.process.pid)
        until(lambda: stopped.status() == psutil.STATUS_STOPPED, 10, "it is stopped")
        assert person.attributes() == person.before
        person.kills(signal.SIGCONT)
        until(lambda: person.attributes() != person.before, 10, "it is raw again")
        person.types("echo again-$((1 + 1))\r")
        person.sees("again-2")
        person.types(DETACH)
        assert person.ends() == 0
    stop(home, session)


def test_the_broker_dies_and_people_type_on(home):
    session = shell(home)
    with Person(home, "attach", session, "-q") as person:
        person.sees("$")
        os.kill(home.status()["pid"], signal.SIGKILL)
        person.types("echo still-$((1 + 1))\r")
        person.sees("still-2")
        with Person(home, "attach", session, "-q") as other:  # no runner is needed to come in either
            other.sees("still-2")
        home.ensure()
        person.types("echo back-$((1 + 1))\r")
        person.sees("back-2")
        person.types("exit\r")
        assert person.ends() == 0


def test_handed_over_is_no_failure(home):
    session = shell(home)
    with Person(home, "attach", session, "-q") as person:
        person.sees("$")
        home.ask(wire.StopSession(session, handoff=True), wire.SessionStopped)
        assert person.ends() == 0
        person.sees("handed over, it goes on elsewhere")


def test_trap_42_a_terminal_that_takes_nothing_slows_nobody(home):
    """30 MB while one window takes no output: the program and the other window are done, the slow one hears of it.

    Seen to fail: without the limit of what waits for a viewer.
    """
    flood = f"read x; yes {'x' * 78} | head -c 30000000; echo all-$((399 + 1)); read x"
    session = detached(home, "sh", "-c", flood)
    path = config.load(environ=home.environment).paths.terminal_socket(session)
    with connect(path, Attach(cols=80, rows=24)) as quick, Person(home, "attach", session, "-r") as slow:
        slow.sees("read-only")
        slow.blind, slow.draws = True, False
        quick.type(b"\r")
        output = b""
        while b"all-400" not in output:
            message = quick.receive(20)
            assert isinstance(message, Output | Replay | Resized), message
            output = output[-100:] + getattr(message, "data", b"")
        slow.blind = False
        slow.writes(b"MB of output were skipped")
        assert len(slow.raw) < 10_000_000
        slow.writes(b"all-400")
        quick.type(b"\r")
        assert slow.ends() == 0


def test_one_can_leave_while_the_terminal_takes_nothing(home):
    session = detached(home, "sh", "-c", "read x; yes | head -c 5000000; read x")
    with Person(home, "attach", session) as person:
        person.sees("detaches")
        person.blind, person.draws = True, False
        person.types("\r")
        until(lambda: person.waiting() > 2000, 20, "the terminal is full")
        (guard,) = guards(session)
        person.types(DETACH)
        gone(guard)
        assert person.attributes() == person.before
        person.blind = False
        assert person.ends() == 0
    stop(home, session)


def test_the_supervisor_dies_and_it_is_said(home):
    session = shell(home)
    with Person(home, "attach", session) as person:
        person.sees("detaches")
        os.kill(home.session(session)["pid"], signal.SIGKILL)
        assert person.ends() == 1
        assert "detaches" not in person.text()
        assert person.attributes() == person.before
        person.sees("its supervisor ended without a word")
    home.ended(session)


def test_the_session_is_stopped_by_somebody_else(home):
    session = shell(home)
    with Person(home, "attach", session, "-q") as person:
        person.sees("$")
        stop(home, session)
        assert person.ends() == 128 + signal.SIGHUP
        person.sees("stopped by user")


def test_the_terminal_is_killed_and_the_session_goes_on(home, tmux):
    session = shell(home)
    window = tmux.shell()
    tmux.types(window, f"hapi attach {session} -q", "Enter")
    (guard,) = until(lambda: guards(session), 20, "somebody is attached")
    tmux.types(window, "echo left-$((1 + 1))", "Enter")
    tmux.sees(window, "left-2")
    os.kill(int(tmux.tmux("display-message", "-p", "#{pid}")), signal.SIGKILL)
    gone(guard)
    with Person(home, "attach", session, "-q") as person:
        person.sees("left-2")
        person.types("exit\r")
        assert person.ends() == 0


# ------------------------------------------------------------------------------------------------- real programs


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
def test_vim_here_and_elsewhere(home, tmux):
    text = home.project / "poem.txt"
    text.write_text("".join(f"line {number} ünïcode 漢字\n" for number in range(1, 100)))
    one, other = tmux.shell(), tmux.shell()
    tmux.types(one, "echo before; hapi run -- vim -Nu NONE -i NONE poem.txt", "Enter")
    tmux.sees(one, "line 20 ünïcode 漢字")
    tmux.types(one, ":set number", "Enter", "50Gzt")
    first = tmux.sees(one, "50 line 50", "72 line 72")
    tmux.types(one, "C-\\", "d")
    tmux.sees(one, "Detached.")
    assert "echo before" in tmux.capture(one, "-S", "-100")  # what stood there has scrolled away
    tmux.types(other, f"hapi attach --quiet {newest(home)}", "Enter")
    tmux.sees(other, "50 line 50", "72 line 72")
    strip = lambda shown: [line.rstrip() for line in shown.splitlines()][:23]  # noqa: E731 - the last line is vim's
    assert strip(tmux.capture(other)) == strip(first)
    tmux.types(other, "ihere ", "Escape")
    tmux.sees(other, "here line 50")
    tmux.tmux("resize-window", "-t", other, "-x", "60", "-y", "12")
    until(lambda: "61" not in tmux.capture(other) and "here line 50" in tmux.capture(other), 20, "it has 12 rows")
    tmux.types(other, ":wq", "Enter")
    tmux.sees(other, "has ended: completed")
    assert "here line 50" in text.read_text()
    tmux.types(other, "clear; hapi run -- sh -c 'echo 1st; echo 2nd; sleep 0.7'; echo $((2 + 1))rd", "Enter")
    shown = tmux.sees(other, "1st\n2nd", "3rd")  # vim's alternate screen has left no trace
    assert re.search(r"1st\n2nd\nSession .*\n3rd\n", shown), shown


@pytest.mark.skipif(shutil.which("top") is None, reason="top is not installed")
def test_top_and_true_colour(home, tmux):
    window = tmux.shell()
    tmux.types(window, "hapi run -- top -d 0.5", "Enter")
    tmux.sees(window, "load average", "PID USER")
    tmux.types(window, "C-\\", "d")
    tmux.sees(window, "Detached.")
    tmux.types(window, f"clear; hapi attach -q {newest(home)}", "Enter")
    tmux.sees(window, "load average", "PID USER")
    tmux.types(window, "q")
    tmux.sees(window, "has ended: completed")
    stripes = "".join(f"\\033[48;2;{red};20;200m#" for red in range(0, 250, 50))
    tmux.types(window, f"clear; hapi run -- sh -c 'printf \"{stripes}\\033[0m done\\n\"; read x'", "Enter")
    tmux.sees(window, "##### done")
    fresh = re.findall(r"48;2;\d+;20;200", tmux.capture(window, "-e"))
    tmux.types(window, "C-\\", "d")
    tmux.sees(window, "Detached.")
    tmux.types(window, f"clear; hapi attach -q {newest(home)}", "Enter")
    tmux.sees(window, "##### done")
    assert re.findall(r"48;2;\d+;20;200", tmux.capture(window, "-e")) == fresh
    assert len(fresh) == 5
    tmux.types(window, "Enter")
    tmux.sees(window, "has ended: completed")


# ------------------------------------------------------------------------------------------------- the commands


def test_a_command_that_ends_at_once(home):
    with Person(home, "run", "echo", "quick") as person:
        assert person.ends() == 0
        assert "quick" in person.text()
    with Person(home, "run", "--", "sh", "-c", "sleep 0.6; kill -KILL $$") as person:
        assert person.ends() == 128 + signal.SIGKILL
        assert "SIGKILL" in person.text()
    with Person(home, "run", "--", "/does/not/exist") as person:
        assert person.ends() == 1
        assert "There is no program /does/not/exist" in person.text()


def test_without_a_terminal_it_says_what_to_write(home):
    for words, instead in [
        ([], "hapi runner spawn"),
        (["demo", "--x"], "hapi runner spawn . --agent demo -- --x"),
        (["run", "--", "sh", "-c", "make all"], "hapi run --detach -- sh -c 'make all'"),
        (["attach", "1f0c"], "hapi logs ID"),
    ]:
        done = home.hapi(*words, check=2)
        assert "terminal" in done.err
        assert instead in done.err, done
    for words in (["run", "--json"], ["run", "--json", "--", "true"], ["resume", "--json"]):
        error = home.hapi(*words, check=2).json["error"]
        assert error["code"] == "usage"
        assert "--json needs" in error["message"]
    for words in (["run", "--detach", "--", "echo", "caf\udce9"], ["send", "0000", "caf\udce9"]):
        assert "not UTF-8" in home.hapi(*words, check=2).err


def test_what_cannot_be_attached_to(home):
    chat = home.spawn()["sessionId"]
    ended = detached(home, "true")
    home.ended(ended)
    for target, words in [(chat, "is a chat"), (ended, "has ended"), ("0000", "No session"), (chat[:2], "No session")]:
        with Person(home, "attach", target) as person:
            assert person.ends() == 1
            assert words in person.text(), target
            assert person.attributes() == person.before
    with Person(home, "attach", chat, HAPI_SESSION_ID=chat) as person:
        assert person.ends() == 2
    stop(home, chat)


def test_which_session_is_asked_when_there_are_several(home):
    for session in home.sessions():
        stop(home, session["sessionId"])
    with Person(home, "attach") as person:
        assert person.ends() == 1
        assert "No session has a terminal" in person.text()
    first = home.hapi("run", "-d", "--name", "older", "--", "sh", "-c", "echo I am older; " + ECHO, check=0).out.strip()
    with Person(home, "attach", "-q") as person:
        person.sees("I am older")
        person.types(DETACH)
        assert person.ends() == 0
    second = home.hapi(
        "run", "-d", "--name", "newer", "--", "sh", "-c", "echo I am newer; " + ECHO, check=0
    ).out.strip()
    with Person(home, "attach", "-q") as person:
        person.sees("Which session?")
        assert person.text().index("newer") < person.text().index("older")
        person.types("\x1b[B\r")
        person.sees("I am older")
        person.types(DETACH)
        assert person.ends() == 0
    with Person(home, "attach", "-q") as person:
        person.sees("Which session?")
        person.types("\x1b")
        assert person.ends() == 1
        assert person.attributes() == person.before
    stop(home, first)
    stop(home, second)


def test_agents_are_offered_the_last_used_first(home, scratch):
    program = scratch / "agent"
    program.write_text(f'#!/bin/sh\necho "$0 got $*"\n{ECHO}\n')
    program.chmod(0o755)
    mine = {name: {"terminal": [str(program), name]} for name in ("alpha", "beta")}
    home.settings(agents=mine | {"lost": {"terminal": ["/not/there"]}})
    with Person(home, PATH=f"{scratch}:/usr/bin:/bin") as person:
        person.sees("Which agent")
        assert "lost" not in person.text()
        assert person.text().index("alpha") < person.text().index("beta")
        person.types("\x1b[B\r")
        person.sees("agent got beta")
        person.types("exit\r")
        assert person.ends() == 0
    with Person(home) as person:
        person.sees("Which agent")
        assert person.text().index("beta") < person.text().index("alpha")
        person.types("q")
        assert person.ends() == 1
    with Person(home, "alpha", "--help", "--json", "-x y", "--namespace") as person:
        person.sees("agent got alpha --help --json -x y --namespace")
        person.types("exit 3\r")
        assert person.ends() == 3
    with Person(home, "lost") as person:
        assert person.ends() == 1
        assert "is not installed" in person.text()
    home.settings(agents={"claude": {"use": "demo"}})
