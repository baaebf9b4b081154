"""The life of a session in the web app: made, renamed, archived, reopened, deleted; and what it says of the machine."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.support.browser import App
from tests.support.wait import until

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(120)]


def _form(app: App, directory: str) -> None:
    app.goto("/sessions/new")
    expect(app.page.get_by_text("(linux)").first).to_be_attached()
    app.page.get_by_placeholder("/path/to/project").fill(directory)
    expect(app.button("Create")).to_be_enabled()


def _created(app: App) -> str:
    app.button("Create").click()
    app.page.wait_for_url(lambda url: "/sessions/" in url and not url.endswith("/new"))
    return app.page.url.rpartition("/sessions/")[2].partition("?")[0]


def test_a_new_session_with_the_fields_of_the_page(app: App) -> None:
    """Agent, effort and permission mode of the form are those of the session."""
    _form(app, str(app.runner.project))
    for label, choice in (("Low", "low"), ("Plan Mode", "plan")):
        app.page.get_by_role("combobox").filter(has=app.page.locator("option", has_text=label)).select_option(choice)
    app.shot("lifecycle-new")
    session_id = _created(app)
    row = app.wait_session(session_id, "plan mode at the hub", permissionMode="plan")
    assert row["metadata"]["path"] == str(app.runner.project)
    app.sees("Plan Mode")
    app.wait_session(session_id, "low effort at the hub", effort="low")
    app.shot("lifecycle-new-done")


def test_a_new_session_in_a_worktree(app: App) -> None:
    """The worktree is made beside the repository, and the session lives in it."""
    _form(app, str(app.runner.project))
    app.page.get_by_role("radio").nth(1).check()
    app.page.get_by_placeholder("feature-x").fill("My Feature!")
    session_id = _created(app)
    row = app.web.session(session_id)
    assert row["metadata"]["worktree"]["branch"] == "hapi-my-feature"
    assert row["metadata"]["path"] == str(app.runner.project.parent / "project-worktrees" / "my-feature")
    app.say("/cwd")
    app.sees("project-worktrees/my-feature")
    app.shot("lifecycle-worktree")


def test_a_spawn_that_fails_says_why(app: App) -> None:
    """A worktree where there is no repository: git's reason is on the page, and no session is left."""
    bare = app.runner.project.parent / "bare"
    bare.mkdir()
    before = len(app.web.sessions())
    _form(app, str(bare))
    app.page.get_by_role("radio").nth(1).check()
    app.button("Create").click()
    app.sees("not a git repository")
    app.shot("lifecycle-spawn-failed")
    assert len(app.web.sessions()) == before


def test_a_missing_directory_is_made(app: App) -> None:
    """The page asks once more, then the runner makes it."""
    place = app.runner.project.parent / "to-be-made"
    _form(app, str(place))
    app.sees("Directory does not exist")
    app.button("Create").click()
    app.button("Create and make directory").click()
    app.page.wait_for_url(lambda url: "/sessions/" in url and not url.endswith("/new"))
    assert place.is_dir()
    app.shot("lifecycle-directory-made")


def test_rename(app: App) -> None:
    """The name is shown in head and list, and stays when the agent thinks of a title."""
    app.start()
    app.menu("Rename")
    app.page.get_by_placeholder("Session name").fill("Named by hand")
    app.button("Save").click()
    expect(app.page.get_by_text("Named by hand", exact=True)).to_have_count(2)
    app.say("/title Thought of by the agent")
    app.sees("Named by hand")
    app.shot("lifecycle-renamed")


def test_archive_reopen_and_the_agents_memory(app: App) -> None:
    """Archived it is over and its process gone; reopened it is the same session, and the agent knows what was said."""
    session_id = app.start()
    app.say("/count ; /say at first")
    app.sees("1 at first")
    app.menu("Archive")
    app.page.get_by_role("dialog").get_by_role("button", name="Archive", exact=True).click()
    app.wait_session(session_id, "inactive at the hub", active=False)
    until(lambda: session_id not in {s["sessionId"] for s in app.runner.sessions()}, 15, "the session has ended here")
    app.shot("lifecycle-archived")
    app.menu("Reopen")
    app.wait_session(session_id, "active at the hub", active=True)
    app.open(session_id)
    app.say("/count ; /say remembered")
    app.sees("2 remembered")
    app.shot("lifecycle-reopened")


def test_delete(app: App) -> None:
    """An archived session can be deleted; it is gone from the list."""
    session_id = app.start()
    app.web.archive(session_id)
    app.wait_session(session_id, "inactive at the hub", active=False)
    app.open(session_id)
    app.menu("Delete")
    app.shot("lifecycle-delete")
    app.page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
    until(lambda: session_id not in {s["id"] for s in app.web.sessions()}, 15, "the session is gone from the hub")


def test_a_crash_of_the_agent_is_told(app: App) -> None:
    """The page says that the session ended, and with what."""
    session_id = app.start()
    app.say("/crash exit 3")
    app.wait_session(session_id, "inactive at the hub", active=False)
    app.sees("exit code 3")
    app.shot("lifecycle-crashed")


def test_the_machine_is_shown_with_its_health(app: App) -> None:
    """Its name, its number of sessions; the page of the machines can name it."""
    app.goto("/settings/machines")
    host = app.web.machines()[0]["metadata"]["host"]
    app.page.get_by_role("button", name=f"Rename {host}").click()
    field = app.page.get_by_role("textbox").last
    field.fill("Under the desk")
    field.press("Enter")
    until(lambda: app.web.machines()[0]["metadata"].get("displayName") == "Under the desk", 10, "named at the hub")
    app.sees("Under the desk")
    app.shot("lifecycle-machine")
    assert app.web.machines()[0]["health"]["memoryPercent"] > 0
    app.goto("/browse")
    app.sees("project")
    app.shot("lifecycle-browse")
