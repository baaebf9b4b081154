"""Waiting for a session: one answer each, at the right moment or at the deadline."""

import pytest

from hapi import wire
from hapi.broker.adoption import GRACE_S
from hapi.broker.books import CoreSettings
from hapi.broker.core import Core
from hapi.broker.effects import Answer, ReplyTo
from hapi.broker.reattach import Facts, Record
from hapi.broker.waits import MAX_WAITING, Waits, reached
from hapi.errors import HapiError
from hapi.ids import ProcessId
from hapi.lifecycle import EndReason, Phase

ID = "1f0c22ab-0000-4000-8000-000000000001"
OTHER = "1f0c22ab-0000-4000-8000-000000000002"
NAME = wire.session_peer(ID)
SUPERVISOR = ProcessId(100, 1, "boot")
T = 1_000.0
MS = 1_700_000_000_000


@pytest.fixture
def core():
    settings = CoreSettings(instance="me", version="1", ready_timeout_s=15.0, workspace_roots=[], pid=5, started_at=MS)
    return Core(settings)


def asker(number=1):
    return ReplyTo("control", b"cli", "cli", number)


def info(phase=Phase.IDLE, session_id=ID, **changes):
    values = {"session_id": session_id, "namespace": "default", "agent": "demo", "directory": "/w", "phase": phase}
    values |= {"started_by": "runner", "started_at": MS, "supervisor": SUPERVISOR}
    return wire.SessionInfo(**(values | changes))


def record(found):
    return Record(ID, found, Facts(readable=True, supervisor_alive=True))


def hear(core, told):
    """The supervisor says hello with that news."""
    hello = wire.Hello(name=NAME, process=SUPERVISOR, version="1", info=told, protocol=3)
    return core.hello(NAME.encode(), hello, T)


def news(core, told):
    header = wire.Header(to=wire.BROKER, sender=NAME)
    return answers(core.tell(NAME.encode(), header, wire.SessionChanged(told), T, MS))


def wait(core, until="idle", number=1, timeout_ms=30_000, target=ID):
    return answers(core.request(asker(number), wire.WaitSession(target, until, timeout_ms), T))


def answers(effects):
    return [(effect.to.request, effect.body) for effect in effects if isinstance(effect, Answer)]


@pytest.mark.parametrize(
    ("phase", "queued", "idle", "ended"),
    [
        (Phase.STARTING, 0, False, False),
        (Phase.IDLE, 0, True, False),
        (Phase.IDLE, 1, False, False),  # a message waits: it is about to work
        (Phase.WORKING, 0, False, False),
        (Phase.WAITING, 0, False, False),
        (Phase.STOPPING, 0, False, False),
        (Phase.ENDED, 0, True, True),
        (Phase.ENDED, 2, True, True),  # what waited for it waits in vain
    ],
)
def test_what_is_waited_for(phase, queued, idle, ended):
    told = info(phase, queued=queued)
    assert (reached(told, ended=False), reached(told, ended=True)) == (idle, ended)


def test_what_is_so_already_is_answered_at_once(core):
    hear(core, info())
    assert wait(core) == [(1, wire.Waited(info(), reached=True))]
    assert core.next_deadline() is None


def test_the_answer_comes_with_the_news(core):
    hear(core, info(Phase.WORKING))
    assert wait(core) == []
    assert wait(core, "ended", 2) == []
    assert news(core, info(Phase.IDLE, queued=1)) == []
    assert news(core, info()) == [(1, wire.Waited(info(), reached=True))]
    over = info(Phase.ENDED, reason=EndReason.COMPLETED)
    assert news(core, over) == [(2, wire.Waited(over, reached=True))]


def test_the_time_is_up(core):
    hear(core, info(Phase.WORKING))
    wait(core, timeout_ms=1500)
    assert core.next_deadline() == T + 1.5
    assert core.tick(T + 1.4) == []
    assert answers(core.tick(T + 1.5)) == [(1, wire.Waited(info(Phase.WORKING), reached=False))]
    assert news(core, info()) == []
    assert core.next_deadline() is None


@pytest.mark.parametrize(("asked", "given"), [(10**9, wire.MAX_WAIT_MS), (-5, 0)])
def test_no_patience_without_bounds(core, asked, given):
    hear(core, info(Phase.WORKING))
    wait(core, timeout_ms=asked)
    assert core.next_deadline() == T + given / 1000


def test_a_record_is_not_believed_before_its_verdict(core):
    """Read from disk the session works; it may have done its work since, or be dead."""
    core.adopt([record(info(Phase.WORKING))], T, MS)
    assert wait(core) == []
    assert answers(hear(core, info())) == [(1, wire.Waited(info(), reached=True))]


def test_a_supervisor_that_stays_silent_is_believed_what_it_wrote(core):
    core.adopt([record(info())], T, MS)
    assert wait(core) == []
    assert answers(core.tick(T + GRACE_S)) == [(1, wire.Waited(info(), reached=True))]


def test_a_supervisor_that_dies_ends_the_wait(core):
    hear(core, info(Phase.WORKING))
    wait(core, "ended")
    core.hello(b"reaper", wire.Hello(name=wire.REAPER, process=ProcessId(9, 9, "boot"), version="1"), T)
    gone = wire.SupervisorGone(session_id=ID, process=SUPERVISOR)
    said = answers(core.tell(b"reaper", wire.Header(to=wire.BROKER, sender=wire.REAPER), gone, T, MS))
    assert [(number, body.reached, body.info.reason) for number, body in said] == [(1, True, "supervisor lost")]


def test_a_session_that_nobody_knows_is_not_waited_for(core):
    ((_, body),) = wait(core)
    assert body.code == "unknown_session"
    assert core.next_deadline() is None


def test_a_runner_that_stops_says_so(core):
    hear(core, info(Phase.WORKING))
    wait(core)
    said = answers(core.request(asker(7), wire.StopRunner(), T))
    assert [(number, getattr(body, "code", None)) for number, body in said] == [(7, None), (1, "shutting_down")]


def test_no_more_than_so_many_wait():
    waits = Waits()
    for number in range(MAX_WAITING):
        waits.begin(ID if number % 2 else OTHER, asker(number), wire.WaitSession(ID), T)
    with pytest.raises(HapiError) as refused:
        waits.begin(ID, asker(), wire.WaitSession(ID), T)
    assert refused.value.code == "at_capacity"
    assert len(waits.overdue(T + 60)) == MAX_WAITING
    waits.begin(ID, asker(), wire.WaitSession(ID), T)


def test_one_session_s_news_is_not_another_s(core):
    hear(core, info(Phase.WORKING))
    other = wire.session_peer(OTHER)
    there = info(Phase.WORKING, OTHER, supervisor=ProcessId(7, 7, "boot"))
    core.hello(b"o", wire.Hello(name=other, process=ProcessId(7, 7, "boot"), version="1", info=there), T)
    wait(core, number=1)
    wait(core, number=2, target=OTHER)
    assert [number for number, _ in news(core, info())] == [1]
