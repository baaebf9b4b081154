"""Every record found at a start gets one verdict, is counted, and stays in the list."""

from __future__ import annotations

import json

from tests.support.damage import CONTENTS, changed, copies, crash_runner, dead_session, kept_aside, put, stranger
from tests.support.runner import Runner
from tests.support.wait import until


def test_trap_12_every_record_is_adopted_ended_or_quarantined(runner: Runner) -> None:
    """Live, dead, ended, damaged in every way, of another version: one verdict each, counted, logged, listed, kept.

    Seen to fail: with unreadable records left out of `scan`.
    """
    template = dead_session(runner)
    found = copies(template, ["ended", "newer", "reused", *CONTENTS])
    sound = {name: (directory / "state.json").read_bytes() for name, directory in found.items()}
    put(found["ended"] / "state.json", changed(sound["ended"], phase="ended", reason="stopped by user", ended_at=5))
    put(found["newer"] / "state.json", changed(sound["newer"], version="99.0", phase="hibernating"))
    for name, make in CONTENTS.items():
        put(found[name] / "state.json", make(sound[name]))
    live = runner.spawn()  # starts the runner: the first verdicts
    first = runner.status()["verdicts"]
    dead = {template.name, found["reused"].name, *(found[name].name for name in CONTENTS)}
    assert first == {"ended": len(dead) + 1, "quarantined": 1}
    log = (runner.home / "logs" / "runner.log").read_text()
    assert all(f"session {directory.name}: " in log for name, directory in found.items() if name != "ended")
    with stranger() as other:
        put_reused(runner, template.with_name(live["sessionId"]).name, found["reused"].name, other.pid)
        crash_runner(runner)
        runner.start()
        until(lambda: sum(runner.status()["verdicts"].values()) == len(found) + 2, 20, "all verdicts are in")
        assert runner.status()["verdicts"] == {"adopted": 1, "ended": len(dead) + 1, "quarantined": 1}
    listed = {session["sessionId"]: session for session in runner.sessions("--ended")}
    assert listed.keys() == dead | {found["ended"].name, live["sessionId"]}
    assert listed[live["sessionId"]]["pid"] == live["pid"]
    assert {listed[name]["reason"] for name in dead} == {"supervisor lost"}
    for name, make in CONTENTS.items():
        content = make(sound[name])
        assert kept_aside(found[name] / "state.json") == ([] if content is None else [content])
        assert json.loads((found[name] / "state.json").read_bytes())["phase"] == "ended"
    assert json.loads((found["newer"] / "state.json").read_bytes())["phase"] == "hibernating"


def put_reused(runner: Runner, live: str, session_id: str, pid: int) -> None:
    """Let an ended session look alive again, under the pid of a stranger."""
    sessions = runner.home / "sessions"
    record = (sessions / live / "state.json").read_bytes()
    wrong = json.loads(record)["supervisor"] | {"pid": pid}
    content = changed(record, session_id=session_id, supervisor=wrong, agent_process=wrong)
    put(sessions / session_id / "state.json", content)


def test_trap_12_an_unreadable_record_whose_supervisor_lives_is_adopted(runner: Runner) -> None:
    """Nobody ends what may live: the lock of its directory is held. And nothing is counted anew at each start.

    Seen to fail: with a verdict on an unreadable record before its supervisor had the time to speak.
    """
    session = runner.spawn()["sessionId"]
    for _ in range(2):
        crash_runner(runner)
        put(runner.home / "sessions" / session / "state.json", b"")
        runner.start()
        until(lambda: runner.status()["verdicts"] == {"adopted": 1}, 20, "it is adopted")
        runner.wait_phase(session, "idle")
    runner.hapi("runner", "stop-session", session, check=0)
    crash_runner(runner)
    assert runner.start()["verdicts"] == {"ended": 1}
