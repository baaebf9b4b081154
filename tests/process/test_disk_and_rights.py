"""A disk without room and files that are not ours: real file systems, real permission bits, real processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.support.damage import (
    Disk,
    can_take_rights,
    crash_runner,
    dead_session,
    give_away,
    kept_aside,
    put,
    refused,
    small_disk,
    without_privileges,
    works,
)
from tests.support.power import kill_all
from tests.support.runner import Runner, gone, identity
from tests.support.wait import until

# ------------------------------------------------------------------------------------------------- no room


@pytest.fixture
def disk(scratch: Path) -> Iterator[Disk]:
    with small_disk(scratch / "disk") as disk:
        if disk is None:
            skip_or_fail("mount", "only root may mount a small disk")
        assert disk is not None
        yield disk


@pytest.fixture
def cramped(disk: Disk) -> Iterator[Runner]:
    """A runner whose home lies on the small disk."""
    with Runner(disk.path / "h") as runner:
        yield runner
        if (disk.path / "filler").exists():
            disk.make_room()


def test_trap_24_a_runner_that_starts_on_a_full_disk(cramped: Runner, disk: Disk) -> None:
    """It runs, says so, and leaves the last holder's pid in no lock; a spawn is refused with the reason, and nothing of
    it is left running. When there is room, all is well without a restart.

    Seen to fail: with the lock's note written without regard to errors.
    """
    for first in (True, False):
        disk.fill()
        status = cramped.start()
        assert any("No space left" in warning for warning in status["warnings"]), status["warnings"]
        lock = (cramped.home / "runner.state.json.lock").read_text()
        assert lock in {"", f"{status['pid']}\n"}
        error = refused(cramped, "runner", "spawn", str(cramped.project), "--agent", "demo")
        assert (error["code"], "No space left" in error["message"]) == ("disk", True), error
        assert cramped.sessions() == []
        disk.make_room()
        works(cramped)
        if first:
            kill_all(cramped)


def test_trap_24_what_ends_on_a_full_disk_is_on_record(cramped: Runner, disk: Disk) -> None:
    """The stop works, and its truth is found after a power cut: not `supervisor lost`, not alive, not unreadable.

    Seen to fail: without `overwrite` in `write_state`.
    """
    stopped, crashed = cramped.spawn(), cramped.spawn()
    cramped.hapi("send", crashed["sessionId"], "/say before", check=0)
    cramped.wait_phase(crashed["sessionId"], "idle")
    disk.fill()
    done = cramped.hapi("runner", "stop-session", stopped["sessionId"], "--json", check=0).json
    assert done["status"] == "stopped"
    supervisor = identity(crashed["pid"])
    os.kill(crashed["agentPid"], signal.SIGSEGV)
    gone(supervisor)
    kill_all(cramped)
    disk.make_room()
    cramped.start()
    reasons = {session["sessionId"]: session["reason"] for session in cramped.sessions("--ended")}
    assert reasons == {stopped["sessionId"]: "stopped by user", crashed["sessionId"]: "agent crashed"}


def test_trap_24_sessions_are_adopted_on_a_full_disk_and_go_on(cramped: Runner, disk: Disk) -> None:
    """Seen to fail: with a broker that gives up when its report cannot be written."""
    session = cramped.spawn()
    dead = cramped.spawn()
    disk.fill()
    crash_runner(cramped)
    supervisor = identity(dead["pid"])
    os.kill(supervisor.pid, signal.SIGKILL)
    gone(supervisor)
    cramped.start()
    found = cramped.wait_phase(session["sessionId"], "idle")
    assert (found["pid"], found["agentPid"]) == (session["pid"], session["agentPid"])
    assert cramped.wait_phase(dead["sessionId"], "ended")["reason"] == "supervisor lost"
    assert cramped.status()["verdicts"] == {"adopted": 1, "ended": 1}
    disk.make_room()
    cramped.hapi("send", session["sessionId"], "hello", check=0)
    until(lambda: "TurnEnded" in {type(e).__name__ for e in cramped.events(session["sessionId"])}, 20, "it answers")
    crash_runner(cramped)
    cramped.start()
    assert cramped.wait_phase(dead["sessionId"], "ended")["reason"] == "supervisor lost"
    assert cramped.wait_phase(session["sessionId"], "idle")["pid"] == session["pid"]


def test_trap_24_settings_are_not_lost_on_a_full_disk(cramped: Runner, disk: Disk) -> None:
    """Seen to fail: with `write_text` in `settings.update`."""
    before = (cramped.home / "settings.json").read_bytes()
    disk.fill()
    done = cramped.hapi("auth", "login", "--token-stdin", "--url", "http://127.0.0.1:9", input="t" * 5000, check=1)
    assert str(cramped.home / "settings.json") in done.err
    assert "No space left" in done.err
    assert (cramped.home / "settings.json").read_bytes() == before
    assert sorted(path.name for path in cramped.home.iterdir() if path.name.endswith(".tmp")) == []


# ------------------------------------------------------------------------------------------------- no right


@pytest.fixture
def plain(runner: Runner) -> Runner:
    """A runner that permission bits hold for."""
    if not can_take_rights():
        skip_or_fail("setpriv", "setpriv is needed to take root's rights away")
    without_privileges(runner)
    return runner


PLACES = ["", "sessions", "logs", "run"]


@pytest.mark.parametrize("mode", [0o000, 0o500])
def test_directories_that_cannot_be_used(plain: Runner, mode: int) -> None:
    """No runner, an exit status of 1, the directory's name; given back its rights, all is well.

    Seen to fail: without the question for rights in `_make_private` (the runner said that it had started, and died).
    """
    plain.start()
    plain.hapi("runner", "stop", check=0)
    for place in PLACES:
        directory = plain.home / place
        directory.chmod(mode)
        error = refused(plain, "runner", "start")
        assert str(directory) in error["message"], error
        assert not plain.processes()
        directory.chmod(0o700)
    assert plain.start()["running"]


def test_files_that_are_not_readable_for_us(plain: Runner) -> None:
    """A lock and settings that cannot be opened stop the start; a report is replaced; a record is left alone, said, and
    found again when its rights are back.

    Seen to fail: with every unreadable record moved aside.
    """
    template = dead_session(plain)
    record, report = template / "state.json", plain.home / "runner.state.json"
    for name in ("runner.state.json.lock", "settings.json"):
        (plain.home / name).chmod(0)
        assert name in refused(plain, "runner", "start")["message"]
        assert not plain.processes()
        (plain.home / name).chmod(0o600)
    sound = record.read_bytes()
    record.chmod(0)
    report.chmod(0)
    status = plain.start()
    said = " ".join(status["warnings"])
    assert f"{template.name[:13]} (not readable for us)" in said
    assert "runner.state.json cannot be read" in said
    assert json.loads(report.read_bytes())["pid"] == status["pid"]
    assert status["verdicts"] == {"quarantined": 1}
    assert (record.read_bytes(), kept_aside(record)) == (sound, [])
    works(plain)
    plain.hapi("runner", "stop", check=0)
    record.chmod(0o600)
    plain.start()
    assert plain.wait_phase(template.name, "ended")["reason"] == "supervisor lost"


def test_files_and_directories_of_another_user(plain: Runner) -> None:
    """Seen to fail: without the look at the owner in `_make_private`."""
    if os.geteuid() != 0:
        skip_or_fail("root", "only root may give files away")
    template = dead_session(plain)
    for name in ("settings.json", "runner.state.json.lock"):
        give_away(plain.home / name)
        error = refused(plain, "runner", "start")
        assert str(plain.home / name) in error["message"], error
        os.chown(plain.home / name, 0, 0)
    for place in PLACES[1:]:
        (plain.home / place).chmod(0o777)  # a squatter's: we could use it
        give_away(plain.home / place)
        error = refused(plain, "runner", "start")
        assert f"{plain.home / place} belongs to another user" in error["message"], error
        os.chown(plain.home / place, 0, 0)
    assert not plain.processes()
    give_away(plain.home / "runner.state.json")
    give_away(template / "state.json")
    status = plain.start()
    assert status["verdicts"] == {"quarantined": 1}
    assert (plain.home / "runner.state.json").stat().st_uid == 0
    assert (template / "state.json").stat().st_uid != 0
    works(plain)


def test_a_session_directory_that_cannot_be_written(plain: Runner) -> None:
    """A read-only directory under a live session: it works on, its record is written when it may be again, and the
    runner that cannot write there starts all the same."""
    session = plain.spawn()
    directory = plain.home / "sessions" / session["sessionId"]
    put(directory / "state.json", b"")
    directory.chmod(0o500)
    plain.hapi("send", session["sessionId"], "hello", check=0)
    crash_runner(plain)
    plain.start()
    assert plain.wait_phase(session["sessionId"], "idle")["pid"] == session["pid"]
    directory.chmod(0o700)
    plain.hapi("send", session["sessionId"], "hello", check=0)
    until(lambda: (directory / "state.json").stat().st_size > 0, 20, "the record is written anew")
    plain.hapi("runner", "stop-session", session["sessionId"], check=0)
    assert json.loads((directory / "state.json").read_bytes())["reason"] == "stopped by user"
