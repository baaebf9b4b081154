"""Terminals in the web, over the hub's own Socket.IO: a person's shell beside the agent, and the agent's own terminal."""

from __future__ import annotations

import hashlib
import os
import secrets
import signal
from collections.abc import Iterator

import psutil
import pytest

from hapi import config, handover, wire
from hapi.terminal.protocol import Attach, Attached
from tests.support.hub import OfficialHub, WebError
from tests.support.runner import command_line
from tests.support.terminal import RawViewer
from tests.support.wait import until, until_async
from tests.support.web_stage import DIES, SOON, Stage, on_stage
from tests.support.web_terminal import Page, WebTerminals

pytestmark = [pytest.mark.hub, pytest.mark.timeout(90)]

CANARY = "canary-5f1d"


@pytest.fixture(scope="module")
def stage(shared_hub: OfficialHub) -> Iterator[Stage]:
    with on_stage(shared_hub, "term") as made:
        yield made


@pytest.fixture(scope="module")
def chat(stage: Stage) -> str:
    """A chat for all tests that need one to have a shell beside."""
    return stage.new()


@pytest.fixture(scope="module")
def pty(stage: Stage) -> str:
    """A session whose agent runs in a terminal."""
    return stage.new(startingMode="pty")


@pytest.fixture
def browser(stage: Stage) -> Iterator[WebTerminals]:
    with WebTerminals(stage.web) as connected:
        yield connected


@pytest.fixture
def shell(browser: WebTerminals, chat: str) -> Iterator[tuple[str, Page]]:
    """A shell in the browser, closed behind: a session has four at most."""
    terminal_id, page = browser.ready(chat, cols=100, rows=30)
    yield terminal_id, page
    browser.send("terminal:close", terminalId=terminal_id)


def connector(stage: Stage) -> int:
    pid: int = stage.home.status()["workers"]["hub"]["pid"]
    return pid


def kill_connector(stage: Stage) -> None:
    """SIGKILL; returns when another one has the hub."""
    old = connector(stage)
    os.kill(old, signal.SIGKILL)
    until(lambda: connector(stage) not in {0, old} and stage.home.status()["hub"]["online"], SOON, "another connector")


# --------------------------------------------------------------------------------------------------------- shells


def test_a_shell_in_the_sessions_directory(stage: Stage, browser: WebTerminals, chat: str) -> None:
    """It has the page's size, speaks UTF-8 whatever is cut where, and its end is told with its exit code."""
    assert stage.row(chat)["metadata"]["capabilities"]["terminal"] is True
    terminal_id, page = browser.ready(chat, cols=120, rows=30)
    browser.type(
        terminal_id, "pwd; stty size; for c in '\\xe2' '\\x82' '\\xac.'; do printf $c; sleep 0.01; done; echo\r"
    )
    page.sees("30 120\n€.")
    assert str(stage.home.project) in page.text
    browser.send("terminal:resize", terminalId=terminal_id, cols=90, rows=20)
    browser.type(terminal_id, "stty size; exit 7\r")
    until(lambda: page.exits, SOON, "the shell's end")
    assert "20 90" in page.text
    assert page.exits == [(7, None)]


def test_no_secret_in_a_shell(stage: Stage, browser: WebTerminals, shell: tuple[str, Page]) -> None:
    """Neither the hub's token nor what the runner was given by such a name lies open in a browser."""
    terminal_id, page = shell
    browser.type(terminal_id, "env | tr '\\n' '|' | grep -c -e CLI_API_TOKEN -e canary-; echo over\r")
    page.sees("\n0\nover")
    assert stage.home.token not in page.text


def test_a_browser_comes_back_to_its_shell(browser: WebTerminals, chat: str, shell: tuple[str, Page]) -> None:
    """The network failed: the same shell, its screen drawn again, and a question that was asked is not answered twice."""
    terminal_id, page = shell
    browser.type(terminal_id, "kept=yes; printf '\\033[6n\\033[cASKED\\n'; read -t 5 -d c -s answer; echo\r")
    page.sees("ASKED")
    browser.drop()
    page.screen.reset()
    browser.connect()
    browser.ready(chat, cols=100, rows=30, terminal_id=terminal_id)
    page.sees("ASKED")
    browser.type(terminal_id, "echo kept: $kept, answered: ${#answer}\r")
    page.sees("kept: yes, answered: ")
    assert "answered: 0" not in page.text
    assert "\x1b[6n" not in page.raw


def test_a_shell_outlives_the_connector(
    stage: Stage, browser: WebTerminals, chat: str, shell: tuple[str, Page]
) -> None:
    """The page says "CLI disconnected." and offers Retry, which finds the same shell."""
    terminal_id, page = shell
    browser.type(terminal_id, "kept=still\r")
    page.sees("kept=still")
    kill_connector(stage)
    assert page.errors == ["CLI disconnected."]

    def retried() -> bool:
        page.errors.clear()
        before = page.ready
        browser.open(chat, cols=100, rows=30, terminal_id=terminal_id)
        until(lambda: page.ready > before or page.errors, SOON, "an answer to Retry")
        return not page.errors

    until(retried, SOON, "the shell is found again")
    browser.type(terminal_id, "echo it is $kept here\r")
    page.sees("it is still here")


def test_a_closed_terminal_ends_its_shell(browser: WebTerminals, chat: str) -> None:
    """The hub closes a terminal that was idle for 15 min by the same event."""
    terminal_id, page = browser.ready(chat)
    browser.type(terminal_id, "echo pid $$.\r")
    text = page.sees("\npid ")
    pid = int(text.rpartition("\npid ")[2].partition(".")[0])
    assert "sh" in command_line(pid)
    browser.send("terminal:close", terminalId=terminal_id)
    until(lambda: not psutil.pid_exists(pid), SOON, "the shell is gone")


def test_a_megabyte_is_pasted_whole(browser: WebTerminals, shell: tuple[str, Page]) -> None:
    """In order, with nothing missing, while the page is sent other things."""
    terminal_id, page = shell
    paste = "".join(f"{number:07d}\n" for number in range(1 << 17))
    browser.type(terminal_id, "stty raw -echo; echo now; head -c 1048576 | sha256sum; stty sane\r")
    page.sees("\nnow")
    browser.type(terminal_id, paste)
    page.sees(hashlib.sha256(paste.encode()).hexdigest())


def test_trap_42_a_flood_while_the_hub_stands_still(
    stage: Stage, browser: WebTerminals, shared_hub: OfficialHub, shell: tuple[str, Page]
) -> None:
    """A stopped hub makes no shell wait, nor the connector grow; then the page has the screen as it is.

    Seen to fail: without the receipts in `Feed`, the connector held all that the shell had written.
    """
    terminal_id, page = shell
    mark = stage.home.project / secrets.token_hex(4)
    process = psutil.Process(connector(stage))
    before, came = process.memory_info().rss, page.came
    browser.type(
        terminal_id, f"head -c 12000000 /dev/zero | tr '\\0' x | fold; touch {mark.name}; echo; echo flood is over\r"
    )
    until(lambda: page.came > came + 10_000, SOON, "the flood has begun")
    os.kill(shared_hub.pid, signal.SIGSTOP)
    try:
        until(mark.exists, SOON, "the shell is through while nobody reads")
        assert process.memory_info().rss - before < 6_000_000
    finally:
        os.kill(shared_hub.pid, signal.SIGCONT)
    page.sees("\nflood is over")
    assert page.came - came < 6_000_000, "the page was spared the most of it"


def test_line_feeds_of_a_full_screen_program_go_straight_down(browser: WebTerminals, shell: tuple[str, Page]) -> None:
    """The app's emulator begins by taking a line feed for a new line; a program in raw mode means the row below.

    Seen to fail: with a screen that does not reset the new-line mode.
    """
    terminal_id, page = shell
    browser.type(terminal_id, "clear; stty -onlcr; printf 'down\\nhere\\r\\n'; stty onlcr\r")
    page.sees("down\n    here")


def test_a_session_without_terminals_says_so(stage: Stage, browser: WebTerminals) -> None:
    """As those of supervisors from before there were any. The page offers to try again."""
    session = stage.new()
    sockets = config.load(stage.namespace, environ=stage.home.environment).paths.terminal_socket(session)
    hidden = sockets.rename(sockets.with_suffix(".hidden"))
    terminal_id, page = browser.open(session)
    until(lambda: page.errors, SOON, "the reason")
    assert page.errors == ["The session has no terminal to show. A session of an older version has none."]
    hidden.rename(sockets)
    browser.ready(session, terminal_id=terminal_id)


# --------------------------------------------------------------------------------------------- the agent's own


async def viewers(stage: Stage, session: str) -> int:
    """How many look at the agent's terminal, without us."""
    path = config.load(stage.namespace, environ=stage.home.environment).paths.terminal_socket(session)
    viewer = await RawViewer.connect(path)
    try:
        viewer.send(Attach(read_only=True, replay=False))
        attached = await viewer.next(Attached)
        return attached.viewers - 1
    finally:
        await viewer.close()


def test_a_session_in_a_terminal_is_shown_as_one(stage: Stage, browser: WebTerminals, pty: str) -> None:
    """With its screen, keys, and the chat's messages typed in; every browser sees the same."""
    row = stage.row(pty)
    assert (row["metadata"]["startingMode"], row["agentState"]["startingMode"]) == ("pty", "pty")
    assert row["agentState"]["controlledByUser"] is True, "the web offers to switch"
    page = browser.watch(pty, cols=100, rows=30)
    page.sees("Demo conversation")
    browser.press(pty, "by key\r")
    page.sees("You said: by key")
    stage.web.send(pty, "by message", "m1")
    page.sees("You said: by message")
    until(lambda: consumed(stage, pty, "m1"), SOON, "the message is no longer queued")
    with WebTerminals(stage.web) as other:
        second = other.watch(pty, cols=100, rows=30)
        second.sees("You said: by message")
        other.press(pty, "by another\r")
        page.sees("You said: by another")


def test_another_size_is_drawn_anew(browser: WebTerminals, pty: str) -> None:
    """The page's own idea of what stands where would be that of the old width. Seen to fail: without the Redraw."""
    page = browser.watch(pty, cols=100, rows=30)
    browser.press(pty, "before\r")  # the first keys may come before we are attached
    page.sees("You said: before")
    page.screen.reset()
    page.screen.resize(20, 60)
    browser.send("agent-terminal:resize", sessionId=pty, cols=60, rows=20)
    page.sees("You said: before")


def consumed(stage: Stage, session: str, local_id: str) -> bool:
    return any(row.get("localId") == local_id and row.get("invokedAt") for row in stage.web.messages(session))


async def test_streams_only_while_somebody_watches(stage: Stage, browser: WebTerminals, pty: str) -> None:
    """And looking again shows all of the screen."""
    page = browser.watch(pty)
    page.sees("Demo conversation")
    assert await viewers(stage, pty) == 1
    browser.send("agent-terminal:unsubscribe", sessionId=pty)

    async def unwatched() -> bool:
        return await viewers(stage, pty) == 0

    await until_async(unwatched, SOON, "the connector looks away")
    page.screen.reset()
    browser.watch(pty)
    page.sees("Demo conversation")


def test_a_watched_terminal_goes_on_when_the_connector_is_killed(stage: Stage, browser: WebTerminals, pty: str) -> None:
    """The browser does nothing for it: its connection stands, and the hub does not say again that it watches."""
    page = browser.watch(pty)
    page.sees("Demo conversation")
    page.screen.reset()
    kill_connector(stage)
    page.sees("Demo conversation")
    browser.press(pty, "after the crash\r")
    page.sees("You said: after the crash")


def test_archived_reopened_and_resumed_as_a_terminal(stage: Stage) -> None:
    """Each time the same session, in its terminal, with the agent's memory."""
    session = stage.new(startingMode="pty")
    with WebTerminals(stage.web) as browser:
        page = browser.watch(session)
        browser.press(session, "/count\r")
        page.sees("\n1\n")
        stage.web.archive(session)
        assert stage.reopen(session)["sessionId"] == session
        page = browser.watch(session)
        browser.press(session, "/count\r")
        page.sees("\n2\n")
        browser.press(session, "/exit\r")
        until(lambda: stage.lifecycle(session) == (False, "running"), SOON, "inactive")
        page.sees("[Session terminated]")
        assert stage.resume(session)["sessionId"] == session
        page = browser.watch(session)
        browser.press(session, "/count\r")
        page.sees("\n3\n")
    assert stage.info(session).driver == "pty"


def test_between_terminal_and_chat_the_session_never_ends(stage: Stage, browser: WebTerminals) -> None:
    """To the hub it is active all the time, so that it forgets nobody's message; the conversation goes on."""
    session = stage.new(startingMode="pty")
    page = browser.watch(session)
    browser.press(session, "/count\r")
    page.sees("\n1\n")
    active: list[bool] = []

    def shown(mode: str) -> bool:
        row = stage.row(session)
        active.append(row["active"])
        state: dict[str, object] = row["agentState"]
        return (state["startingMode"], state["controlledByUser"]) == (mode, mode == "pty")

    stage.web.post(f"/api/sessions/{session}/switch")
    until(lambda: shown("remote"), SOON, "a chat")
    assert stage.say(session, "/count") == "2"
    steps = handover.steps(stage.info(session), "pty", config.load(environ=stage.home.environment), os.environ)
    assert steps.stop is not None and steps.spawn is not None
    stage.home.ask(steps.stop, wire.SessionStopped)
    stage.home.ask(steps.spawn, wire.Spawned)
    until(lambda: shown("pty"), SOON, "a terminal again")
    assert all(active)
    assert "[Session terminated]" not in page.text
    browser.watch(session)
    browser.press(session, "/count\r")
    page.sees("\n3\n")


def test_a_terminal_that_has_no_chat_is_not_offered_one(stage: Stage, browser: WebTerminals) -> None:
    """Any command at all; who orders it all the same is told in the chat why not, and the command runs on."""
    order = wire.Spawn(
        session_id="5e55104a-0000-4000-8000-00000000beef",
        directory=str(stage.home.project),
        agent="cat",
        started_by="terminal",
        driver="pty",
        command=["cat"],
    )
    session = stage.home.ask(order, wire.Spawned).info.session_id
    until(lambda: session in {row["id"] for row in stage.web.sessions() if row["active"]}, SOON, "the hub shows it")
    assert stage.row(session)["agentState"]["controlledByUser"] is False
    stage.web.post(f"/api/sessions/{session}/switch")
    until(lambda: "does not go on as a chat" in stage.notes(session), SOON, "a note in the chat")
    page = browser.watch(session)
    browser.press(session, "meow\r")
    page.sees("meow\nmeow")


def test_a_command_is_the_same_command_when_it_is_reopened(stage: Stage) -> None:
    """The hub knows no agent of its name, and orders claude for it.

    Seen to fail: with the hub's word for the agent, the command went on under the name and icon of claude.
    """
    session = stage.home.ask(
        wire.Spawn(
            session_id="ca7ca7ca-0000-4000-8000-000000000001",
            directory=str(stage.home.project),
            agent="meow",
            started_by="terminal",
            driver="pty",
            command=["cat"],
        ),
        wire.Spawned,
    ).info.session_id
    until(lambda: session in {row["id"] for row in stage.web.sessions() if row["active"]}, SOON, "the hub shows it")
    stage.web.archive(session)
    assert stage.reopen(session)["sessionId"] == session
    process = stage.info(session).agent_process
    assert process is not None and "cat" in command_line(process.pid)
    assert stage.info(session).agent == "meow"
    assert stage.row(session)["metadata"]["flavor"] == "meow"
    stage.web.archive(session)


def test_a_terminal_session_that_was_never_ready_says_why(stage: Stage) -> None:
    """Not installed, or at its end at once: with its last words, as any spawn that fails."""
    agents = stage.home.read_settings()["agents"]
    stage.home.settings(agents=agents | {"grok": {"command": DIES, "terminal": DIES}})
    assert "not installed" in stage.order(agent="kimi", startingMode="pty")["message"]
    assert "no key, no agent" in stage.order(agent="grok", startingMode="pty")["message"]
    assert "no key, no agent" in stage.error()["message"]
    with pytest.raises(WebError, match="400"):
        stage.order(agent="agy", startingMode="pty")


def test_terminals_outlive_the_hub(
    stage: Stage, browser: WebTerminals, shared_hub: OfficialHub, pty: str, shell: tuple[str, Page], chat: str
) -> None:
    """Killed and started again: the browser's connection comes back by itself, to the same shell and screen."""
    terminal_id, page = shell
    browser.type(terminal_id, "kept=still\r")
    page.sees("kept=still")
    shared_hub.kill()
    shared_hub.start()
    browser.connect()
    until(lambda: stage.row(pty)["active"] and stage.row(chat)["active"], SOON, "the connector is back")
    browser.watch(pty).sees("Demo conversation")
    browser.ready(chat, cols=100, rows=30, terminal_id=terminal_id)
    browser.type(terminal_id, "echo it is $kept here\r")
    page.sees("it is still here")


def test_a_shell_ends_with_its_session(stage: Stage, browser: WebTerminals) -> None:
    """An archived session's shell is over, and says so."""
    session = stage.new()
    _, page = browser.ready(session)
    stage.web.archive(session)
    until(lambda: page.exits or page.errors, SOON, "the page is told")
