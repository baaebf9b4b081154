"""The hub's own web app in a real browser, from the form of a new session to its end at the runner's own command line."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import App

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(120)]


def test_from_the_form_to_a_conversation_and_its_end(app: App) -> None:
    """What was said stays readable when the session was stopped here, not there."""
    host = app.web.machines()[0]["metadata"]["host"]
    app.goto("/sessions/new")
    expect(app.page.get_by_text(f"{host} (linux)").first).to_be_attached()
    app.page.get_by_placeholder("/path/to/project").fill(str(app.runner.project))
    expect(app.button("Create")).to_be_enabled()
    app.shot("main-new-session")
    app.button("Create").click()
    expect(app.composer).to_be_visible()
    (session,) = app.runner.sessions()
    app.page.wait_for_url(f"**/sessions/{session['sessionId']}**")

    app.say("Hello from the browser ; /think hm ; /plan look | leap ; /tool Bash")
    app.sees("You said: Hello from the browser")
    app.shot("main-conversation")
    app.say("/ask Bash")
    app.button("Allow").click()
    app.sees("Permission: allow_once")

    app.runner.hapi("runner", "stop-session", session["sessionId"], check=0)
    app.wait_session(session["sessionId"], "inactive at the hub", active=False)
    app.open(session["sessionId"])
    app.sees("Permission: allow_once")
    app.shot("main-stopped")
