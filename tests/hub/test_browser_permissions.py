"""Permissions in the web app: they appear with their buttons, each button means what it says, and they stay till answered."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import App

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(120)]


def test_allow_and_deny(app: App) -> None:
    """The buttons of a claude session."""
    app.start()
    app.say("/ask Bash ls")
    expect(app.button("Allow For Session")).to_be_enabled()
    app.shot("permission-claude-asked")
    app.button("Allow").click()
    app.sees("Permission: allow_once")
    expect(app.button("Allow")).to_be_hidden()
    app.say("/ask Bash rm")
    app.button("Deny").click()
    app.sees("Permission: reject_once")
    app.shot("permission-claude-denied")


def test_yes_for_the_session_is_the_agents_always(app: App) -> None:
    """The buttons of an opencode session; the second one is the agent's lasting option."""
    app.start(agent="opencode")
    app.say("/ask Bash ls")
    app.button("Yes For Session").click()
    app.sees("Permission: allow_always")
    app.shot("permission-for-session")


def test_abort_in_the_card_ends_the_turn(app: App) -> None:
    """Deny by an opencode session's button is an abort: the turn is over, the session listens on."""
    app.start(agent="opencode")
    app.say("/ask Bash ls ; /say not reached")
    app.page.get_by_role("button", name="Abort", exact=True).filter(has_text="Abort").click()
    expect(app.button("Yes")).to_be_hidden()
    app.sees("Aborted")
    app.say("/say still here")
    app.sees("still here")
    assert "not reached" not in [
        text for text in app.page.get_by_text("not reached").all_text_contents() if ";" not in text
    ]
    app.shot("permission-aborted")


def test_the_abort_of_the_turn_takes_its_request_along(app: App) -> None:
    """The composer's abort button, with a request open."""
    session_id = app.start()
    app.say("/ask Bash ls")
    expect(app.button("Allow")).to_be_visible()
    app.button("Abort").click()
    expect(app.button("Allow")).to_be_hidden()
    assert not app.web.session(session_id)["agentState"]["requests"]
    app.say("/say still here")
    app.sees("still here")
    app.shot("permission-turn-aborted")


def test_several_at_once_and_a_reload(app: App) -> None:
    """Two requests of one turn stand side by side, survive a reload, and are answered one by one."""
    app.start()
    app.say("/ask Bash one | Bash two")
    expect(app.button("Allow")).to_have_count(2)
    app.page.reload(wait_until="domcontentloaded")
    expect(app.button("Allow")).to_have_count(2)
    app.shot("permission-two")
    app.button("Allow").first.click()
    expect(app.button("Allow")).to_have_count(1)
    app.button("Deny").click()
    app.sees("Bash one: allow_once")
    app.sees("Bash two: reject_once")
    app.shot("permission-two-answered")


def test_a_pending_request_is_marked_in_the_list(app: App) -> None:
    """Whoever looks at the list sees that a session waits for a person."""
    app.start()
    app.say("/ask Bash ls")
    expect(app.button("Allow")).to_be_visible()
    app.sees("pending 1")
    app.shot("permission-in-list")
    app.button("Allow").click()
    app.sees("Permission: allow_once")
    app.misses("pending 1")


def test_a_question_is_answered_with_a_choice(app: App) -> None:
    """Options that are no leave to do something are a question to the user."""
    app.start()
    app.say("/question Which color? | red | blue")
    app.sees("Which color?")
    app.shot("question-asked")
    app.page.get_by_text("blue", exact=True).last.click()
    app.button("Submit").click()
    app.sees("Chosen: o1")
    app.shot("question-answered")
