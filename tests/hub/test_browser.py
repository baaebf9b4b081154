"""The hub's own web app in a real browser: log in, see the machine, start a session, talk, answer a permission.

Screenshots go to artifacts/, for people to look at.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.conftest import skip_or_fail
from tests.support.hub import OfficialHub, WebClient
from tests.support.runner import Runner
from tests.support.wait import until

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(120)]

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
]


# the web app's offer to install itself comes after a while and lies over the composer
NO_INSTALL_BANNER = """
addEventListener("DOMContentLoaded", () => {
    const style = document.createElement("style");
    style.textContent = ".fixed.bottom-4.left-4.right-4 { display: none !important }";
    document.head.append(style);
});
"""


@pytest.fixture
def page(scratch: Path) -> Iterator[Page]:
    """A fresh profile in headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        skip_or_fail("browser", "Chromium is not installed: apt-get install chromium")
    ARTIFACTS.mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            scratch / "chromium", executable_path=chromium, args=FLAGS, viewport={"width": 1200, "height": 850}
        )
        page = browser.pages[0]
        page.set_default_timeout(15_000)
        page.add_init_script(NO_INSTALL_BANNER)
        yield page
        browser.close()


def log_in(page: Page, hub: OfficialHub, token: str) -> None:
    page.goto(hub.url)
    page.get_by_placeholder("Access token").fill(token)
    page.get_by_role("button", name="Sign In").click()
    expect(page.get_by_text("No sessions yet").first).to_be_visible()


def say(page: Page, words: str) -> None:
    composer = page.get_by_role("textbox").last
    composer.fill(words)
    composer.press("Enter")


def test_from_login_to_a_conversation(page: Page, shared_hub: OfficialHub, online: Runner, web: WebClient) -> None:
    online.start("--workspace-root", str(online.project.parent))
    host = online.wait_online(web)["metadata"]["host"]
    log_in(page, shared_hub, online.token)
    page.goto(f"{shared_hub.url}/sessions/new")
    expect(page.get_by_text(f"{host} (linux)").first).to_be_attached()
    page.get_by_placeholder("/path/to/project").fill(str(online.project))
    create = page.get_by_role("button", name="Create", exact=True)
    expect(create).to_be_enabled()
    page.screenshot(path=ARTIFACTS / "1-new-session.png")
    create.click()
    (session,) = until(online.sessions, 15, "the session runs here")
    page.wait_for_url(f"**/sessions/{session['sessionId']}**")

    hint = page.get_by_role("button", name="Got it")
    page.add_locator_handler(hint, hint.click)
    say(page, "Hello from the browser ; /think hm ; /plan look | leap ; /tool Bash")
    expect(page.get_by_text("You said: Hello from the browser").first).to_be_visible()
    page.screenshot(path=ARTIFACTS / "2-conversation.png")

    say(page, "/ask Bash")
    allow = page.get_by_role("button", name="Allow", exact=True).first
    expect(allow).to_be_visible()
    page.screenshot(path=ARTIFACTS / "3-permission.png")
    allow.click()
    expect(page.get_by_text("Permission: allow_once").first).to_be_visible()
    page.screenshot(path=ARTIFACTS / "4-allowed.png")

    online.hapi("runner", "stop-session", session["sessionId"], check=0)
    until(lambda: not web.session(session["sessionId"])["active"], 5, "inactive at the hub")
    page.reload()
    page.wait_for_load_state("domcontentloaded")
    expect(page.get_by_text("Permission: allow_once").first).to_be_visible()
    page.screenshot(path=ARTIFACTS / "5-stopped.png")
