"""The death of the runner's own processes, in any number and at any moment: every live session is back under control."""

from __future__ import annotations

import random
import re
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hapi import procs
from tests.support.faults import (
    TURN_OVER,
    WORKERS,
    boot_mixed,
    kill,
    let_finish,
    own_processes,
    pids,
    said,
    session_processes,
)
from tests.support.runner import Done, Runner, gone, identity
from tests.support.wait import until

ALL = ("broker", *WORKERS)


def verdicts_in_log(runner: Runner) -> Counter[str]:
    """The newest broker's verdicts as its log explains them."""
    log = (runner.root / "logs" / "runner.log").read_text().rpartition("started for namespace")[2]
    return Counter(re.findall(r"session [0-9a-f-]{36}: (\w+) \(Facts", log))


def stop_all(runner: Runner, sessions: dict[str, tuple[int, int]]) -> None:
    """Each of them answers a stop, and is gone after it."""
    trees = {key: [identity(pid) for pid in pair] for key, pair in sessions.items()}
    for session_id, tree in trees.items():
        done = runner.hapi("runner", "stop-session", session_id, "--json", check=0)
        assert done.json["status"] == "stopped"
        for process in tree:
            gone(process)
    assert runner.sessions() == []


@pytest.mark.timeout(150)
def test_trap_02_after_the_brokers_death_all_ten_sessions_answer(runner: Runner) -> None:
    """Ten sessions, idle, working and waiting; SIGKILL; start: list, message and stop work, and turns go on.

    Seen to fail: without the hello that a supervisor says to a broker it does not know.
    """
    runner.start()
    made = boot_mixed(runner, idle=4, working=3, waiting=3)
    before = pids(runner.sessions())
    kill([own_processes(runner)["broker"]])
    runner.hapi("runner", "start", check=0)
    until(lambda: runner.status()["verdicts"] == {"adopted": 10}, 15, "all are adopted")
    assert verdicts_in_log(runner) == {"adopted": 10}
    assert pids(runner.sessions()) == before
    assert Counter(session["phase"] for session in runner.sessions())["waiting"] == 3
    for session_id in (*made["idle"], *made["working"]):
        runner.hapi("send", session_id, "/say after the crash", check=0)
    let_finish(runner, made["working"])
    for session_id in made["idle"]:
        until(lambda key=session_id: said(runner, key) == ["after the crash"], 15, "it answers")
    for session_id in made["working"]:
        wanted = [TURN_OVER, "after the crash"]
        until(lambda key=session_id, wanted=wanted: said(runner, key) == wanted, 30, "the turn went on, then the next")
    assert pids(runner.sessions()) == before
    stop_all(runner, before)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("victims", [("hub",), ("reaper",), ("nursery",), ALL], ids="+".join)
def test_trap_02_the_death_of_any_of_our_processes_costs_no_session(runner: Runner, victims: tuple[str, ...]) -> None:
    """A worker comes back by itself, all of them together with the next `hapi runner start`.

    Seen to fail: without the start of a worker that died.
    """
    runner.start()
    made = boot_mixed(runner)
    before, own = pids(runner.sessions()), own_processes(runner)
    kill(own[name] for name in victims)
    if "broker" in victims:
        runner.hapi("runner", "start", check=0)
        until(lambda: runner.status()["verdicts"] == {"adopted": 3}, 15, "all are adopted")
        assert verdicts_in_log(runner) == {"adopted": 3}
    after = until(
        lambda: (now := own_processes(runner)) and not any(now[name] == own[name] for name in victims) and now,
        15,
        "the dead are replaced",
    )
    assert all(after[name] == own[name] for name in own if name not in victims)
    assert pids(runner.sessions()) == before
    let_finish(runner, made["working"])
    for phase in ("idle", "working"):
        runner.hapi("send", made[phase][0], "/say still here", check=0)
        until(lambda key=made[phase][0]: "still here" in said(runner, key), 20, f"the {phase} one answers")
    assert said(runner, made["working"][0]) == [TURN_OVER, "still here"]
    assert runner.session(made["waiting"][0])["phase"] == "waiting"  # type: ignore[index]
    fresh = runner.spawn()
    lost = session_processes(fresh)
    kill([identity(fresh["pid"])])
    until(lambda: not any(map(procs.is_alive, lost)), 10, "the new reaper does its work")
    stop_all(runner, before)


@pytest.mark.parametrize("up", [True, False], ids=["while the runner is up", "while it is down"])
def test_trap_04_a_supervisors_death_takes_its_whole_tree_along(runner: Runner, *, up: bool) -> None:
    """SIGKILL of a supervisor whose agent left a child in a session of its own that ignores SIGTERM.

    Seen to fail: without the look for processes that carry the session's mark or stamp.
    """
    runner.start()
    keeper, session = runner.spawn(), runner.spawn()
    runner.hapi("send", session["sessionId"], "/child setsid ignore", check=0)
    until(lambda: said(runner, session["sessionId"]), 10, "the agent has left its child")
    tree = session_processes(session)
    if up:
        kill(tree[:1])
    else:
        own = own_processes(runner)
        kill([own["reaper"], own["broker"], *tree[:1]])  # the reaper first: it needs an instant to see the dead
        assert any(map(procs.is_alive, tree)), "somebody is left to be ended"
        runner.hapi("runner", "start", check=0)
    ended = runner.wait_phase(session["sessionId"], "ended")
    assert ended["reason"] == "supervisor lost"
    until(lambda: not any(map(procs.is_alive, tree)), 10, "agent and descendants are gone")
    assert pids(runner.sessions()) == pids([keeper])
    if not up:
        until(lambda: runner.status()["verdicts"] == {"adopted": 1, "ended": 1}, 10, "both got their verdict")
        assert verdicts_in_log(runner) == {"adopted": 1, "ended": 1}


class Traffic:
    """Spawns and messages without a pause, and what each command said. A thread of its own for each kind."""

    def __init__(self, runner: Runner, talkers: list[str]) -> None:
        self.runner = runner
        self.talkers = talkers
        self.spawned: dict[str, Done] = {}
        self.sent: dict[str, tuple[str, Done]] = {}
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=(work,)) for work in (self._spawn, self._send)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._over.is_set():
            work()

    def _spawn(self) -> None:
        key = str(uuid.uuid4())
        words = ("runner", "spawn", str(self.runner.project), "--agent", "demo", "--id", key, "--json")
        self.spawned[key] = self.runner.hapi(*words, env={"HAPI_DEMO_START": "slow:0.3"})

    def _send(self) -> None:
        word = uuid.uuid4().hex
        talker = self.talkers[len(self.sent) % len(self.talkers)]
        self.sent[word] = (talker, self.runner.hapi("send", talker, f"/say {word}"))


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seed", [2, 27, 30])
def test_trap_02_all_at_once_at_a_random_moment(runner: Runner, seed: int) -> None:
    """The runner's four processes die together while sessions start and messages go in.

    Whatever was confirmed holds: a session that was reported is there, a message that was accepted arrives once. What
    was refused has left no ghost, and a message of unknown fate arrives once or never.
    Seen to fail: without the hello that a supervisor says to a broker it does not know.
    """
    random_ = random.Random(seed)
    runner.start()
    talkers = [runner.spawn()["sessionId"] for _ in range(2)]
    traffic = Traffic(runner, talkers)
    try:
        for _ in range(2):
            own = own_processes(runner)
            threading.Event().wait(random_.uniform(0.2, 1.5))  # the moment
            kill(own.values())
            until(lambda: runner.hapi("runner", "start").code == 0, 20, "it starts again")
    finally:
        traffic.end()
    own_processes(runner)
    reported = {key: done.json for key, done in traffic.spawned.items() if done.code == 0}
    assert reported, "something got through"
    settled = until(lambda: live_if_settled(runner), 40, "what runs is what is listed")
    assert set(talkers) | set(reported) <= set(settled)
    assert all((session["pid"], session["agentPid"]) == settled[key] for key, session in reported.items())
    assert set(settled) <= set(talkers) | set(traffic.spawned), "a session that nobody asked for"
    heard = Counter(text for talker in talkers for text in arrived(runner, talker))
    confirmed = {word for word, (_, done) in traffic.sent.items() if done.code == 0}
    assert confirmed, "something got through"
    assert {word: heard[word] for word in traffic.sent if word in confirmed or heard[word]} == {
        word: 1 for word in traffic.sent if word in confirmed or heard[word]
    }
    verdicts = runner.status()["verdicts"]
    assert verdicts == dict(verdicts_in_log(runner))
    assert "quarantined" not in verdicts
    stop_all(runner, settled)


def live_if_settled(runner: Runner) -> dict[str, tuple[int, int]] | None:
    """The live sessions, once every supervisor and agent that runs belongs to one and none is starting."""
    sessions = runner.sessions()
    if any(session["phase"] == "starting" for session in sessions):
        return None
    listed = pids(sessions)
    known = {pid for pair in listed.values() for pid in pair} | {who.pid for who in own_processes(runner).values()}
    strangers = [who.pid for who in runner.processes() if who.pid not in known and is_session(who.pid)]
    return None if strangers else listed


def is_session(pid: int) -> bool:
    """Whether it is a supervisor or an agent; the commands of this test are neither."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return False
    return words.startswith("hapi: session") or "hapi.agents.demo" in words or "demo.py" in words


def arrived(runner: Runner, session_id: str) -> list[Any]:
    """What the agent said, once it has said all that it was told."""
    runner.wait_phase(session_id, "idle")
    return said(runner, session_id)
