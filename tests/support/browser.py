"""The hub's web app in headless Chromium, as a person uses it: log in, open a session, talk, press buttons."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Locator, Page, expect, sync_playwright

from tests.support.hub import OfficialHub, WebClient
from tests.support.runner import Runner
from tests.support.wait import until

ARTIFACTS = Path(__file__).parents[2] / "artifacts"
TIMEOUT_MS = 15_000
VIEWPORT = {"width": 1200, "height": 850}
_FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
)

# the web app's offer to install itself comes after a while and lies over the composer
_NO_INSTALL_BANNER = """
addEventListener("DOMContentLoaded", () => {
    const style = document.createElement("style");
    style.textContent = ".fixed.bottom-4.left-4.right-4 { display: none !important }";
    document.head.append(style);
});
"""


def find_chromium() -> str | None:
    """Debian's Chromium, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def chromium(profile: Path) -> Iterator[BrowserContext]:
    """A browser with a fresh profile in `profile`; every page of it has our deadlines and no install banner."""
    program = find_chromium()
    assert program is not None, "no Chromium: ask find_chromium first"
    ARTIFACTS.mkdir(exist_ok=True)
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch_persistent_context(
            profile, executable_path=program, args=_FLAGS, viewport=VIEWPORT, accept_downloads=True
        )
        browser.set_default_timeout(TIMEOUT_MS)
        browser.add_init_script(_NO_INSTALL_BANNER)
        yield browser
        browser.close()


class App:
    """The web app in one page, logged in, with the runner whose sessions it shows and the REST side for what only
    prepares or checks. Sessions are started over REST, unless the test is about starting."""

    def __init__(self, page: Page, hub: OfficialHub, runner: Runner) -> None:
        self.page = page
        self.hub = hub
        self.runner = runner
        self.web = WebClient(hub.url, runner.token)

    def log_in(self) -> None:
        """From the login page to the list of sessions."""
        self.page.goto(self.hub.url)
        self.page.get_by_placeholder("Access token").fill(self.runner.token)
        self.page.get_by_role("button", name="Sign In").click()
        expect(self.page.get_by_text("No sessions yet").first).to_be_visible()
        hint = self.page.get_by_role("button", name="Got it")
        self.page.add_locator_handler(hint, hint.click)

    def goto(self, path: str) -> None:
        """Load a page of the app afresh: `/sessions/new`, `/settings`, …"""
        self.page.goto(f"{self.hub.url}{path}", wait_until="domcontentloaded")

    def machine_id(self) -> str:
        """Our machine, once the hub lists it."""
        return str(self.runner.wait_online(self.web)["id"])

    def start(self, **options: Any) -> str:
        """A new session (of the demo agent, in the project's directory) that is open in the page; its id."""
        body = {"directory": str(self.runner.project), "agent": "claude", **options}
        result = self.web.spawn(self.machine_id(), **body)
        assert result["type"] == "success", result
        self.open(result["sessionId"])
        return str(result["sessionId"])

    def open(self, session_id: str, page: str = "") -> None:
        """Show the session, or a `page` of it: `/files`, `/file?path=…`."""
        self.goto(f"/sessions/{session_id}{page}")
        if not page:
            expect(self.composer).to_be_visible()

    @property
    def composer(self) -> Locator:
        """The field for the next message."""
        return self.page.get_by_role("textbox").last

    def say(self, words: str) -> None:
        """Type a message and send it; by the button, for Enter takes a command that is offered first."""
        self.composer.fill(words)
        self.button("Send").click()

    def button(self, name: str) -> Locator:
        """The button of that very name."""
        return self.page.get_by_role("button", name=name, exact=True)

    def sees(self, words: str) -> None:
        """`words` are to be seen, now or soon."""
        expect(self.page.get_by_text(words).filter(visible=True).first).to_be_visible()

    def misses(self, words: str) -> None:
        """`words` are not, or soon no more, to be seen."""
        expect(self.page.get_by_text(words).filter(visible=True)).to_have_count(0)

    def shot(self, name: str) -> None:
        """A screenshot, artifacts/NAME.png, for people to look at."""
        self.page.screenshot(path=ARTIFACTS / f"{name}.png")

    def menu(self, entry: str) -> None:
        """An entry of the open session's menu."""
        self.page.get_by_role("button", name="More actions").first.click()
        self.page.get_by_role("menuitem", name=entry, exact=True).click()

    def wait_session(self, session_id: str, what: str, **values: Any) -> dict[str, Any]:
        """Until the hub's row of the session has these values; the row."""

        def probe() -> dict[str, Any] | None:
            row = self.web.session(session_id)
            return row if all(row.get(key) == value for key, value in values.items()) else None

        found = until(probe, 20, what)
        assert found is not None
        return found
