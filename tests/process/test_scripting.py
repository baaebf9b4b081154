"""Scripts drive sessions: they send, wait, read what was said; whatever becomes of the runner meanwhile."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hapi import procs, wire
from hapi.lifecycle import Phase
from tests.support.runner import COMMAND_S, Runner, gone, identity, open_paths
from tests.support.wait import until


@pytest.fixture(scope="module")
def desk() -> Iterator[Runner]:
    path = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    with Runner(path / "h") as home:
        home.start()
        yield home
    shutil.rmtree(path, ignore_errors=True)


_sessions: dict[str, str] = {}


@pytest.fixture
def session(desk: Runner) -> str:
    """A session of the demo agent with nothing to do: that of the test before, unless it has ended."""
    desk.ensure()
    key = _sessions.get("idle", "")
    info = desk.info(key)
    if info is None or info.phase is not Phase.IDLE:
        key = _sessions["idle"] = desk.spawn()["sessionId"]
    return key


def say(desk: Runner, key: str, text: str) -> None:
    desk.ask(wire.SendText(key, text), wire.Accepted)


IMPATIENT = (  # with a runner that is away
    sys.executable,
    "-c",
    "import sys; from hapi.cli import wait; wait.RETURN_S = 0.5; from hapi.__main__ import main; sys.exit(main())",
)


class Waiting(subprocess.Popen[str]):
    """A command that waits, with its output. Leaving it ends it."""

    def __init__(self, desk: Runner, *arguments: str, program: tuple[str, ...] = Runner.command) -> None:
        super().__init__(
            [*program, *arguments],
            env=desk.environment,
            cwd=desk.project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __exit__(self, *details: object) -> None:
        self.kill()
        super().__exit__(*details)  # type: ignore[arg-type]

    def line(self) -> str:
        """The next line of its output."""
        assert self.stdout is not None
        return self.stdout.readline()

    def asks(self) -> None:
        """Return when it talks to the runner: before, it has no socket."""
        until(lambda: any(path.startswith("socket:") for path in open_paths(self.pid)), 15, "the command asks")

    def result(self) -> tuple[int, str, str]:
        """Its exit status, and all that it has yet to say."""
        assert self.stdout is not None
        assert self.stderr is not None
        self.wait(COMMAND_S)
        return self.returncode, self.stdout.read(), self.stderr.read()


# ---------------------------------------------------------------------------------------------------- waiting


def test_wait_right_behind_send_is_not_answered_from_the_time_before(desk: Runner, session: str) -> None:
    """Seen to fail: without `self._changed()` in `Mailbox._arrived`."""
    for number in range(10):
        say(desk, session, f"/say number {number}")
        waited = desk.ask(wire.WaitSession(session), wire.Waited)
        assert (waited.reached, waited.info.phase, waited.info.queued) == (True, Phase.IDLE, 0)
        assert waited.info.last_words == f"number {number}"


def test_messages_that_wait_are_counted(desk: Runner, session: str) -> None:
    say(desk, session, "/slow 2 1")
    until(lambda: (info := desk.info(session)) is not None and info.phase is Phase.WORKING, 10, "it works")
    say(desk, session, "/say two")
    say(desk, session, "/say three")
    info = desk.info(session)
    assert info is not None
    assert (info.phase, info.queued) == (Phase.WORKING, 2)
    done = desk.hapi("wait", session, "--json", check=0)
    assert (done.json["phase"], done.json["reached"]) == ("idle", True)
    assert desk.hapi("logs", session, "-n", "2").out.splitlines()[0] == "three"


def test_last_words_are_told_in_the_middle_of_a_turn(desk: Runner, session: str) -> None:
    """Seen to fail: without `call_later` in `News.words`."""
    say(desk, session, "/say a word before ; /tool Read ok ; /slow 4 2")

    def words() -> tuple[Phase, str | None]:
        info = desk.info(session)
        assert info is not None
        return info.phase, info.last_words

    until(lambda: words() == (Phase.WORKING, "a word before"), 3.5, "the words are told")


def test_waiting_for_the_end(desk: Runner, session: str) -> None:
    with Waiting(desk, "wait", session, "--for", "ended", "--json") as waiting:
        waiting.asks()
        desk.hapi("send", session, "/crash exit 3", check=0)
        code, out, _ = waiting.result()
        found = json.loads(out)
        assert code == 0
        assert (found["phase"], found["reason"], found["exitCode"], found["reached"]) == (
            "ended",
            "agent exited",
            3,
            True,
        )
        assert desk.hapi("wait", session[:8], check=0).out == "ended (agent exited)\n"  # over and idle for ever


def test_the_time_is_up(desk: Runner, session: str) -> None:
    say(desk, session, "/slow 30 60")
    done = desk.hapi("wait", session, "--timeout", "0.3", "--json", check=124)
    assert (done.json["phase"], done.json["reached"]) == ("working", False)
    done = desk.hapi("wait", session, "--timeout", "0", check=124)
    assert (done.out, done.err) == ("working\n", "Not idle within 0 s.\n")


@pytest.mark.parametrize(("words", "code"), [(["wait", "ffff0000"], 1), (["wait", "ffff", "--for", "lunch"], 2)])
def test_waiting_for_what_is_not(desk: Runner, words: list[str], code: int) -> None:
    assert desk.hapi(*words).code == code


@pytest.mark.parametrize("how", ["killed", "restarted"])
def test_a_wait_survives_the_runner(desk: Runner, session: str, how: str) -> None:
    """Seen to fail: without `_survive` in `hapi.cli.wait`."""
    say(desk, session, "/slow 2 10")
    with Waiting(desk, "wait", session) as waiting:
        waiting.asks()
        if how == "killed":
            broker = identity(desk.status()["pid"])
            procs.send_signal(broker, signal.SIGKILL)
            gone(broker)
        else:
            desk.hapi("runner", "restart", check=0)
        assert waiting.result()[:2] == (0, "idle\n")
        assert desk.hapi("logs", session, "--json", "-n", "1").json["type"] == "turn"


def test_a_wait_does_not_start_a_runner_that_was_stopped(desk: Runner, session: str) -> None:
    """Seen to fail: with `carry_out` in place of `Control` in `wait`."""
    with Waiting(desk, "wait", session, "--for", "ended", "--json", program=IMPATIENT) as waiting:
        waiting.asks()
        desk.hapi("runner", "stop", check=0)
        code, out, _ = waiting.result()
        assert (code, json.loads(out)["error"]["code"]) in ((1, "shutting_down"), (3, "not_running"))
        assert desk.hapi("runner", "list").code == 3


# ----------------------------------------------------------------------------------------------------- answers


def test_the_answer_to_a_message(desk: Runner, session: str) -> None:
    say(desk, session, "/slow 0.3 1 ; /say not this")
    done = desk.hapi("send", session, "/say this ; /tool Read ok ; /say and that", "--wait", check=0)
    assert done.out == "this\n\nand that\n"


def test_an_answer_can_be_asked_for_twice(desk: Runner, session: str) -> None:
    words = ("send", session, "/count", "--wait", "--id", "key-1", "--json")
    first = desk.hapi(*words, check=0).json
    assert first["accepted"]
    assert first["stopReason"] == "end_turn"
    assert desk.hapi(*words, check=0).json == first


def test_an_answer_that_does_not_come(desk: Runner, session: str) -> None:
    assert desk.hapi("send", session, "/hang", "--wait", "--timeout", "0.5").code == 124
    desk.hapi("runner", "stop-session", session, check=0)
    done = desk.hapi("send", session, "hello", "--wait", "--json", check=1)
    assert done.json["error"]["code"] == "session_ended"


def test_an_agent_that_dies_over_the_answer(desk: Runner, session: str) -> None:
    done = desk.hapi("send", session, "/crash exit 3", "--wait", "--json", check=1)
    assert done.json["error"]["code"] == "session_ended"
    assert "agent exited" in done.json["error"]["message"]


# -------------------------------------------------------------------------------------------------------- logs


def test_what_was_said(desk: Runner, session: str) -> None:
    desk.hapi("send", session, "/say first ; /tool Read fail", "--wait", check=0)
    desk.hapi("send", session, "Grüße\x1b[2J", "--wait", check=0)
    shown = desk.hapi("logs", session[:8], check=0).out
    assert "> /say first ; /tool Read fail\nfirst\n· Read" in shown
    assert "· failed: Read" in shown
    assert "> Grüße?[2J\nYou said: Grüße?[2J\n" in shown
    lines = [json.loads(line) for line in desk.hapi("logs", session, "--json", check=0).out.splitlines()]
    assert [line["type"] for line in lines][:3] == ["user", "agent", "tool"]
    assert [line["type"] for line in lines][-3:] == ["user", "agent", "turn"]


def test_following_until_the_end(desk: Runner, session: str) -> None:
    desk.hapi("send", session, "/say early", "--wait", check=0)
    with Waiting(desk, "logs", session, "-f", "-n", "2") as following:
        assert following.line() == "early\n"
        say(desk, session, "/say late")
        desk.hapi("wait", session, check=0)
        desk.hapi("runner", "stop-session", session, check=0)
        code, out, err = following.result()
        assert code == 0
        assert out == "\n> /say late\nlate\n\n"
        assert err == "The session has ended: stopped by user.\n"


def test_a_reader_that_goes_away_ends_the_following(desk: Runner, session: str) -> None:
    desk.hapi("send", session, "/say early", "--wait", check=0)
    with Waiting(desk, "logs", session, "-f", "--json") as following:
        following.line()
        following.stdout.close()
        assert following.wait(COMMAND_S) in {0, 1}


def test_logs_need_no_runner(desk: Runner, session: str) -> None:
    desk.hapi("send", session, "/say kept", "--wait", check=0)
    desk.hapi("runner", "stop-session", session, check=0)
    desk.hapi("runner", "stop", check=0)
    assert "kept\n" in desk.hapi("logs", session, "--follow", check=0).out
    assert desk.hapi("logs", "ffff0000", "--json", check=1).json["error"]["code"] == "unknown_session"
    (desk.root / "sessions" / session / "transcript").unlink()
    assert desk.hapi("logs", session, "--json", check=1).json["error"]["code"] == "no_logs"


# --------------------------------------------------------------------------------------------------- terminals


def in_terminal(desk: Runner, script: str) -> str:
    """A session that runs a shell script in a terminal, with nobody attached."""
    desk.ensure()
    return desk.hapi("run", "--detach", "--", "sh", "-c", script, check=0).out.strip()


def test_the_text_of_a_terminal(desk: Runner) -> None:
    key = in_terminal(desk, "seq 1 100; printf '\\033[31mred\\033[0m'; exec cat")
    until(lambda: desk.hapi("logs", key, "-n", "1", check=0).out == "red\n", 15, "it has written all")
    whole = desk.hapi("logs", key, check=0).out
    assert whole == "".join(f"{number}\n" for number in range(1, 101)) + "red\n"
    with Waiting(desk, "logs", key, "-f", "-n", "2", "--json") as following:
        assert [json.loads(following.line())["text"] for _ in range(2)] == ["100", "red"]
        desk.hapi("send", key, "to be read", check=0)
        shown = [json.loads(following.line())["text"] for _ in range(2)]
        assert shown == ["to be read", "to be read"]  # its echo, and what cat makes of it
        assert desk.hapi("wait", key, "--json", check=0).json["lastWords"] == "to be read"
        assert desk.hapi("send", key, "an answer?", "--wait", "--json", check=1).json["error"]["code"] == "bad_request"
        desk.hapi("runner", "stop-session", key, check=0)
        code, _, err = following.result()
        assert (code, err) == (0, "The session has ended: stopped by user.\n")
        assert desk.hapi("logs", key, "-n", "3", check=0).out.splitlines()[-1] == "to be read"


def test_a_terminal_that_has_ended(desk: Runner) -> None:
    key = in_terminal(desk, "sleep 0.5; echo the end; exit 3")
    found = desk.hapi("wait", key, "--for", "ended", "--json", check=0).json
    assert (found["reason"], found["exitCode"], found["lastWords"], found["driver"]) == (
        "agent exited",
        3,
        "the end",
        "pty",
    )
    assert desk.hapi("logs", key, check=0).out == "the end\n"
    done = desk.hapi("send", key, "hello", "--wait", "--json", check=1)
    assert done.json["error"]["code"] == "session_ended"
