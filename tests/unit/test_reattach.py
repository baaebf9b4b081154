"""What becomes of the records on disk: the verdict as a table, the facts from real files and processes."""

import itertools
import os

import msgspec
import pytest

from hapi import procs
from hapi.broker.reattach import Facts, Verdict, scan, verdict
from hapi.files import FileLock
from hapi.ids import ProcessId, new_session_id
from hapi.lifecycle import EndReason, Phase
from hapi.store import SessionDirectory
from hapi.wire import SessionInfo

A, E, Q, WAIT = Verdict.ADOPTED, Verdict.ENDED, Verdict.QUARANTINED, None
# heard, readable, same boot, alive, grace over → verdict, in words
TABLE = {
    (False, False, False, False): Q,
    (False, False, False, True): Q,
    (False, False, True, False): Q,
    (False, False, True, True): Q,
    (False, True, False, False): E,
    (False, True, False, True): E,
    (False, True, True, False): E,
}


@pytest.mark.parametrize(
    ("heard", "readable", "boot", "alive", "over"), list(itertools.product([False, True], repeat=5))
)
def test_every_combination_of_facts(heard, readable, boot, alive, over):
    facts = Facts(readable=readable, heard=heard, same_boot=boot, supervisor_alive=alive, grace_over=over)
    expected = A if heard else TABLE.get((heard, readable, boot, alive), Q if over else WAIT)
    assert verdict(facts) is expected


def test_a_time_out_alone_never_ends_a_session():
    facts = [Facts(readable=True, supervisor_alive=True, grace_over=over) for over in (False, True)]
    assert Verdict.ENDED not in map(verdict, facts)


def info(session_id, **changes):
    values = {"session_id": session_id, "namespace": "default", "agent": "demo", "directory": "/", "phase": Phase.IDLE}
    return SessionInfo(**(values | {"started_by": "runner", "started_at": 1} | changes))


def record(sessions, **changes):
    """A session on disk, as `scan` finds it."""
    session_id = new_session_id()
    directory = SessionDirectory(sessions / session_id)
    directory.create()
    directory.write_state(info(session_id, **changes))
    return next(found for found in scan(sessions) if found.session_id == session_id)


ME = procs.own_identity()


@pytest.mark.parametrize(
    ("changes", "facts"),
    [
        ({"supervisor": ME}, Facts(readable=True, supervisor_alive=True)),
        ({"supervisor": msgspec.structs.replace(ME, start_ticks=1)}, Facts(readable=True)),
        ({"supervisor": msgspec.structs.replace(ME, boot_id="x")}, Facts(readable=True, same_boot=False)),
        ({"supervisor": ProcessId(0, 0, procs.boot_id())}, Facts(readable=True)),
        ({}, Facts(readable=True)),
        ({"supervisor": ME, "phase": Phase.ENDED, "reason": EndReason.COMPLETED}, Facts(readable=True)),
    ],
    ids=["alive", "reused pid", "another boot", "nobody", "no supervisor", "ended"],
)
def test_facts(tmp_path, changes, facts):
    found = record(tmp_path, **changes)
    lock = FileLock(tmp_path / found.session_id / "lock")
    assert lock.acquire(f"{os.getpid()}\n")
    (found,) = scan(tmp_path)
    assert found.facts == facts
    assert found.info == info(found.session_id, **changes)
    lock.release()


def test_a_stranger_with_the_recorded_identity_is_no_supervisor(tmp_path):
    """It holds no lock of the session and has no title of ours: nobody to wait for."""
    assert record(tmp_path, supervisor=ME).facts == Facts(readable=True, supervisor_alive=False)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b'{"session_id": 5}', None, b'{"x":' + b"[" * 200_000],
    ids=["empty", "cut", "null", "list", "bare", "binary", "mistyped", "missing", "nested"],
)  # fmt: skip
def test_trap_24_a_damaged_record_is_put_aside_and_said(tmp_path, content):
    session_id = new_session_id()
    directory = SessionDirectory(tmp_path / session_id)
    directory.create()
    if content is not None:
        directory.state.write_bytes(content)
    (found,) = scan(tmp_path)
    assert (found.session_id, found.info, found.facts) == (session_id, None, Facts(readable=False))
    kept = [path.read_bytes() for path in directory.path.glob("state.json.bad-*")]
    assert kept == ([] if content is None else [content])
    assert not directory.state.exists()


def test_one_damaged_record_does_not_hide_the_others(tmp_path):
    for _ in range(3):
        record(tmp_path, supervisor=ME)
    directory = SessionDirectory(tmp_path / "0000")
    directory.create()
    directory.state.write_bytes(b"garbage")
    assert sorted(found.info is None for found in scan(tmp_path)) == [False, False, False, True]


def test_what_is_no_record_is_passed_over(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / ".hidden").mkdir()
    assert scan(tmp_path) == []
    assert scan(tmp_path / "nowhere") == []
    assert sorted(os.listdir(tmp_path)) == [".hidden", "file"]


def test_a_newer_versions_record_is_read(tmp_path):
    found = record(tmp_path, supervisor=ME)
    directory = SessionDirectory(tmp_path / found.session_id)
    content = msgspec.json.decode(directory.state.read_bytes()) | {"from_the_future": {"x": 1}}
    directory.state.write_bytes(msgspec.json.encode(content))
    (again,) = scan(tmp_path)
    assert again == found
