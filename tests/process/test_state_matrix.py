"""Every file of a runner by everything that can be wrong with it, against real processes: it heals, or says why not.

The table is in docs/operations.md, "What happens when a file is damaged". One home serves many cells.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hapi import config, procs, wire
from hapi.control import Control
from hapi.journal import NUMBERS_PER_GENERATION, Journal
from tests.support.damage import (
    CONTENTS,
    GARBAGE,
    KINDS,
    changed,
    copies,
    crash_runner,
    dead_session,
    kept_aside,
    put,
    refused,
    stranger,
    works,
)
from tests.support.power import kill_all
from tests.support.runner import Runner, identity
from tests.support.wait import until

OTHER_BOOT = "00000000-0000-0000-0000-000000000000"

# ----------------------------------------------------------------------------------------- the runner's own files


def test_trap_06_whatever_the_lock_and_the_report_hold(runner: Runner) -> None:
    """{empty, garbage, dead pid, a stranger's pid, another boot's} by {lock, report}: the runner starts, says what it
    put aside, keeps it, and no stranger is touched.

    Seen to fail: with a `main` that takes a pid in the lock file for a running runner; without `set_aside_if_damaged`.
    """
    runner.start()
    kill_all(runner)
    report = runner.home / "runner.state.json"
    sound = report.read_bytes()
    with stranger() as other:
        pids = {"dead pid": 4_194_303, "a stranger's": other.pid, "another boot's": 1}
        lock_contents = CONTENTS | {name: lambda _, pid=pid: b"%d\n" % pid for name, pid in pids.items()}
        reports = CONTENTS | {name: lambda old, pid=pid: changed(old, pid=pid) for name, pid in pids.items()}
        reports["newer"] = lambda old: changed(old, workers="many", colour="red")
        for name in lock_contents | reports:
            lock_is = lock_contents.get(name, lambda old: old)(b"123\n")
            report_is = reports[name](sound)
            put(runner.home / "runner.state.json.lock", lock_is)
            put(report, report_is)
            aside = kept_aside(report)
            status = runner.start()
            assert status["running"], name
            assert json.loads(report.read_bytes())["pid"] == status["pid"]
            damaged = name in {"empty", "cut", "garbage", "wrong type"}
            assert kept_aside(report) == aside + [report_is] * damaged, name
            assert any("was damaged" in warning for warning in status["warnings"]) is damaged, name
            assert (runner.home / "runner.state.json.lock").read_text() == f"{status['pid']}\n"
            crash_runner(runner)
    runner.start()
    works(runner)


@pytest.mark.parametrize("name", ["runner.state.json.lock", "runner.state.json"])
def test_trap_06_what_is_no_file_where_one_should_be(runner: Runner, name: str) -> None:
    """A directory, a FIFO or a link in a file's place neither hangs anything nor is followed.

    Seen to fail: with `read_bytes` for `read_file`, and without `_regular` in `_open_lock`.
    """
    path = runner.home / name
    for kind, make in KINDS.items():
        put(path, None)
        make(path)
        if name.endswith("lock"):
            assert name in refused(runner, "runner", "start")["message"], kind
            assert name in refused(runner, "runner", "status")["message"], kind
            assert not runner.processes()
        else:
            runner.hapi("runner", "status", check=3)
            assert runner.start()["running"], kind
            assert json.loads(path.read_bytes())["pid"]
            crash_runner(runner)
    put(path, None)
    for left in runner.home.glob("*.bad-*"):
        put(left, None)
    works(runner)


def test_trap_06_a_lock_that_is_removed_from_under_its_holder_is_taken_anew(runner: Runner) -> None:
    """The runner was taken for dead for ever: no command reached it, and no other could start on its sockets.

    Seen to fail: without `keep` in `_write_report`.
    """
    runner.environment["HAPI_RUNNER_HEARTBEAT_INTERVAL"] = "100"
    pid = runner.start()["pid"]
    lock = runner.home / "runner.state.json.lock"
    for content in (None, b"", GARBAGE):
        put(lock, content)
        until(lambda: runner.status()["running"], 10, "the runner is found again")
        assert runner.start()["pid"] == pid
        assert lock.read_text() == f"{pid}\n"
    runner.hapi("runner", "stop", check=0)
    assert not runner.processes()


# ------------------------------------------------------------------------------------------------------ settings


def test_trap_24_settings_that_cannot_be_read_stop_everything_and_stay_as_they_are(runner: Runner) -> None:
    """Taken for empty, they would cost the user his token and the machine its name at the hub.

    Seen to fail: with `return {}` for a file that cannot be decoded.
    """
    path = runner.home / "settings.json"
    sound = changed(path.read_bytes(), theirs={"deep": [1, None]}, futureFlag="x")
    wrong = {
        "wrong api url": changed(sound, apiUrl=5),
        "wrong agents": changed(sound, agents=["claude"]),
        "wrong headers": changed(sound, extraHeaders={"a": 1}),
    }
    cells = {name: make(sound) for name, make in CONTENTS.items()} | wrong
    for name, content in cells.items():
        if content is None:
            continue
        put(path, content)
        assert str(path) in refused(runner, "runner", "start")["message"], name
        if name not in wrong:
            error = refused(runner, "auth", "logout")
            assert str(path) in error["message"], name
        assert path.read_bytes() == content, name
    for make in KINDS.values():
        put(path, None)
        make(path)
        if not path.is_symlink():  # a link to nowhere is no file, and that is no settings
            assert str(path) in refused(runner, "runner", "start")["message"]
    assert not runner.processes()
    put(path, None)
    assert runner.start()["running"]  # no settings are no error
    runner.hapi("runner", "stop", check=0)
    put(path, sound)
    runner.hapi("auth", "login", "--token-stdin", "--url", "http://127.0.0.1:9", input="a-token\n", check=0)
    runner.start()
    until(lambda: "machineId" in json.loads(path.read_bytes()), 20, "the connector noted the machine's id")
    runner.hapi("auth", "logout", check=0)
    after = json.loads(path.read_bytes())
    assert after.items() >= (json.loads(sound) | {"apiUrl": "http://127.0.0.1:9"}).items()
    works(runner)


def test_settings_that_are_damaged_while_the_runner_runs(runner: Runner) -> None:
    """What runs goes on and can be stopped; what would need the settings says that they are damaged."""
    session = runner.spawn()
    path = runner.home / "settings.json"
    sound = path.read_bytes()
    put(path, sound[:-9])
    assert str(path) in refused(runner, "runner", "spawn", str(runner.project))["message"]
    assert identity(session["pid"])
    put(path, sound)
    works(runner)


# ------------------------------------------------------------------------------------------------------ sessions


def test_trap_05_records_that_point_at_a_living_stranger(runner: Runner) -> None:
    """The pid was reused: the session has ended, the runner starts, and nobody signals the stranger.

    Seen to fail: with `is_alive` by pid alone.
    """
    template = dead_session(runner)
    sound = (template / "state.json").read_bytes()
    with stranger() as other:
        wrong = json.loads(sound)["supervisor"] | {"pid": other.pid}
        put(template / "state.json", changed(sound, supervisor=wrong, agent_process=wrong))
        put(runner.home / "runner.state.json", changed((runner.home / "runner.state.json").read_bytes(), pid=other.pid))
        put(runner.home / "runner.state.json.lock", b"%d\n" % other.pid)
        status = runner.start()
        assert status["verdicts"] == {"ended": 1}
        assert runner.wait_phase(template.name, "ended")["reason"] == "supervisor lost"
        assert runner.hapi("runner", "stop-session", template.name, "--json", check=0).json["status"] == "already_gone"
        runner.hapi("runner", "stop", check=0)
        runner.hapi("doctor", "clean", "--yes", check=0)


def test_trap_06_a_record_of_another_boot(runner: Runner) -> None:
    """Pids of another boot mean nothing, even if the very process is there: whatever becomes of the session, the
    stranger lives, and the record tells the truth.

    Seen to fail: with `is_alive` and `scan` that do not look at the boot.
    """
    template = dead_session(runner)
    record = json.loads((template / "state.json").read_bytes())
    with stranger() as other:
        who = procs.identity(other.pid)
        assert who is not None
        wrong = {"pid": who.pid, "start_ticks": who.start_ticks, "boot_id": OTHER_BOOT}
        put(template / "state.json", json.dumps(record | {"supervisor": wrong, "agent_process": wrong}).encode())
        runner.start()
        until(lambda: sum(runner.status()["verdicts"].values()) == 1, 20, "it has its verdict")
        found = until(lambda: runner.session(template.name), 20, "it is listed")
        assert (found["phase"], found.get("reason")) == ("ended", "machine rebooted") or found["pid"] != other.pid
        runner.hapi("runner", "stop-session", template.name, check=0)


def test_records_of_another_version_and_of_a_record_we_may_not_judge(runner: Runner) -> None:
    """A downgrade must not cost what a newer build knows: unknown fields survive the closing of a record, and a record
    that is not understood is left where it is, said, and counted.

    Seen to fail: with every unreadable record moved aside, and with `write_state` for `close_state`.
    """
    template = dead_session(runner)
    found = copies(template, ["fields", "phase"])
    sound = {name: (directory / "state.json").read_bytes() for name, directory in found.items()}
    put(found["fields"] / "state.json", changed(sound["fields"], version="9.9.9", hologram={"deep": [1]}))
    future = changed(sound["phase"], version="9.9.9", phase="hibernating")
    put(found["phase"] / "state.json", future)
    status = runner.start()
    assert status["verdicts"] == {"ended": 2, "quarantined": 1}
    (said,) = [warning for warning in status["warnings"] if "cannot be read" in warning]
    assert f"{found['phase'].name[:13]} (of another version)" in said
    assert (found["phase"] / "state.json").read_bytes() == future
    assert kept_aside(found["phase"] / "state.json") == []
    until(lambda: not runner.sessions(), 20, "the reaper has looked after both")
    closed = json.loads((found["fields"] / "state.json").read_bytes())
    assert (closed["phase"], closed["hologram"]) == ("ended", {"deep": [1]})
    works(runner)


def test_trap_24_a_record_damaged_under_a_live_supervisor(runner: Runner) -> None:
    """The session is adopted all the same, and its next news write the record anew.

    Seen to fail: with supervisors refused whose record could not be read.
    """
    sessions = {name: runner.spawn() for name in CONTENTS}
    crash_runner(runner)
    contents = {}
    for name, session in sessions.items():
        record = runner.home / "sessions" / session["sessionId"] / "state.json"
        contents[name] = CONTENTS[name](record.read_bytes())
        put(record, contents[name])
    runner.start()
    for name, session in sessions.items():
        found = runner.wait_phase(session["sessionId"], "idle")
        assert (found["pid"], found["agentPid"]) == (session["pid"], session["agentPid"]), name
        record = runner.home / "sessions" / session["sessionId"] / "state.json"
        assert kept_aside(record) == ([] if contents[name] is None else [contents[name]])
        runner.hapi("send", session["sessionId"], "hello", check=0)
        until(record.exists, 20, "the record is written anew")
        assert json.loads(record.read_bytes())["supervisor"]["pid"] == session["pid"]
        runner.hapi("runner", "stop-session", session["sessionId"], check=0)
    assert sum(runner.status()["verdicts"].values()) == len(CONTENTS)


def test_a_journal_damaged_under_a_live_supervisor(runner: Runner) -> None:
    """It is written anew from memory with the next entry: nothing of the conversation is lost.

    Seen to fail: without the look at the file's size and place in `_append`.
    """
    session = runner.spawn()["sessionId"]
    journal = runner.home / "sessions" / session / "journal"
    runner.hapi("send", session, "/say first", check=0)
    runner.wait_phase(session, "idle")
    until(lambda: "TurnEnded" in {type(event).__name__ for event in runner.events(session)}, 20, "it answers")
    before = runner.events(session)
    for content in (None, b"", GARBAGE):
        put(journal, content)
        runner.hapi("send", session, "/say more", check=0)
        runner.wait_phase(session, "idle")
        assert runner.events(session)[: len(before)] == before


def resumed(runner: Runner, session_id: str) -> None:
    """Continue an ended session under its id, as the web app's resume does."""
    settings = config.load(environ=runner.environment)
    order = wire.Spawn(
        session_id=session_id, directory=str(runner.project), agent="demo", started_by="runner", existing=True
    )
    Control(settings).ask(order, wire.Spawned, 30)


def numbers(directory: Path) -> list[int]:
    copy = directory / "copy"
    put(copy, (directory / "journal").read_bytes())
    journal = Journal(copy)
    journal.close()
    return list(journal.state.unconfirmed)


def test_trap_24_sessions_that_go_on_with_a_damaged_journal_or_order(runner: Runner) -> None:
    """Every content fault at once, one per session: each goes on, people are told what was lost, the damaged bytes are
    kept, and no event gets a number that the hub may know.

    Seen to fail: without `generation` handed to the journal, and without `journal.trouble` among the notes.
    """
    template = dead_session(runner)
    (template / "state.json").write_bytes(changed((template / "state.json").read_bytes(), phase="ended", ended_at=1))
    cells = {"sound": ("journal", lambda sound: sound)} | {name: ("journal", make) for name, make in CONTENTS.items()}
    cells |= {f"order {name}": ("spec.json", CONTENTS[name]) for name in ("missing", "garbage")}
    found = copies(template, list(cells))
    contents = {name: make((found[name] / file).read_bytes()) for name, (file, make) in cells.items()}
    for name, (file, _) in cells.items():
        put(found[name] / file, contents[name])
    old = numbers(template)
    runner.start()
    assert len(runner.sessions("--ended")) == len(found) + 1
    for name, directory in found.items():
        resumed(runner, directory.name)
        notes = [event.text for event in runner.events(directory.name) if isinstance(event, wire.Note)]
        lost = name in CONTENTS
        assert any("journal was" in note for note in notes) is lost, (name, notes)
        assert ("journal was" in (directory / "session.log").read_text()) is lost
        kept = kept_aside(directory / "journal")
        assert bool(kept) is bool(lost and contents[name])
        assert b"".join(kept) in (contents[name] or b"")
        runner.hapi("send", directory.name, "hello", check=0)
        fresh = until(lambda d=directory: set(numbers(d)) - set(old), 20, "it answers")  # type: ignore[misc]
        assert min(fresh) > NUMBERS_PER_GENERATION, name
        runner.hapi("runner", "stop-session", directory.name, check=0)
    assert runner.status()["counters"].get("internal_errors", 0) == 0
