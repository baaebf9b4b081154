"""A session's uploads through the official hub's REST API: kept, read, deleted, and nothing else touched."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.desk import Desk, desk
from tests.support.hub import OfficialHub, WebError, unique
from tests.support.wait import until

pytestmark = pytest.mark.hub
IMAGE = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@pytest.fixture(scope="module")
def at(shared_hub: OfficialHub) -> Iterator[Desk]:
    """A desk at a directory with one file."""
    with desk(shared_hub, unique("uploads")) as found:
        root = found.make("work")
        (root / "a.txt").write_text("a.txt")
        yield found.open(root)


@pytest.fixture
def root(at: Desk) -> Path:
    return at.place / "work"


def test_kept_privately_read_and_deleted(at: Desk) -> None:
    answer = at.upload("größe 1.png", IMAGE, "image/png")
    path = Path(answer["path"])
    assert path.parent == at.uploads
    assert path.name.endswith("-größe_1.png")
    assert path.read_bytes() == IMAGE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert at.read(str(path)) == IMAGE, "the web may show it"
    assert at.drop(str(path)) == {"success": True}
    assert not path.exists()
    assert at.drop(str(path)) == {"success": True}, "a second time does no harm"


@pytest.mark.parametrize("name", ["../../../x", "/etc/passwd", "..", ".", "...", "a/../b", "-rf", ".bashrc", "a\0b"])
def test_a_name_leads_nowhere(at: Desk, name: str) -> None:
    path = Path(at.upload(name, b"x")["path"])
    assert path.parent == at.uploads
    assert path.resolve() == path
    assert path.read_bytes() == b"x"


def test_two_of_one_name_and_a_name_that_is_too_long_for_a_disk(at: Desk) -> None:
    paths = {at.upload(f"{'ä' * 200}.txt", b"x")["path"] for _ in range(2)}
    assert len(paths) == 2
    assert all(path.endswith(".txt") for path in paths)


def test_only_uploads_are_deleted(at: Desk, root: Path) -> None:
    mine = at.upload("x", b"x")["path"]
    hostile = (
        *(str(root / "a.txt"), "/etc/hostname", "a.txt", "", str(at.uploads), f"{at.uploads}/../state.json"),
        *(
            f"{at.uploads}/..",
            f"{at.uploads}/.",
            f"{at.uploads}/sub/x",
            f"{mine}\0",
            f"{at.uploads}//../state.json",
        ),
    )
    for path in hostile:
        with contextlib.suppress(WebError):
            assert at.drop(path)["success"] is False, path
    assert (root / "a.txt").exists()
    assert (at.uploads.parent / "state.json").exists()
    assert at.read(mine) == b"x"


def test_another_sessions_uploads_are_neither_read_nor_deleted(at: Desk, root: Path) -> None:
    first, mine = at.session, at.upload("x", b"mine")["path"]
    at.open(root)
    try:
        assert at.denied(mine)
        assert at.drop(mine)["success"] is False
    finally:
        at.session = first
    assert at.read(mine) == b"mine"


def test_what_is_not_base64(at: Desk) -> None:
    url = f"/api/sessions/{at.session}/upload"
    answer = at.web.post(url, filename="x", content="x?y=", mimeType="text/plain")
    assert answer == {"success": False, "error": "The content is not valid base64."}


def test_a_large_one(at: Desk) -> None:
    content = os.urandom(1 << 20) * 20
    path = at.upload("large.bin", content, "application/octet-stream")["path"]
    assert Path(path).read_bytes() == content
    assert at.drop(path)["success"]


def test_they_outlive_the_session_with_its_record(at: Desk, root: Path) -> None:
    """A message that waits at the hub may name one, and the session may be resumed."""
    before = at.session
    at.open(root)
    try:
        path = Path(at.upload("plan.md", b"plan")["path"])
        at.web.archive(at.session)
        until(lambda: not at.web.session(at.session)["active"], 15, "the session is archived")
        assert path.read_bytes() == b"plan"
        resumed = at.web.post(f"/api/sessions/{at.session}/resume")
        assert resumed["sessionId"] == at.session
        assert at.read(str(path)) == b"plan"
        assert at.drop(str(path))["success"]
    finally:
        at.session = before


def test_a_link_in_the_place_of_the_uploads_is_not_followed(at: Desk, root: Path) -> None:
    before = at.session
    at.open(root)
    try:
        at.uploads.symlink_to(root)
        assert "not kept" in at.upload("x", b"x")["error"]
        assert at.drop(f"{at.uploads}/a.txt")["success"] is False
        assert (root / "a.txt").exists()
    finally:
        at.session = before
