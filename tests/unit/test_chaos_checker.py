"""The chaos run's checker can fail: a healthy world has no problems, and each doctored one has exactly its own."""

import os
import subprocess
import sys
from collections import Counter

import pytest

from hapi import wire
from hapi.journal import Journal
from tests.chaos import report
from tests.chaos.asked import Asked, Message, Spawn, Stop
from tests.chaos.checker import Problem, check, is_quiet
from tests.chaos.facts import HubSession, Process, Record, Row, World
from tests.chaos.init import descendants
from tests.chaos.observe import _dead_pidfds, journal_frames, read_process, read_records
from tests.chaos.plan import ACTIONS, FAULTS, plan

LIVE, ENDED = "11111111-live", "22222222-ended"
BROKER, NURSERY, SUPERVISOR, AGENT, CHILD = 10, 11, 20, 21, 22


def process(pid, parent, title, session=None, **more):
    return Process(pid, pid * 100, parent, "S", title, session, 20, **more)


def chat(marker, local_id):
    return [
        Row(f"row-{marker}", local_id, "user", f"hello {marker}", invoked=True),
        Row(f"echo-{marker}", f"a:{marker}", "message", f"You said: hello {marker}", invoked=True),
    ]


def healthy():
    """A live session with one answered message, one that was stopped, with one as well."""
    world = World(
        records={
            LIVE: Record(LIVE, "/w/1", "idle", None, (SUPERVISOR, 2000), (AGENT, 2100)),
            ENDED: Record(ENDED, "/w/2", "ended", "stopped by user", (30, 3000), (31, 3100)),
        },
        processes={
            p.pid: p
            for p in (
                process(BROKER, 1, "hapi: broker [default]"),
                process(NURSERY, BROKER, "hapi: nursery [default]"),
                process(SUPERVISOR, NURSERY, f"hapi: session [default] {LIVE[:8]} demo /w/1 idle"),
                process(AGENT, SUPERVISOR, "python agents/demo.py", LIVE),
                process(CHILD, SUPERVISOR, "sleep 3600", LIVE),
            )
        },
        hub={
            LIVE: HubSession(LIVE, active=True, lifecycle="running", rows=chat("m1", "l1")),
            ENDED: HubSession(ENDED, active=False, lifecycle="archived", rows=chat("m2", "l2")),
        },
        runner={"broker": BROKER, "nursery": NURSERY},
        listed={LIVE},
    )
    world.records[LIVE].fates["row-m1"] = "taken"
    world.records[ENDED].fates["row-m2"] = "taken"
    asked = Asked(
        spawns=[Spawn("control", "/w/1", LIVE, "started"), Spawn("hub", "/w/2", ENDED, "started")],
        messages=[
            Message("hub", LIVE, "hello m1", "m1", "l1", "accepted"),
            Message("hub", ENDED, "hello m2", "m2", "l2", "accepted"),
        ],
        stops=[Stop("command", ENDED, "stopped")],
        cuts=[(ENDED, "stop")],
    )
    return asked, world


def test_a_healthy_world_has_no_problems():
    asked, world = healthy()
    assert check(asked, world) == []
    assert is_quiet(world)


DOCTORS = {}


def doctor(kind):
    """What is done to the healthy world, and the one kind of problem that it must bring to light."""

    def add(work):
        DOCTORS[work.__name__] = (kind, work)
        return work

    return add


@doctor("lost")
def the_hub_has_not_got_the_users_message(asked, world):
    world.hub[LIVE].rows = []


@doctor("lost")
def taken_and_never_answered(asked, world):
    world.hub[LIVE].rows.pop()


@doctor("lost")
def answered_in_part(asked, world):
    world.hub[LIVE].rows[1].text = "You said: hello"


@doctor("lost")
def never_reached_its_session(asked, world):
    world.hub[LIVE].rows.pop()
    world.records[LIVE].fates.clear()


@doctor("lost")
def two_turns_of_an_ended_session_without_answers(asked, world):
    world.hub[ENDED].rows.pop()
    asked.messages.append(Message("hub", ENDED, "hello m3", "m3", "l3", "accepted"))
    world.hub[ENDED].rows.append(Row("row-m3", "l3", "user", "hello m3", invoked=True))
    world.records[ENDED].fates["row-m3"] = "taken"


@doctor("lost")
def events_that_stayed_in_the_journal(asked, world):
    world.records[ENDED].undelivered = {7: "The agent ended."}


@doctor("lost")
def words_from_the_terminal_that_are_nowhere(asked, world):
    asked.messages.append(Message("cli", ENDED, "from here m4", "m4", None, "accepted"))
    world.hub[ENDED].rows.append(Row("r", "a:4", "user", "from here m4", invoked=True))


@doctor("lost")
def a_started_session_without_a_record(asked, world):
    asked.spawns.append(Spawn("control", "/w/9", "99999999", "started"))


@doctor("doubled")
def answered_twice(asked, world):
    world.hub[LIVE].rows.append(Row("again", "a:9", "message", "You said: hello m1", invoked=True))


@doctor("doubled")
def the_users_words_twice(asked, world):
    world.hub[LIVE].rows.append(Row("again", "l9", "user", "hello m1", invoked=True))


@doctor("doubled")
def one_spawn_two_sessions(asked, world):
    world.records["3333"] = Record("3333", "/w/2", "ended", "spawn failed")


@doctor("doubled")
def two_supervisors_of_one_session(asked, world):
    title = world.processes[SUPERVISOR].title
    world.processes[40] = process(40, SUPERVISOR, title)


@doctor("doubled")
def two_agents_seen_while_it_ran(asked, world):
    asked.seen_twice.append("agents 1 and 2")


@doctor("orphan")
def an_agent_that_outlived_its_session(asked, world):
    world.processes[31] = process(31, 1, "python agents/demo.py", ENDED)


@doctor("orphan")
def a_supervisor_that_outlived_its_session(asked, world):
    world.processes[30] = process(30, NURSERY, f"hapi: session [default] {ENDED[:8]} demo /w/2 idle")


@doctor("zombie")
def a_child_that_nobody_waited_for(asked, world):
    world.processes[23] = Process(23, 2300, SUPERVISOR, "Z", "")


@doctor("leaked fd")
def too_many_descriptors(asked, world):
    world.processes[BROKER].fds = 500


@doctor("leaked fd")
def too_many_descriptors_of_a_supervisor(asked, world):
    world.processes[SUPERVISOR].fds = 200


@doctor("leaked fd")
def a_file_of_an_ended_session_kept_open(asked, world):
    world.processes[BROKER].stale = ["/sessions/x/journal"]


@doctor("untrue")
def stopped_but_live(asked, world):
    asked.stops.append(Stop("hub", LIVE, "archived"))


@doctor("untrue")
def live_on_disk_with_a_dead_agent(asked, world):
    del world.processes[AGENT]


@doctor("untrue")
def a_reused_pid(asked, world):
    world.processes[SUPERVISOR].ticks = 1


@doctor("untrue")
def live_but_not_listed(asked, world):
    world.listed.clear()


@doctor("untrue")
def ended_but_listed(asked, world):
    world.listed.add(ENDED)


@doctor("untrue")
def live_but_inactive_at_the_hub(asked, world):
    world.hub[LIVE].active = False


@doctor("untrue")
def ended_but_active_at_the_hub(asked, world):
    world.hub[ENDED].active = True


@doctor("untrue")
def stopped_but_not_archived(asked, world):
    world.hub[ENDED].lifecycle = "running"


@doctor("untrue")
def a_reason_that_nobody_gave(asked, world):
    world.records[ENDED].reason = "supervisor lost"


@doctor("untrue")
def a_session_that_nobody_asked_for(asked, world):
    world.records["4444"] = Record("4444", "/w/4", "ended", "spawn failed")


@doctor("untrue")
def a_failed_spawn_that_lives(asked, world):
    asked.spawns[0].outcome = "failed"


@doctor("untrue")
def still_queued_at_the_hub_though_answered(asked, world):
    world.hub[LIVE].queued = {"l1"}


@doctor("untrue")
def a_refused_message_that_was_answered(asked, world):
    asked.messages[0].outcome = "refused"


@doctor("untrue")
def a_record_that_cannot_be_read(asked, world):
    world.records[ENDED].problem = "garbage"


@doctor("untrue")
def a_permission_request_of_an_idle_session(asked, world):
    world.hub[LIVE].pending = ["call-1"]


@doctor("untrue")
def a_runner_that_is_offline(asked, world):
    world.hub_online = False


@doctor("untrue")
def a_worker_that_status_names_and_is_not_there(asked, world):
    world.runner["reaper"] = 99


@doctor("untrue")
def a_process_still_stopped(asked, world):
    world.processes[CHILD].state = "T"


@doctor("hung")
def a_command_without_an_end(asked, world):
    asked.hung.append("runner stop")


@doctor("leftover")
def a_torn_temporary_file(asked, world):
    world.leftovers.append("/h/.state.json.5.tmp")


@pytest.mark.parametrize("name", DOCTORS)
def test_each_doctored_world_is_found_out(name):
    kind, work = DOCTORS[name]
    asked, world = healthy()
    work(asked, world)
    problems = check(asked, world)
    assert {problem.kind for problem in problems} == {kind}, problems
    rows = report.counts(asked, world, problems)
    assert rows[kind] == len(problems)
    assert "FAILED" in report.sentence(7, 60, rows, problems)
    assert "SEED=7" in report.sentence(7, 60, rows, problems)


@pytest.mark.parametrize(
    "how", ["cut by the end", "aborted", "indeterminate", "queued at the end", "lost answer", "unconfirmed"]
)
def test_what_is_no_loss(how):
    asked, world = healthy()
    if how == "cut by the end":
        world.hub[ENDED].rows.pop()
    elif how == "aborted":
        world.hub[LIVE].rows.pop()
        asked.cuts.append((LIVE, "abort"))
    elif how == "indeterminate":
        world.hub[LIVE].rows.clear()
        world.hub[LIVE].indeterminate = {"l1"}
    elif how == "queued at the end":
        world.hub[ENDED].rows.pop()
        world.records[ENDED].fates["row-m2"] = "queued"
    elif how == "unconfirmed":
        world.records[ENDED].undelivered = {7: "The agent ended."}
        world.hub[ENDED].rows.append(Row("note", f"a:{ENDED[:8]}:7", "remark", "The agent ended.", invoked=True))
    else:
        asked.messages.append(Message("hub", LIVE, "hello m5", "m5", "l5"))
        asked.spawns.append(Spawn("hub", "/w/5"))
    assert check(asked, world) == []


def test_a_session_at_work_is_not_settled():
    _, world = healthy()
    world.records[LIVE].phase = "working"
    assert not is_quiet(world)


# ------------------------------------------------------------------------------------------------ what it looks with


def test_the_checkers_own_reader_agrees_with_the_journal(tmp_path):
    directory = tmp_path / "1111"
    directory.mkdir()
    journal = Journal(directory / "journal")
    journal.received(wire.UserMessage(id="a", text="first", created_at=1))
    journal.received(wire.UserMessage(id="b", text="second", created_at=2))
    journal.taken("a")
    for word in ("one", "two", "three"):
        journal.emit(wire.AgentText(word), 5)
    journal.delivered(2)
    journal.close()
    (directory / "state.json").write_text('{"directory": "/w", "phase": "idle"}')
    record = read_records(tmp_path)["1111"]
    assert (record.fates, record.undelivered) == ({"a": "taken", "b": "queued"}, {3: "three"})
    assert (record.texts["b"], record.live, record.torn_bytes) == ("second", True, 0)
    data = (directory / "journal").read_bytes()
    assert len(list(journal_frames(data[:-1]))) == len(list(journal_frames(data))) - 1


def test_a_record_without_state_is_a_problem(tmp_path):
    (tmp_path / "1111").mkdir()
    assert "cannot be read" in read_records(tmp_path)["1111"].problem


def test_zombies_and_descriptors_of_the_dead_are_seen():
    child = subprocess.Popen([sys.executable, "-c", ""])
    fd = os.pidfd_open(child.pid)
    try:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert read_process(child.pid).state == "Z"
        assert child.pid in descendants(os.getpid())
        assert _dead_pidfds(os.getpid()) == []
        child.wait()
        assert read_process(child.pid) is None
        assert _dead_pidfds(os.getpid()) == [str(fd)]
    finally:
        os.close(fd)
        child.wait()


def test_the_seed_decides_everything():
    assert list(plan(5, 60)) == list(plan(5, 60))
    assert list(plan(5, 60)) != list(plan(6, 60))


def test_three_minutes_hold_every_action_and_most_faults():
    steps = list(plan(1, 180))
    kinds = Counter(step.kind for step in steps)
    assert set(kinds) >= set(ACTIONS)
    assert len(set(kinds) & set(FAULTS)) >= len(FAULTS) - 2
    assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)


def test_a_problem_reads_like_a_sentence():
    assert str(Problem("lost", "session", "m1: not answered")) == "lost: session: m1: not answered"
