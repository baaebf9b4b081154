"""Messages in the web app: queued, cancelled, aborted, long, with markdown, with files, with images."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import FilePayload, expect

from tests.support.browser import App

pytestmark = [pytest.mark.hub, pytest.mark.browser, pytest.mark.timeout(120)]
_NOTE: FilePayload = {"name": "note.txt", "mimeType": "text/plain", "buffer": b"what the note says"}


def test_what_is_said_in_a_turn_waits_for_its_end(app: App) -> None:
    """Both messages are shown as queued; one is taken back, the turn is not disturbed, then the other is answered."""
    app.start()
    app.say("/slow 3 3")
    expect(app.button("Abort")).to_be_enabled()
    app.say("the second")
    app.say("the third")
    queue = app.page.get_by_role("list", name="Queued messages")
    expect(queue.get_by_role("listitem")).to_have_count(2)
    app.shot("messages-queued")
    queue.get_by_role("listitem").filter(has_text="the third").get_by_role(
        "button", name="Cancel queued message"
    ).click()
    expect(queue.get_by_role("listitem")).to_have_count(1)
    app.sees("chunk 3 of 3")
    app.sees("You said: the second")
    app.misses("You said: the third")
    app.shot("messages-queue-done")


def test_a_queued_message_is_taken_back_into_the_composer(app: App) -> None:
    """Edit is a cancel that keeps the words."""
    app.start()
    app.say("/slow 3 3")
    expect(app.button("Abort")).to_be_enabled()
    app.say("to be reworded")
    app.button("Edit queued message").click()
    expect(app.composer).to_have_text("to be reworded")
    app.say("reworded")
    app.sees("You said: reworded")
    app.misses("You said: to be reworded")


def test_abort_ends_the_turn_and_no_more(app: App) -> None:
    """After the abort the session is ready for the next message."""
    app.start()
    app.say("/slow 60 600")
    app.button("Abort").click()
    app.sees("Session aborted")
    app.say("/say still here")
    app.sees("still here")
    app.shot("messages-aborted")


def test_markdown_is_drawn(app: App) -> None:
    """Words, code and a list are no raw text."""
    app.start()
    app.say("/say A **fat** word and `code` ; /say ## A heading")
    expect(app.page.locator("strong", has_text="fat").last).to_be_visible()
    expect(app.page.get_by_role("heading", name="A heading")).to_be_visible()
    app.shot("messages-markdown")


def test_a_long_message_arrives_whole(app: App) -> None:
    """20,000 characters go to the agent and come back, to their last word."""
    app.start()
    app.say("/say " + "word " * 4000 + "finis")
    expect(app.page.get_by_text(re.compile(r"^word .* finis$", re.DOTALL)).last).to_be_attached()
    app.shot("messages-long")


def test_a_file_goes_with_a_message(app: App) -> None:
    """The paper clip: the file is uploaded, shown, and the agent can read it."""
    app.start()
    with app.page.expect_file_chooser() as chooser:
        app.button("Attach file").click()
    chooser.value.set_files([_NOTE])
    expect(app.button("Remove attachment")).to_be_visible()
    app.composer.fill("Read this")
    app.button("Send").click()
    app.sees("You said:")
    app.sees("what the note says")
    app.shot("messages-attachment")


def test_an_attachment_is_thrown_away_again(app: App) -> None:
    """The cross at the file: the message goes without it."""
    app.start()
    with app.page.expect_file_chooser() as chooser:
        app.button("Attach file").click()
    chooser.value.set_files([_NOTE])
    app.button("Remove attachment").click()
    app.misses("note.txt")
    app.say("alone")
    app.sees("You said: alone")
    app.misses("note.txt")


def test_an_image_of_the_agent_is_shown(app: App) -> None:
    """It is fetched from the session when it comes into view."""
    app.start()
    app.say("/image")
    image = app.page.locator("img[src^='blob:'], img[src^='data:image']").last
    expect(image).to_be_visible()
    app.shot("messages-image")


def test_commands_are_offered_while_typing(app: App) -> None:
    """The agent's own slash commands, with what they do."""
    app.start()
    app.composer.press_sequentially("/pl")
    app.sees("makes a plan and carries it out")
    app.shot("messages-commands")
    app.composer.fill("")


def test_plan_title_and_usage_are_shown(app: App) -> None:
    """A plan's steps, the title in head and list, and how full the context is."""
    app.start()
    app.say("/plan look | leap ; /title A title of its own ; /usage 40000")
    app.sees("look")
    expect(app.page.get_by_text("A title of its own", exact=True).first).to_be_visible()
    gauge = app.button("Context details")
    expect(gauge).to_contain_text("40%")
    gauge.click()
    app.shot("messages-plan-title-usage")
