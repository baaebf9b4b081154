"""What the web says to a session that lives in a terminal, by the keys that its program gets."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub import OfficialHub, WebError
from tests.support.viewer import spawn
from tests.support.wait import until
from tests.support.web_stage import SOON, Stage, on_stage

pytestmark = [pytest.mark.hub, pytest.mark.timeout(90)]

PROGRAM = """
import os, sys, tty
tty.setraw(0)
os.write(1, b"\\x1b[?2004hready> ")
with open(sys.argv[1], "ab", buffering=0) as file:
    while data := os.read(0, 65536):
        file.write(data)
"""


@pytest.fixture(scope="module")
def stage(shared_hub: OfficialHub) -> Iterator[Stage]:
    with on_stage(shared_hub, "typed") as made:
        yield made


@pytest.fixture(scope="module")
def keys(stage: Stage) -> Path:
    """The file with all that was typed."""
    place = stage.root / "keys"
    place.write_bytes(b"")
    script = stage.root / "listen.py"
    script.write_text(PROGRAM)
    agents = stage.home.read_settings()["agents"]
    stage.home.settings(
        agents=agents | {"claude": {"use": "demo", "terminal": [sys.executable, str(script), str(place)]}}
    )
    return place


@pytest.fixture(scope="module")
def session(stage: Stage, keys: Path) -> str:
    """A session of an agent whose own interface writes down its keys."""
    session_id = spawn(stage.home, agent="claude").session_id
    until(lambda: session_id in {row["id"] for row in stage.web.sessions() if row["active"]}, SOON, "the hub knows it")
    return session_id


def test_messages_are_typed_once_and_in_order_and_shown_as_read(stage: Stage, keys: Path, session: str) -> None:
    for number in range(3):
        stage.web.send(session, f"line {number}\nand more", f"m{number}")
    pasted = [b"\x1b[200~line %d\rand more\x1b[201~\r" % number for number in range(3)]
    until(lambda: keys.read_bytes().endswith(pasted[-1]), SOON, "all is typed")
    assert b"".join(pasted) in keys.read_bytes()
    until(lambda: all(row["invokedAt"] for row in mine(stage, session)), SOON, "none is shown as waiting")
    until(lambda: stage.info(session).phase == "idle", SOON, "it is silent, so it is idle")
    assert len(mine(stage, session)) == 3


def mine(stage: Stage, session: str) -> list[dict[str, object]]:
    """The person's messages, as the hub has them."""
    return [row for row in stage.web.messages(session) if row["content"]["role"] == "user"]


def test_to_abort_presses_the_agents_key(stage: Stage, keys: Path, session: str) -> None:
    before = len(keys.read_bytes())
    stage.web.abort(session)
    until(lambda: keys.read_bytes()[before:] == b"\x1b", SOON, "escape")


def test_what_a_terminal_cannot_is_refused_with_words(stage: Stage, keys: Path, session: str) -> None:
    before = keys.read_bytes()
    with pytest.raises(WebError) as refusal:
        stage.web.post(f"/api/sessions/{session}/permission-mode", mode="plan")
    assert "lives in a terminal" in str(refusal.value.body)
    assert keys.read_bytes() == before
    assert stage.info(session).phase == "idle"
