"""Every reader of a state file by every content fault, at every byte: an error that names the file, or what was there.

Never a wrong record, never an empty one in its place, never a hang, and the damaged bytes stay or are kept aside.
The journal's part of the table is in test_journal.py.
"""

import json
import os
import types
from pathlib import Path

import msgspec
import pytest

from hapi import config, control, launch, procs, settings
from hapi.broker import report
from hapi.broker.reattach import scan, troubles
from hapi.cli import status
from hapi.errors import ErrorCode, HapiError
from hapi.ids import new_session_id
from hapi.lifecycle import EndReason, Phase
from hapi.paths import Paths
from hapi.store import Fault, SessionDirectory, StateUnreadable
from hapi.wire import SessionInfo, Spawn
from hapi.workers.hub.connector import machine_identity
from tests.support.damage import CONTENTS, KINDS, changed, kept_aside, put

SETTINGS = {"theirs": {"deep": [1, None, "ü"]}, "machineId": "m", "apiUrl": "http://h:1", "future": {"x": 1}}
INFO = SessionInfo(
    session_id="1f0c", namespace="default", agent="demo", directory="/ü", phase=Phase.WAITING, started_by="terminal",
    started_at=5, supervisor=procs.own_identity(), title="☺", generation=3, version="0.1.0",
)  # fmt: skip
SPEC = Spawn(session_id="1f0c", directory="/", agent="demo", started_by="runner", args=["--x"], config={"a": "b"})
REPORT = report.Report(
    pid=1, control_endpoint="ipc://x", start_time="t", started_with_cli_version="0", runner_log_path="l",
    namespace="default", workers={"hub": 2}, workspace_roots=["/ü"], status="running",
)  # fmt: skip
WRONG = {name: make for name, make in CONTENTS.items() if name != "missing"}


def prefixes(sound):
    """Every truncation of a JSON file that is not the whole of it."""
    return [sound[:length] for length in range(len(sound.rstrip()))]


def faults(sound):
    """Every content that is not sound; what is a file at all."""
    return [*prefixes(sound), *(make(sound) for make in WRONG.values())]


def taken_back(path):
    """What was kept aside for that path, and is no more."""
    kept = kept_aside(path)
    for found in path.parent.glob(f"{path.name}.bad-*"):
        found.unlink()
    return kept


# ------------------------------------------------------------------------------------------------------- settings


@pytest.fixture
def home(tmp_path):
    paths = Paths(tmp_path / "h")
    paths.make_private()
    settings.update(paths.settings, SETTINGS)
    return paths


def machine_id(paths):
    return machine_identity(types.SimpleNamespace(paths=paths))


READERS = {
    "read": lambda paths: settings.read(paths.settings),
    "load": lambda paths: config.load(environ={"HAPI_HOME": str(paths.home)}),
    "update": lambda paths: settings.update(paths.settings, {"a": 1}),
    "machine id": machine_id,
}


@pytest.mark.parametrize("reader", READERS)
def test_trap_24_settings_at_every_byte(home, reader):
    sound = home.settings.read_bytes()
    for content in faults(sound):
        put(home.settings, content)
        with pytest.raises(HapiError) as caught:
            READERS[reader](home)
        assert caught.value.code is ErrorCode.BAD_CONFIGURATION
        assert str(home.settings) in caught.value.message
        assert caught.value.hint
        assert home.settings.read_bytes() == content
    assert kept_aside(home.settings) == []
    for make in (Path.mkdir, os.mkfifo):
        put(home.settings, None)
        make(home.settings)
        with pytest.raises(HapiError, match="not a regular file"):
            READERS[reader](home)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("apiUrl", 5),
        ("cliApiToken", {}),
        ("extraHeaders", ["a"]),
        ("agents", "demo"),
        ("createDirectories", 1),
        ("machineId", 7),
    ],
)
def test_settings_of_a_wrong_type_are_named_with_their_file(home, key, value):
    settings.update(home.settings, {key: value})
    with pytest.raises(HapiError) as caught:
        READERS["load"](home)
    assert f"{home.settings}: {key}" in caught.value.message


def test_unknown_settings_survive_every_updater(home):
    settings.update(home.settings, {"machineId": None})
    made = machine_id(home)
    settings.update(home.settings, {"cliApiToken": "t"})
    settings.update(home.settings, {"cliApiToken": None})
    assert settings.read(home.settings) == SETTINGS | {"machineId": made}


# ------------------------------------------------------------------------------------------------------- report, lock


def test_trap_24_the_report_at_every_byte(home):
    report.write(home.state, REPORT)
    sound = home.state.read_bytes()
    assert (report.set_aside_if_damaged(home.state), status.last_known(_config(home))["pid"]) == (None, 1)
    for content in faults(sound):
        put(home.state, content)
        assert status.last_known(_config(home)) is None
        assert launch.recorded_roots(home) == []
        assert "was damaged" in report.set_aside_if_damaged(home.state)
        assert (home.state.exists(), taken_back(home.state)) == (False, [content])
        assert report.write(home.state, REPORT) is None


def test_the_report_of_a_newer_version_and_what_is_none(home):
    report.write(home.state, REPORT)
    put(home.state, changed(home.state.read_bytes(), workers="many", colour="red"))
    assert report.set_aside_if_damaged(home.state) is None
    assert status.last_known(_config(home))["colour"] == "red"
    assert launch.recorded_roots(home) == ["/ü"]
    for make in KINDS.values():
        put(home.state, None)
        make(home.state)
        assert status.last_known(_config(home)) is None
        assert launch.recorded_roots(home) == []
        report.set_aside_if_damaged(home.state)
        assert report.write(home.state, REPORT) is None
        assert status.last_known(_config(home))["pid"] == 1


def _config(paths):
    return config.load(environ={"HAPI_HOME": str(paths.home)})


@pytest.mark.parametrize("content", [b"", b"\xff\n", b"0\n", b"-1\n", b"9" * 5_000, b"1 2\n", b"1\n", "٣\n".encode()])
def test_trap_06_no_content_of_a_lock_names_a_stranger(home, content):
    """Neither free nor held: whoever it names is looked at before he is believed."""
    put(home.lock, content)
    assert control.lock_holder(home) is None
    held = launch.files.FileLock(home.lock)
    assert held.acquire()
    put_in_place(home.lock, content)
    assert control.lock_holder(home) is None  # we hold it, and are no runner
    held.release()


def put_in_place(path, content):
    with path.open("r+b") as file:
        file.truncate()
        file.write(content)


# ------------------------------------------------------------------------------------------------------- sessions


@pytest.fixture
def directory(tmp_path):
    directory = SessionDirectory(tmp_path / "sessions" / new_session_id())
    directory.create()
    directory.write_spec(SPEC)
    directory.write_state(INFO)
    return directory


def found_at_start(directory):
    (record,) = scan(directory.path.parent, "default")
    return record


def test_trap_24_a_record_at_every_byte(directory):
    """Never another record than the one that was written.

    Seen to fail: with a `read_state` that answers a fresh record for what it cannot decode.
    """
    sound = directory.state.read_bytes()
    for content in faults(sound):
        put(directory.state, content)
        with pytest.raises(StateUnreadable) as caught:
            directory.read_state()
        assert caught.value.fault is Fault.DAMAGED
        assert str(directory.state) in caught.value.message
        assert found_at_start(directory).fault is Fault.DAMAGED
        assert (directory.state.exists(), taken_back(directory.state)) == (False, [content])


def test_trap_24_an_order_at_every_byte(directory):
    for content in faults(directory.spec.read_bytes()):
        put(directory.spec, content)
        with pytest.raises(HapiError) as caught:
            directory.read_spec()
        assert (caught.value.code, str(directory.spec) in caught.value.message) == (ErrorCode.STATE_UNREADABLE, True)
        assert directory.spec.read_bytes() == content


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_is_no_record(directory, kind):
    put(directory.state, None)
    KINDS[kind](directory.state)
    assert found_at_start(directory).fault is (Fault.MISSING if kind == "dangling link" else Fault.DAMAGED)
    directory.write_state(INFO)
    assert directory.read_state() == INFO


@pytest.mark.parametrize(
    "change",
    [{"phase": "hibernating"}, {"agent_process": "none"}, {"supervisor": {"cgroup": "x"}}, {"generation": None}],
    ids=str,
)
@pytest.mark.parametrize(("version", "fault"), [("99.0", Fault.NEWER), ("0.1.0", Fault.DAMAGED), ("", Fault.DAMAGED)])
def test_what_another_version_wrote_is_not_damage(directory, change, version, fault):
    """An older build after a downgrade: it may not judge what it does not understand, nor move it.

    Seen to fail: with `Fault.DAMAGED` for all that cannot be decoded.
    """
    content = changed(directory.state.read_bytes(), **change, version=version)
    put(directory.state, content)
    assert found_at_start(directory).fault is fault
    assert directory.state.exists() is (fault is Fault.NEWER)
    assert kept_aside(directory.state) == ([] if fault is Fault.NEWER else [content])


def test_unknown_fields_survive_the_closing_of_a_record(directory):
    put(directory.state, changed(directory.state.read_bytes(), hologram={"deep": [1]}, title=None))
    ended = msgspec.structs.replace(INFO, phase=Phase.ENDED, reason=EndReason.SUPERVISOR_LOST, title=None)
    directory.close_state(ended)
    assert json.loads(directory.state.read_bytes())["hologram"] == {"deep": [1]}
    assert directory.read_state() == ended
    put(directory.state, b"garbage")
    directory.close_state(ended)
    assert directory.read_state() == ended


@pytest.mark.parametrize("fault", ["sound", "moved aside", *CONTENTS])
def test_a_generation_is_never_used_twice(directory, fault):
    """Supervisors of one session are told apart by it, and so are the numbers of their events."""
    sound = directory.state.read_bytes()
    if fault == "moved aside":
        directory.quarantine_state()
    elif fault != "sound":
        put(directory.state, CONTENTS[fault](sound))
    lost = fault in CONTENTS
    assert directory.last_generation() == (1 if lost else 3)
    put(directory.state, None)
    put(directory.spec, None)
    assert directory.last_generation() == (3 if fault == "moved aside" else 0)


def test_what_a_person_is_told_of_records(directory):
    assert troubles(scan(directory.path.parent, "default")) == []
    for number in range(7):
        (directory.path.parent / f"{number}-is-empty").mkdir()
    (said,) = troubles(scan(directory.path.parent, "default"))
    assert said.startswith("7 session records cannot be read: 0-is-empty (missing), 1-is-empty (missing)")
    assert said.endswith("and 2 more")
