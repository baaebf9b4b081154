"""docs/web-parity.md has a row for everything that the installed hub can ask, hear, send and show."""

from __future__ import annotations

import re
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.conftest import skip_or_fail
from tests.support import hub_facts, parity
from tests.support.hub import OfficialHub, find_hub

pytestmark = pytest.mark.hub
_open = build_opener(ProxyHandler({})).open
_SCRIPT = re.compile(r'src="(/assets/index-[\w-]+\.js)"')
_PAGE = re.compile(r'\bpath:"(\$?[a-z][\w/]*|/[a-z][a-z/]*)"')
_DIALS = {"/engine.io", "/socket.io/"}


@pytest.fixture(autouse=True)
def installed() -> None:
    if find_hub() is None:
        skip_or_fail("hub", "the official hub is not installed: make setup")


@pytest.mark.parametrize("kind", ["session", "machine"])
def test_every_rpc_has_its_row_and_no_row_is_of_the_past(kind: str) -> None:
    assert hub_facts.rpc_methods()[kind] == set(parity.rows(f"RPCs of a {kind}"))


def test_every_event_and_update_has_its_row() -> None:
    assert hub_facts.events() == set(parity.rows("Socket.IO events"))
    assert hub_facts.updates() == set(parity.rows("Kinds of `update`"))


def test_every_route_has_its_row_and_no_row_is_of_the_past() -> None:
    assert hub_facts.routes() == set(parity.rows("REST routes"))


def test_every_page_has_its_row(shared_hub: OfficialHub) -> None:
    """The pages are those of the app's router, in the script that the hub serves."""
    start = _text(f"{shared_hub.url}/")
    script = _SCRIPT.search(start)
    assert script is not None, start
    pages = set(_PAGE.findall(_text(shared_hub.url + script.group(1)))) - _DIALS
    assert len(pages) > 15
    assert pages - set(parity.rows("Pages")) == set()


def _text(url: str) -> str:
    with _open(url, timeout=20) as answer:
        text: str = answer.read().decode()
        return text
