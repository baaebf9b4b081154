"""Session directories: what is written can be read, what cannot be read is said."""

import stat

import msgspec
import pytest

from hapi.errors import ErrorCode, HapiError
from hapi.ids import ProcessId, new_session_id
from hapi.lifecycle import Phase
from hapi.store import SessionDirectory, session_directories
from hapi.wire import SessionInfo, Spawn

INFO = SessionInfo(
    session_id="1f0c", namespace="default", agent="demo", directory="/ü", phase=Phase.WAITING, started_by="terminal",
    started_at=5, supervisor=ProcessId(1, 2, "b"), title="☺",
)  # fmt: skip
SPEC = Spawn(session_id="1f0c", directory="/", agent="demo", started_by="runner", args=["--x"], config={"a": "b"})


@pytest.fixture
def directory(tmp_path):
    directory = SessionDirectory(tmp_path / "sessions" / new_session_id())
    directory.create()
    return directory


def test_a_directory_is_private_and_made_once(directory):
    directory.create()
    assert stat.S_IMODE(directory.path.stat().st_mode) == 0o700
    assert not list(directory.path.iterdir())


def test_the_record(directory):
    directory.write_state(INFO)
    assert directory.read_state() == INFO
    newer = msgspec.structs.replace(INFO, phase=Phase.ENDED)
    directory.write_state(newer)
    assert directory.read_state() == newer
    assert stat.S_IMODE(directory.state.stat().st_mode) == 0o600


def test_the_order_is_written_once(directory):
    directory.write_spec(SPEC)
    directory.write_spec(msgspec.structs.replace(SPEC, agent="other"))
    assert directory.read_spec() == SPEC


def test_trap_18_the_callers_environment_is_not_kept(directory):
    order = msgspec.structs.replace(SPEC, env={"SECRET": "canary"})
    directory.write_spec(order)
    assert order.env == {"SECRET": "canary"}
    assert b"canary" not in directory.spec.read_bytes()
    assert directory.read_spec().env is None


@pytest.mark.parametrize("content", [None, b"", b"{", b"null", b"[]", b"{}", b"\xff", b'{"session_id":1}'])
@pytest.mark.parametrize("what", ["spec", "state"])
def test_what_cannot_be_read(directory, what, content):
    if content is not None:
        getattr(directory, what).write_bytes(content)
    with pytest.raises(HapiError) as caught:
        getattr(directory, f"read_{what}")()
    assert caught.value.code is ErrorCode.STATE_UNREADABLE
    assert str(getattr(directory, what)) in caught.value.message


def test_quarantine(directory):
    directory.state.write_bytes(b"garbage")
    assert directory.quarantine_state().read_bytes() == b"garbage"
    assert not directory.state.exists()


def test_the_list_is_in_order_and_skips_hidden_ones(directory):
    sessions = directory.path.parent
    (sessions / ".trash").mkdir()
    (sessions / "0").mkdir()
    assert [found.path.name for found in session_directories(sessions)] == ["0", directory.path.name]
    assert session_directories(sessions / "nowhere") == []


def test_computing_paths_creates_nothing(tmp_path):
    SessionDirectory(tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_the_hub_is_owed_the_end_of_the_newest_generation_only(tmp_path):
    directory = SessionDirectory(tmp_path)
    directory.promise(1)
    directory.promise(2)
    assert [directory.is_told(generation) for generation in (1, 2)] == [True, False]
    assert directory.newest_promise() == 2
    directory.told(2)
    assert (directory.is_told(2), directory.newest_promise()) == (True, 0)
