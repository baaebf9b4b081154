"""Cursor's chats on disk: found by their id alone, and only by what can be one."""

import pytest

from hapi.workers.hub.cursor_store import status

NONE = {"onDisk": False, "store": None}


@pytest.mark.parametrize(("place", "store"), [("acp-sessions/c1", "acp"), ("chats/9f/c1", "legacy")])
def test_found(tmp_path, place, store):
    assert status(tmp_path, "c1") == NONE
    (tmp_path / ".cursor" / place).mkdir(parents=True)
    assert status(tmp_path, "c1") == NONE
    (tmp_path / ".cursor" / place / "store.db").write_text("")
    assert status(tmp_path, "c1") == {"onDisk": True, "store": store}


@pytest.mark.parametrize("chat", ["", ".", "..", "../acp-sessions/c1", "/etc", "a/b", "x" * 200, "c1\0", "~"])
def test_what_cannot_be_an_id(tmp_path, chat):
    (tmp_path / ".cursor/acp-sessions/c1").mkdir(parents=True)
    (tmp_path / ".cursor/acp-sessions/c1/store.db").write_text("")
    (tmp_path / ".cursor/acp-sessions/store.db").write_text("")
    assert status(tmp_path, chat) == NONE
