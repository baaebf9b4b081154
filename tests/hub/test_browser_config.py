"""Model, effort and permission mode in the web app's composer: what is picked is what the agent works with."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import App

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(120)]


def _settings(app: App) -> None:
    app.page.get_by_role("button", name="Settings", exact=True).last.click()
    expect(app.page.get_by_text("Permission Mode", exact=True)).to_be_attached()


def test_the_models_of_the_agent_are_offered_and_changed(app: App) -> None:
    """An opencode session offers what its agent offers; the one in force is marked."""
    session_id = app.start(agent="opencode")
    _settings(app)
    app.shot("config-models")
    app.button("demo-slow").click()
    app.wait_session(session_id, "the other model at the hub", model="demo-slow")
    app.sees("model: demo-slow")
    app.shot("config-model-changed")


def test_the_effort_is_changed(app: App) -> None:
    """What is picked is the hub's and the agent's."""
    session_id = app.start()
    _settings(app)
    app.button("High").click()
    app.wait_session(session_id, "high effort at the hub", effort="high")
    app.shot("config-effort-changed")


def test_the_permission_mode_is_changed_and_kept(app: App) -> None:
    """Yolo asks no more, in this turn and after a reload."""
    session_id = app.start()
    _settings(app)
    app.button("Yolo").click()
    app.wait_session(session_id, "the mode at the hub", permissionMode="bypassPermissions")
    app.page.reload(wait_until="domcontentloaded")
    app.say("/ask Bash ls")
    app.sees("Permission: allow_")
    app.shot("config-yolo")
