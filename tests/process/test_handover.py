"""A session passes from the web's chat into a terminal and back: the same session, the same conversation, nothing lost."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from hapi import wire
from hapi.ids import SESSION_MARK
from tests.support.chat import SHOWN_S, Chat
from tests.support.hub import OfficialHub, WebClient, unique
from tests.support.person import Person
from tests.support.runner import Done, Runner
from tests.support.wait import until

pytestmark = [pytest.mark.hub, pytest.mark.timeout(120)]
DETACH = "\x1cd"
BROKEN = {"use": "demo", "terminal": ["/bin/sh", "-c", "echo no terminal for you; exit 3", "{flags}"]}
HOLDER = {  # holds a file open that tells its conversation, as codex does
    "use": "demo",
    "terminal": ["/bin/sh", "-c", "exec 3>talk-4711; read line", "{flags}"],
    "conversation": {"resume": ["--resume", "{id}"], "file": "/talk-([0-9]+)$"},
}


@pytest.fixture(scope="module")
def chat(shared_hub: OfficialHub) -> Iterator[Chat]:
    """One web app and one runner for these tests; the demo agent keeps its conversations."""
    path = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    with Runner(path / "h") as runner:
        runner.settings(agents={"claude": {"use": "demo"}, "broken": BROKEN, "holder": HOLDER})
        runner.attach(shared_hub, unique("handover"))
        runner.start()
        yield Chat(runner, WebClient(shared_hub.url, runner.token))
    shutil.rmtree(path, ignore_errors=True)


def info(chat: Chat, session: str) -> wire.SessionInfo:
    found = chat.runner.info(session)
    assert found is not None
    return found


def refused(chat: Chat, *words: str, code: int = 1, **environment: str) -> Done:
    """`hapi resume … --chat` that must fail."""
    return chat.runner.hapi("resume", *words, check=code, env=environment)


def test_from_the_chat_into_a_terminal_and_back_it_is_one_session_and_one_conversation(chat: Chat) -> None:
    session = chat.spawn()
    chat.web.send(session, "the word is heliotrope")
    chat.turns(session)
    with Person(chat.runner, "resume", session[:8]) as person:
        person.sees("You said: the word is heliotrope")
        person.types("from the terminal\r")
        person.sees("You said: from the terminal")
        chat.web.send(session, "from the web")
        person.sees("You said: from the web")
        taken = info(chat, session)
        assert (taken.driver, taken.generation, taken.reason) == ("pty", 2, None)
        person.types(DETACH)
        person.sees("Detached")
        assert person.ends() == 0
    chat.runner.wait_phase(session, "idle")
    done = chat.runner.hapi("resume", session, "--chat", "--json", check=0)
    assert done.json["sessionId"] == session
    until(lambda: chat.web.session(session)["active"], SHOWN_S, "the web shows it")
    chat.web.send(session, "/count")
    chat.hears(session, "4")
    given = info(chat, session)
    assert (given.driver, given.generation, given.native_id) == ("acp", 3, taken.native_id)
    assert [row["id"] for row in chat.web.sessions()].count(session) == 1


def test_what_waits_behind_a_turn_that_is_cut_is_typed_into_the_terminal(chat: Chat) -> None:
    session = chat.spawn()
    chat.web.send(session, "/slow 60")
    chat.runner.wait_phase(session, "working")
    chat.web.send(session, "what waited")
    until(lambda: info(chat, session).queued == 1, SHOWN_S, "it waits")
    with Person(chat.runner, "resume", session) as person:
        person.sees("is at work")
        person.sees("hapi wait")
        assert person.ends() == 1
    assert info(chat, session).generation == 1
    with Person(chat.runner, "resume", session, "--now") as person:
        person.sees("You said: what waited")
        person.types("/exit\r")
        person.sees("has ended: completed")
        assert person.ends() == 0


def test_a_session_that_ended_goes_on_where_it_is_wanted(chat: Chat) -> None:
    session = chat.spawn()
    chat.web.send(session, "before the end")
    chat.turns(session)
    chat.runner.hapi("runner", "stop-session", session, check=0)
    chat.runner.ended(session)
    with Person(chat.runner, "resume", session) as person:
        person.sees("You said: before the end")
        person.types("/exit\r")
        assert person.ends() == 0
    chat.runner.hapi("resume", session, "--chat", check=0)
    chat.runner.hapi("send", session, "/count", "--wait", check=0)
    until(lambda: "2" in chat.said(session), SHOWN_S, "it counts on")


def test_an_interface_that_does_not_start_leaves_the_chat_as_it_was(chat: Chat) -> None:
    session = chat.runner.spawn(agent="broken")["sessionId"]
    assert chat.runner.hapi("send", session, "kept", "--wait", check=0).out.strip() == "You said: kept"
    with Person(chat.runner, "resume", session, size=(160, 24)) as person:
        person.sees("no terminal for you")
        person.sees("It goes on as it was.")
        assert person.ends() == 1
    chat.runner.wait_phase(session, "idle")
    assert info(chat, session).driver == "acp"
    assert chat.runner.hapi("send", session, "/count", "--wait", check=0).out.strip() == "2"


def test_the_conversation_of_a_program_that_names_it_itself_is_learned_from_what_it_holds_open(chat: Chat) -> None:
    with Person(chat.runner, "holder") as person:
        session = until(lambda: sessions_of(chat, "holder"), SHOWN_S, "it runs")[0].session_id
        until((chat.runner.project / "talk-4711").exists, SHOWN_S, "it holds its file")
        chat.runner.wait_phase(session, "idle")
        assert info(chat, session).native_id is None
        assert "has not told the id" in refused(chat, session, "--chat").err
        chat.runner.hapi("runner", "stop-session", session, check=0)
        person.ends()
    assert chat.runner.ended(session).native_id == "4711"


def sessions_of(chat: Chat, agent: str) -> list[wire.SessionInfo]:
    found = chat.runner.ask(wire.ListSessions(), wire.SessionList).sessions
    return [session for session in found if session.agent == agent]


def test_what_cannot_be_handed_over_is_refused_and_goes_on(chat: Chat) -> None:
    command = chat.runner.hapi("run", "--detach", "--name", "tea", "--", "sleep", "600", check=0).out.strip()
    assert "tea is a command, not an agent" in refused(chat, command, "--chat").err
    session = chat.spawn()
    own = refused(chat, session, "--chat", code=0)
    assert "goes on as a chat" in own.err
    with Person(chat.runner, "resume", session, **{SESSION_MARK: session}) as person:
        person.sees("is that session's own")
        assert person.ends() == 2
    assert "needs a terminal" in chat.runner.hapi("resume", session, check=2).err
    assert refused(chat, "ffffffff", "--chat").code == 1
    for one, driver in ((command, "pty"), (session, "acp")):
        assert (info(chat, one).driver, info(chat, one).generation, info(chat, one).reason) == (driver, 1, None)


def test_without_an_id_it_is_one_of_this_directory(chat: Chat, scratch: Path) -> None:
    here = scratch / "elsewhere"
    here.mkdir()
    with Person(chat.runner, "resume") as person:
        person.sees("Go on with which session?")
        person.types("\x1b")
        assert person.ends() == 1
    chat.runner.project, project = here, chat.runner.project
    try:
        with Person(chat.runner, "resume") as person:
            person.sees("No session of this directory")
            assert person.ends() == 1
        session = chat.spawn()
        chat.web.send(session, "the only one")
        chat.turns(session)
        with Person(chat.runner, "resume") as person:
            person.sees("You said: the only one")
            person.types("/cwd\r")
            person.sees(os.path.realpath(here))
            person.types("/exit\r")
            assert person.ends() == 0
    finally:
        chat.runner.project = project
