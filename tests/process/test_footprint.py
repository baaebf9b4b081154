"""What a runner's processes cost, held against psutil's account of the same processes."""

import os

import psutil
import pytest

from hapi import footprint, wire
from tests.support.wait import until


def look(runner):
    status = runner.ask(wire.GetStatus(), wire.Status)
    sessions = runner.ask(wire.ListSessions(), wire.SessionList).sessions
    return footprint.processes(status, sessions), sessions


def test_every_process_of_a_runner_has_its_kind_also_behind_the_next_broker(runner):
    runner.start()
    runner.spawn()
    runner.spawn()
    pids, sessions = look(runner)
    kinds = list(pids.values())
    counts = {kind: kinds.count(kind) for kind in kinds}
    assert counts == {"broker": 1, "hub": 1, "nursery": 1, "reaper": 1, "session": 2, "agent": 2}
    agents = {pid for pid, kind in pids.items() if kind == "agent"}
    assert agents == {info.agent_process.pid for info in sessions}
    everyone = {process.pid for process in runner.processes()}
    assert everyone == set(pids)
    use = footprint.measure(pids)
    assert list(use) == ["broker", "hub", "nursery", "reaper", "session", "agent"]
    for kind, one in use.items():
        own = [psutil.Process(pid) for pid in pids if pids[pid] == kind]
        theirs = [process.memory_full_info() for process in own]
        assert one.count == len(own)
        assert one.pss == pytest.approx(sum(m.pss for m in theirs), rel=0.1)
        assert one.private == pytest.approx(sum(m.uss for m in theirs), rel=0.1)
        assert one.cpu_s == pytest.approx(sum(sum(p.cpu_times()[:2]) for p in own), abs=0.2)
    os.kill(runner.status()["pid"], 9)
    runner.start()  # the sessions are adopted, and are no children of it
    until(
        lambda: sorted(look(runner)[0].values()) == sorted(kinds), 15, "the workers and the adopted sessions are found"
    )


def test_processor_time_between_two_looks_is_what_was_burnt():
    own = {os.getpid(): "session"}
    before = footprint.cpu(own)
    start = psutil.Process().cpu_times()
    total = 0
    while sum(psutil.Process().cpu_times()[:2]) - sum(start[:2]) < 0.1:
        total += sum(range(1000))
    spent = footprint.spent(own, before, footprint.cpu(own))
    assert list(spent) == ["session"]
    assert 0.08 <= spent["session"] <= 0.4


def test_who_is_gone_costs_nothing():
    nobody = {2**22 + 1: "agent"}
    assert footprint.measure(nobody) == {}
    assert footprint.cpu(nobody) == {}
    assert footprint.memory(2**22 + 1) == (0, 0)
