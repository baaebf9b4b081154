"""Terminals in the hub's own web page: the page of a shell, and the agent's own terminal in the place of its chat."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from hapi import wire
from tests.support.browser import VIEWPORT, App
from tests.support.wait import until

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(120)]

SOON = 20
_KEEP_COPIES = "addEventListener('copy', event => { window.copied = event.clipboardData.getData('text/plain') })"
_ROWS = "rows => [...rows.children].map(row => row.textContent.replaceAll('\\u00a0', ' ').trimEnd()).join('\\n')"


class Terminal:
    """The terminal that the page shows, read as a person would."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.evaluate(_KEEP_COPIES)

    @property
    def place(self) -> Locator:
        return self.page.locator(".xterm-screen").filter(visible=True)

    def type(self, keys: str) -> None:
        """Type, Enter where there is a line's end."""
        self.place.click()
        self.page.keyboard.type(keys)

    def text(self) -> str:
        """What is on the screen."""
        rows = self.place.locator(".xterm-rows")
        return str(rows.evaluate(_ROWS)) if rows.count() else self._copied()

    def _copied(self) -> str:
        """Of a canvas: all of it selected and copied."""
        box = self.place.bounding_box()
        assert box is not None
        self.page.mouse.move(box["x"] + 1, box["y"] + 1)
        self.page.mouse.down()
        self.page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] - 2)
        self.page.mouse.up()
        self.page.evaluate("() => { window.copied = ''; document.execCommand('copy') }")
        return str(self.page.evaluate("() => window.copied"))

    def sees(self, words: str) -> str:
        """Wait until `words` are on the screen; the screen."""
        found: list[str] = []

        def probe() -> bool:
            self.page.wait_for_timeout(100)  # the page's own work goes on meanwhile
            found[:] = [self.text()]
            return words in found[0]

        until(probe, SOON, f"{words!r} is on the screen")
        return found[0]


def shell(app: App, session: str) -> Terminal:
    """The page of a new shell, once that is there."""
    app.open(session, "/terminal")
    expect(app.page.get_by_role("status", name="Connected")).to_be_visible()
    return Terminal(app.page)


def toggle(app: App) -> Terminal:
    """Show the agent's own terminal, or the chat again."""
    app.button("Terminal").first.click()
    return Terminal(app.page)


def size(text: str) -> tuple[int, int]:
    rows, cols = text.rpartition("size ")[2].split()[:2]
    return int(rows), int(cols)


@pytest.fixture(scope="module")
def chat(app: App) -> str:
    return app.start()


@pytest.fixture(autouse=True)
def window(app: App) -> Iterator[None]:
    """Of the usual size again, whatever a test made of it."""
    yield
    app.page.set_viewport_size(VIEWPORT)


def test_a_shell_in_the_page(app: App, chat: str) -> None:
    """Typing, vim with what it draws, another size, and a fresh shell where the page is loaded again."""
    app.open(chat)
    app.button("Terminal").last.click()
    expect(app.page.get_by_role("status", name="Connected")).to_be_visible()
    terminal = Terminal(app.page)
    terminal.type("export PS1='$ '; clear; echo naïve $((6 * 7)); echo size $(stty size)\n")
    before = size(terminal.sees("naïve 42\nsize "))
    app.shot("terminals-shell")
    terminal.type("vim -u NONE -N poem.txt\niIn Xanadu did Kubla Khan")
    terminal.sees("In Xanadu did Kubla Khan\n~")
    app.shot("terminals-shell-vim")
    app.page.keyboard.press("Escape")
    app.page.keyboard.type(":wq\n")
    poem = Path(app.runner.project, "poem.txt")
    until(poem.exists, SOON, "vim has written")
    assert poem.read_text() == "In Xanadu did Kubla Khan\n"
    terminal.sees("naïve 42")  # the screen from before vim
    app.page.set_viewport_size({"width": 900, "height": 600})
    terminal.type("clear; echo; echo size $(stty size)\n")
    after = size(terminal.sees("\nsize "))
    assert after[0] < before[0]
    app.shot("terminals-shell-small")
    app.page.reload()
    expect(app.page.get_by_role("status", name="Connected")).to_be_visible()
    assert "Xanadu" not in Terminal(app.page).text()


def test_retry_finds_the_same_shell(app: App, chat: str) -> None:
    """When the connector was killed."""
    terminal = shell(app, chat)
    terminal.type("kept=yes\n")
    terminal.sees("kept=yes")
    pid = app.runner.status()["workers"]["hub"]["pid"]
    os.kill(pid, signal.SIGKILL)
    app.sees("CLI disconnected.")
    app.shot("terminals-shell-disconnected")
    until(lambda: app.runner.status()["hub"]["online"], SOON, "online again")

    def retried() -> bool:
        app.button("Retry").click()
        app.page.wait_for_timeout(300)
        return not app.button("Retry").is_visible()

    until(retried, SOON, "the shell is found again")
    terminal.type("echo kept: $kept.\n")
    terminal.sees("kept: yes.")
    app.shot("terminals-shell-again")


def test_the_agents_own_terminal(app: App) -> None:
    """In the place of the chat: keys and messages reach the agent, in both directions, over a reload too."""
    session = app.start(startingMode="pty")
    terminal = toggle(app)
    terminal.sees("Demo conversation")
    terminal.type("typed here\n")
    terminal.sees("You said: typed here")
    app.say("sent from the composer")
    terminal.sees("You said: sent from the composer")
    app.shot("terminals-agent")
    app.page.reload()
    expect(app.composer).to_be_visible()
    toggle(app).sees("You said: sent from the composer")
    toggle(app)
    app.sees("sent from the composer")
    app.shot("terminals-agent-chat")
    app.web.archive(session)


def test_a_full_screen_program_in_the_agents_place(app: App) -> None:
    """Any command: vim is drawn when somebody comes, with its size, and when the page's size changes."""
    order = wire.Spawn(
        session_id="5e55104a-0000-4000-8000-00000000cafe",
        directory=str(app.runner.project),
        agent="vim",
        started_by="terminal",
        driver="pty",
        command=["vim", "-u", "NONE", "-N", "+set nu ruler", "README.md"],
    )
    session = app.runner.ask(order, wire.Spawned).info.session_id
    until(lambda: session in {row["id"] for row in app.web.sessions() if row["active"]}, SOON, "the hub shows it")
    app.open(session)
    terminal = toggle(app)
    text = terminal.sees("  1 # A project\n~")
    terminal.type("oA line more")
    terminal.sees("  2 A line more\n~")
    app.shot("terminals-agent-vim")
    app.page.set_viewport_size({"width": 900, "height": 600})
    until(lambda: terminal.sees("  2 A line more\n~").count("\n~") < text.count("\n~"), SOON, "fewer rows")
    app.shot("terminals-agent-vim-small")
    app.web.archive(session)


def test_switch_to_remote(app: App) -> None:
    """The button is there while the agent is in its terminal; pressed, the same conversation is a chat."""
    app.start(startingMode="pty")
    app.say("/count")
    terminal = toggle(app)
    terminal.sees("\n1\n")
    toggle(app)
    switch = app.button("Switch to remote mode")
    expect(switch).to_be_visible()
    app.shot("terminals-switch")
    switch.click()
    expect(switch).to_have_count(0)
    app.say("/count ; /say and no more a terminal")
    app.sees("2 and no more a terminal")
    expect(app.button("Terminal")).to_have_count(1)
    app.shot("terminals-switched")
