"""The broker's decisions: messages and times in, effects out. Nothing runs here."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi import wire
from hapi.broker.adoption import GRACE_S
from hapi.broker.books import CoreSettings
from hapi.broker.core import Core
from hapi.broker.deferrals import MAX_KEPT
from hapi.broker.effects import (
    Answer,
    CheckInstalled,
    CloseRecord,
    Ending,
    ForkSession,
    HandOver,
    Quit,
    ReplyTo,
    Send,
    WriteReport,
)
from hapi.broker.losses import OPEN_S
from hapi.broker.reattach import Facts, Record
from hapi.broker.requests import SHUTDOWN_DEADLINE_S
from hapi.broker.restarts import AT_ONCE
from hapi.broker.spawns import LINE_S, MAX_PENDING, SLOW_S, STOP_DEADLINE_S
from hapi.broker.upgrade import RESTLESS_S
from hapi.handoff import Build
from hapi.ids import NOBODY, ProcessId, new_session_id
from hapi.lifecycle import EndReason, Phase

ID = "1f0c22ab-0000-4000-8000-000000000001"
OTHER = "1f0c22ab-0000-4000-8000-000000000002"
THIRD = "1f0c22ab-0000-4000-8000-000000000003"
NAME = wire.session_peer(ID)
SUPERVISOR = ProcessId(100, 1, "boot")
AGENT = ProcessId(101, 2, "boot")
T = 1_000.0
MS = 1_700_000_000_000
READY_S = 15.0


def settings():
    return CoreSettings(
        instance="me", version="1", ready_timeout_s=READY_S, workspace_roots=["/w"], pid=5, started_at=MS
    )


@pytest.fixture
def core():
    return Core(settings())


def cli(number=1):
    return ReplyTo("control", b"cli", "cli", number)


def order(session_id=ID, **changes):
    values = {"session_id": session_id, "directory": "/w", "agent": "demo", "started_by": "runner"}
    return wire.Spawn(**(values | changes))


def info(session_id=ID, phase=Phase.IDLE, **changes):
    values = {"session_id": session_id, "namespace": "default", "agent": "demo", "directory": "/w", "phase": phase}
    values |= {"started_by": "runner", "started_at": MS, "supervisor": SUPERVISOR, "agent_process": AGENT}
    return wire.SessionInfo(**(values | changes))


def hello(name=NAME, process=SUPERVISOR, **changes):
    return wire.Hello(name=name, process=process, version="1", **changes)


def greet(core, name, identity=None, **changes):
    """A peer is there; returns what its hello led to."""
    return core.hello(identity or name.encode(), hello(name, **changes), T)


def tell(core, name, body, request=0, now=T):
    return core.tell(name.encode(), wire.Header("broker", name, request), body, now, MS)


def running(core, session_id=ID, **changes):
    """A session with its supervisor."""
    found = info(session_id, **changes)
    greet(core, wire.session_peer(session_id), info=found)
    return found


def bodies(effects, kind):
    return [effect.body for effect in effects if isinstance(effect, Answer | Send) and isinstance(effect.body, kind)]


def answers(effects):
    return [(effect.to.request, effect.body) for effect in effects if isinstance(effect, Answer)]


def the_answer(effects):
    ((_, body),) = answers(effects)
    return body


# ------------------------------------------------------------------------------------------------------------- hello


@pytest.mark.parametrize("name", ["hub", "reaper"])
def test_a_worker_is_welcome(core, name):
    effects = greet(core, name)
    (welcome,) = bodies(effects, wire.Welcome)
    assert welcome == wire.Welcome(
        instance="me", hub=name == "hub", workspace_roots=["/w"], runner_pid=5, runner_started_at=MS
    )
    assert WriteReport() in effects
    assert core.peers.named(name).process == SUPERVISOR


@pytest.mark.parametrize("name", ["", "cli", "broker", "nobody", "HUB", "hub ", "sessions:x"])
def test_nobody_is_called_that(core, name):
    effects = greet(core, name)
    assert [type(effect.body) for effect in effects] == [wire.Refused]
    assert core.counters == {"wrong_role": 1}
    assert core.peers.by_identity == {}


def test_the_reaper_learns_whom_to_watch(core):
    running(core)
    running(core, OTHER, supervisor=None)
    (watch,) = bodies(greet(core, "reaper"), wire.Watch)
    assert watch.sessions == [wire.Watched(session_id=ID, supervisor=SUPERVISOR, agent=AGENT)]


def test_sessions_hear_that_the_hub_connector_is_there(core):
    running(core)
    effects = greet(core, "hub")
    assert Send(NAME.encode(), NAME, wire.PeerUp("hub")) in effects
    assert bodies(greet(core, wire.session_peer(OTHER), info=info(OTHER)), wire.Welcome)[0].hub is True


@pytest.mark.parametrize(
    ("known", "rival", "wanted"),
    [
        ((SUPERVISOR, 1), (SUPERVISOR, 1), True),
        ((SUPERVISOR, 1), (AGENT, 2), True),
        ((SUPERVISOR, 1), (AGENT, 1), False),
        ((SUPERVISOR, 2), (AGENT, 1), False),
    ],
    ids=["itself again", "a newer generation", "the same generation", "an older one"],
)
def test_two_supervisors_of_one_session(core, known, rival, wanted):
    greet(core, NAME, identity=b"1", process=known[0], generation=known[1], info=info())
    effects = greet(core, NAME, identity=b"2", process=rival[0], generation=rival[1], info=info())
    assert bool(bodies(effects, wire.Welcome)) is wanted
    assert bool(bodies(effects, wire.Refused)) is not wanted
    assert core.peers.named(NAME).identity == (b"2" if wanted else b"1")
    assert core.counters["refused_peers"] == (not wanted)


def test_a_supervisor_that_lost_its_broker_is_taken_over(core):
    found = running(core)
    assert core.sessions.live == {ID: found}


# ------------------------------------------------------------------------------------------------------------- spawn


def test_a_spawn_from_order_to_answer(core):
    assert core.request(cli(), order(), T) == [ForkSession(ID)]
    effects = greet(core, NAME)
    assert bodies(effects, wire.Welcome)[0].order == order()
    starting = info(phase=Phase.STARTING, agent_process=None)
    assert answers(tell(core, NAME, wire.SessionChanged(starting))) == []
    assert answers(tell(core, NAME, wire.SessionChanged(info()))) == [(1, wire.Spawned(info()))]
    assert core.spawns.pending == {}


def test_trap_08_the_same_key_five_times_is_one_process(core):
    effects = [effect for number in range(1, 6) for effect in core.request(cli(number), order(), T)]
    assert effects == [ForkSession(ID)]
    greet(core, NAME)
    found = answers(tell(core, NAME, wire.SessionChanged(info())))
    assert found == [(number, wire.Spawned(info(), existing=number > 1)) for number in range(1, 6)]
    assert core.request(cli(6), order(), T) == [Answer(cli(6), wire.Spawned(info(), existing=True))]
    assert core.request(cli(7), order(OTHER), T) == [ForkSession(OTHER)]


def test_an_ended_session_is_not_spawned_again_unless_meant(core):
    running(core)
    tell(
        core, NAME, wire.SessionChanged(info(phase=Phase.ENDED, reason=EndReason.SPAWN_FAILED, detail="no such agent"))
    )
    refused = the_answer(core.request(cli(), order(), T))
    assert refused.code == "session_ended"
    assert "spawn failed" in refused.message
    assert "no such agent" in refused.hint  # whoever lost the first answer learns it now
    assert core.request(cli(), order(existing=True), T) == []  # its supervisor has not gone yet
    greet(core, "reaper")
    assert ForkSession(ID) in tell(core, "reaper", gone())


def test_trap_08_a_retry_after_the_brokers_death_joins_the_start_under_way(core):
    """It was answered `spawned` at once, for a session that was not ready and might never be."""
    running(core, phase=Phase.STARTING)
    assert core.request(cli(1), order(), T) == []
    found = answers(tell(core, NAME, wire.SessionChanged(info())))
    assert found == [(1, wire.Spawned(info(), existing=True))]


def test_a_session_that_is_being_stopped_is_not_the_answer_to_a_spawn(core):
    running(core, phase=Phase.STOPPING)
    assert the_answer(core.request(cli(), order(), T)).code == "session_ended"


def test_an_order_to_continue_waits_for_the_end_of_what_is_being_stopped(core):
    """Seen to fail: without `_is_ending`, it was refused."""
    running(core, phase=Phase.STOPPING)
    greet(core, "reaper")
    assert core.request(cli(1), order(existing=True), T) == []
    tell(core, NAME, wire.SessionChanged(info(phase=Phase.ENDED)))
    gone = wire.SupervisorGone(session_id=ID, process=SUPERVISOR)
    assert [e.session_id for e in tell(core, "reaper", gone) if isinstance(e, ForkSession)] == [ID]


@pytest.mark.parametrize("target", [ID, ID[:8].upper(), f"PID-{SUPERVISOR.pid}"])
def test_a_stop_takes_the_order_to_continue_along(core, target):
    """Whoever waited for it has given up, or is told: nothing starts behind the stop."""
    running(core, phase=Phase.STOPPING)
    greet(core, "reaper")
    core.request(cli(1), order(existing=True), T)
    found = dict(answers(core.request(cli(2), wire.StopSession(target, "hub", "too slow"), T)))
    assert (found[1].code, found[1].message) == ("stopped_during_start", "too slow")
    tell(core, NAME, wire.SessionChanged(info(phase=Phase.ENDED)))
    gone = wire.SupervisorGone(session_id=ID, process=SUPERVISOR)
    assert [e for e in tell(core, "reaper", gone) if isinstance(e, ForkSession)] == []


def test_a_stop_that_no_person_asked_for_says_why(core):
    """A spawn that came too late was recorded as stopped from the hub."""
    running(core)
    assert core.request(cli(), wire.StopSession(ID, "hub", "too slow"), T) == [
        Send(NAME.encode(), NAME, wire.StopSession(ID, "hub", "too slow"))
    ]


def test_the_end_of_one_child_too_many_is_not_the_end_of_the_start(core):
    core.request(cli(1), order(), T)
    greet(core, NAME)
    assert core.child_ended(ID, 99, 0) == []
    assert list(core.spawns.pending) == [ID]


@pytest.mark.parametrize("reason", [EndReason.STOPPED_BY_USER, EndReason.STOPPED_FROM_HUB])
def test_a_stop_whose_supervisor_dies_of_it_stays_a_stop(core, reason):
    running(core, phase=Phase.STOPPING, reason=reason)
    tell_reaper = wire.SupervisorGone(session_id=ID, process=SUPERVISOR)
    greet(core, "reaper")
    (closed,) = [e for e in tell(core, "reaper", tell_reaper) if isinstance(e, CloseRecord)]
    assert closed.info.reason is reason


def test_a_stop_of_a_session_whose_supervisor_just_died_waits_for_the_reaper(core):
    """It was answered `still_alive` at once, with the pids of the dead."""
    running(core)
    greet(core, "reaper")
    core.child_ended(ID, SUPERVISOR.pid, -9)
    assert answers(core.request(cli(1), wire.StopSession(ID), T)) == []
    assert answers(core.request(cli(2), wire.SendText(ID, "hello"), T)) == []
    found = dict(answers(tell(core, "reaper", wire.SupervisorGone(session_id=ID, process=SUPERVISOR))))
    assert found[1] == wire.SessionStopped("already_gone", ID)
    assert "supervisor lost" in found[2].message


def test_a_spawn_that_fails_says_why(core):
    core.request(cli(), order(), T)
    greet(core, NAME)
    why = wire.Failure("agent_unavailable", "No such agent.", "PATH was /bin")
    assert answers(tell(core, NAME, wire.SpawnFailed(session_id=ID, failure=why))) == [(1, why)]


def test_an_order_to_continue_does_not_join_a_start_that_has_failed(core):
    """It was answered with the failure of the start before it. Seen to fail: without `_is_leaving`."""
    core.request(cli(1), order(), T)
    greet(core, NAME)
    tell(core, NAME, wire.SessionChanged(info(phase=Phase.STARTING)))
    tell(core, NAME, wire.SpawnFailed(session_id=ID, failure=wire.Failure("agent_failed", "Exit code 3.")))
    assert core.request(cli(2), order(existing=True), T) == []
    assert answers(tell(core, NAME, wire.SessionChanged(info(phase=Phase.ENDED)))) == []
    greet(core, "reaper")
    assert ForkSession(ID) in tell(core, "reaper", gone())


def test_a_session_that_ends_while_it_starts_is_an_answer(core):
    core.request(cli(), order(), T)
    greet(core, NAME)
    over = info(phase=Phase.ENDED, reason=EndReason.AGENT_CRASHED, detail="boom")
    ((_, failure),) = answers(tell(core, NAME, wire.SessionChanged(over)))
    assert (failure.code, failure.hint) == ("agent_failed", "boom")


def test_trap_07_a_late_child_is_turned_away(core):
    core.request(cli(), order(), T)
    assert core.next_deadline() > T + READY_S
    assert core.tick(core.next_deadline() - 0.01) == []
    assert the_answer(core.tick(core.next_deadline())).code == "agent_timeout"
    assert bodies(greet(core, NAME), wire.Refused)
    assert core.peers.named(NAME) is None
    assert core.sessions.live == {}


def test_a_supervisor_that_is_still_starting_at_the_deadline_is_told(core):
    core.request(cli(), order(), T)
    greet(core, NAME)
    effects = core.tick(core.next_deadline())
    assert [body.code for body in bodies(effects, wire.Failure)] == ["agent_timeout"]
    assert [effect.to for effect in effects if isinstance(effect, Send)] == [NAME]


def test_a_supervisor_that_nobody_ordered_is_turned_away(core):
    assert [type(effect.body) for effect in greet(core, NAME)] == [wire.Refused]


def test_the_bound_on_spawns_under_way(core):
    for _ in range(MAX_PENDING):
        assert answers(core.request(cli(), order(new_session_id()), T)) == []
    assert the_answer(core.request(cli(), order(), T)).code == "at_capacity"
    assert core.counters["refused_at_capacity"] == 1
    assert len(core.spawns.pending) == MAX_PENDING


def forked(effects):
    return [effect.session_id for effect in effects if isinstance(effect, ForkSession)]


def in_line(core, count):
    """As many spawns as start at once, and `count` that have to wait; the ids of both."""
    ids = [new_session_id() for _ in range(core.settings.starts_at_once + count)]
    at_once = [key for key in ids if forked(core.request(cli(), order(key), T)) == [key]]
    assert at_once == ids[:-count]
    return at_once, ids[-count:]


def ready(core, session_id):
    running(core, session_id)
    return forked(core.tick(T)) if core.next_deadline() <= T else []


def test_no_more_start_at_once_than_can_be_ready_in_time(core):
    """Three hundred at once were each so slow that all of them were given up.

    Seen to fail: without the line in `Spawns`.
    """
    at_once, waiting = in_line(core, 3)
    assert core.next_deadline() == T + SLOW_S
    assert core.tick(core.next_deadline() - 0.01) == []
    assert ready(core, at_once[0]) == waiting[:1]
    assert ready(core, at_once[1]) == waiting[1:2]
    late = core.spawns.pending[waiting[2]]
    assert forked(core.tick(T + SLOW_S)) == waiting[2:]  # what takes so long holds nobody up
    assert late.deadline > T + SLOW_S + READY_S


def test_who_waits_in_line_too_long_is_told(core):
    _, (last,) = in_line(core, 1)
    core.spawns._at_once = 0
    said = [body.code for body in bodies(core.tick(T + LINE_S), wire.Failure)]
    assert said.count("at_capacity") == 1
    assert last not in core.spawns.pending
    assert not core.spawns.in_line(last)


def test_a_stop_takes_a_session_out_of_the_line_at_once(core):
    at_once, (last, more) = in_line(core, 2)
    effects = core.request(cli(9), wire.StopSession(last), T)
    assert {type(body): body for _, body in answers(effects)}[wire.SessionStopped].rung == "before_start"
    assert [body.code for body in bodies(effects, wire.Failure)] == ["stopped_during_start"]
    assert ready(core, at_once[0]) == [more]


def test_who_leaves_the_line_and_comes_again_is_started_once(core):
    """Two supervisors were forked for it; the one too many ended, and with it the spawn.

    Seen to fail: with a queue of ids that kept its first place, too.
    """
    at_once, (last,) = in_line(core, 1)
    core.request(cli(9), wire.StopSession(last), T)
    assert forked(core.request(cli(), order(last), T)) == []
    started = [key for done in at_once[:3] for key in ready(core, done)]
    assert started == [last]


def test_who_failed_and_comes_again_takes_no_place_before_its_turn(core):
    """Seen to fail: where `settle` left the place of its first start."""
    at_once, (first, last) = in_line(core, 2)
    core.never_started(at_once[0], wire.Failure("internal", "x"))
    assert forked(core.request(cli(), order(at_once[0]), T)) == [first]
    assert ready(core, at_once[1]) == [last]
    assert ready(core, at_once[2]) == [at_once[0]]


def test_who_is_in_line_outlives_the_nursery(core):
    _, (last,) = in_line(core, 1)
    core.nursery_lost()
    assert list(core.spawns.pending) == [last]
    assert forked(core.tick(T)) == [last]


def test_nobody_in_line_is_started_by_a_runner_that_stops(core):
    greet(core, "hub")
    at_once, _ = in_line(core, 1)
    core.request(cli(), wire.StopRunner("hapi-cli"), T)
    running(core, at_once[0])
    assert core.next_deadline() > T  # and the loop does not spin
    assert forked(core.tick(T)) == []


@pytest.mark.parametrize("session_id", ["", ".", "..", "../../etc", "/etc", "a" * 5000, "x\0y", "nonsense", "1f0c"])
def test_a_session_id_names_a_directory_and_must_be_one(core, session_id):
    """It went unchecked into a path: a session could be given a directory anywhere."""
    effects = core.request(cli(), order(session_id), T)
    assert [effect for effect in effects if isinstance(effect, ForkSession)] == []
    assert the_answer(effects).code == "bad_request"


# -------------------------------------------------------------------------------------------------------------- stop


def test_a_stop_is_passed_on_and_answered(core):
    running(core)
    assert core.request(cli(), wire.StopSession(ID, "hub"), T) == [
        Send(NAME.encode(), NAME, wire.StopSession(ID, "hub"))
    ]
    done = wire.SessionStopped("stopped", ID, "eof")
    assert answers(tell(core, NAME, done)) == [(1, done)]


def test_two_stops_are_one(core):
    running(core)
    core.request(cli(1), wire.StopSession(ID), T)
    assert core.request(cli(2), wire.StopSession(ID[:8]), T) == []
    done = wire.SessionStopped("stopped", ID, "eof")
    assert answers(tell(core, NAME, done)) == [(1, done), (2, done)]


def test_a_stop_of_what_has_ended(core):
    running(core)
    tell(core, NAME, wire.SessionChanged(info(phase=Phase.ENDED)))
    assert the_answer(core.request(cli(), wire.StopSession(ID), T)) == wire.SessionStopped("already_gone", ID)


def test_a_stop_that_meets_the_end_is_answered(core):
    running(core)
    core.request(cli(), wire.StopSession(ID), T)
    over = wire.SessionChanged(info(phase=Phase.ENDED))
    assert answers(tell(core, NAME, over)) == [(1, wire.SessionStopped("already_gone", ID))]


def test_trap_03_a_stop_never_lies(core):
    running(core)
    core.request(cli(), wire.StopSession(ID), T)
    assert core.tick(T + STOP_DEADLINE_S - 0.01) == []
    late = the_answer(core.tick(T + STOP_DEADLINE_S))
    assert late == wire.SessionStopped("still_alive", ID, survivors=[100, 101])


def test_a_stop_of_a_session_whose_supervisor_is_silent(core):
    core.sessions.put(info())
    body = the_answer(core.request(cli(), wire.StopSession(ID), T))
    assert body == wire.SessionStopped("still_alive", ID, survivors=[100, 101])
    assert core.counters["stops_unheard"] == 1


@pytest.mark.parametrize("target", [ID, ID.upper()])
def test_a_stop_before_the_hello_wins(core, target):
    core.request(cli(1), order(), T)
    assert core.request(cli(2), wire.StopSession(target), T) == []
    effects = greet(core, NAME)
    assert [type(effect.body) for effect in effects if isinstance(effect, Send)] == [wire.Refused]
    assert [(number, body.code) for number, body in answers(effects) if isinstance(body, wire.Failure)] == [
        (1, "stopped_during_start")
    ]
    assert (2, wire.SessionStopped("stopped", ID, "before_start")) in answers(effects)
    assert (core.spawns.pending, core.stops.pending, core.sessions.live) == ({}, {}, {})


def test_a_stop_of_a_start_that_never_comes_is_not_still_alive(core):
    """The spawn had timed out; its stop was answered `still_alive` five seconds later, for a process that never was."""
    core.request(cli(1), order(), T)
    core.request(cli(2), wire.StopSession(ID), T)
    effects = []
    while (due := core.next_deadline()) is not None:
        effects += core.tick(due)
    found = dict(answers(effects))
    assert found[1].code in {"agent_timeout", "stopped_during_start"}
    assert found[2].status != "still_alive"


def test_a_stop_while_it_starts_goes_to_its_supervisor(core):
    core.request(cli(1), order(), T)
    greet(core, NAME)
    tell(core, NAME, wire.SessionChanged(info(phase=Phase.STARTING)))
    assert bodies(core.request(cli(2), wire.StopSession(ID), T), wire.StopSession)
    done = wire.SessionStopped("stopped", ID, "during_start")
    assert answers(tell(core, NAME, done)) == [(2, done)]


def test_trap_41_a_whole_id_of_which_nothing_is_known_is_already_gone(core):
    unknown = new_session_id()
    gone = wire.SessionStopped("already_gone", unknown)
    assert core.request(cli(), wire.StopSession(unknown.upper()), T) == [Answer(cli(), gone)]
    assert the_answer(core.request(cli(), wire.SendText(unknown, "x"), T)).code == "unknown_session"


@pytest.mark.parametrize("body", [wire.StopSession, lambda target: wire.SendText(target, "x")])
@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("", "unknown_session"),
        ("1f0", "unknown_session"),
        ("PID-", "unknown_session"),
        ("PID-999", "unknown_session"),
        ("PID-10", "unknown_session"),
        ("nonsense", "unknown_session"),
        ("1f0c", "ambiguous_session"),
        ("1F0C22AB-", "ambiguous_session"),
        (ID[:-1], "ambiguous_session"),
        ("pid-100", "ambiguous_session"),
    ],
)
def test_targets_that_mean_no_session_or_several(core, body, target, code):
    running(core)
    running(core, OTHER, agent_process=ProcessId(202, 1, "boot"))
    assert the_answer(core.request(cli(), body(target), T)).code == code


@pytest.mark.parametrize("target", [ID, ID.upper(), f" {ID} ", ID[:4], "PID-100", "pid-101"])
def test_targets_that_mean_one(core, target):
    running(core)
    running(core, "2a" + ID[2:], supervisor=ProcessId(7, 1, "boot"), agent_process=None)
    (sent,) = bodies(core.request(cli(), wire.SendText(target, "hello"), T), wire.SendText)
    assert sent.text == "hello"


def test_an_empty_pid_means_no_session(core):
    """`PID-` named every session without an agent process: a lone starting session was stopped by it."""
    running(core, phase=Phase.STARTING, agent_process=None)
    assert the_answer(core.request(cli(), wire.StopSession("PID-"), T)).code == "unknown_session"


# --------------------------------------------------------------------------------------------------- text and others


def relayed(effects):
    """The number under which a text was passed on."""
    ((sent),) = [effect for effect in effects if isinstance(effect, Send) and isinstance(effect.body, wire.SendText)]
    return sent.request


def reply(core, name, body, request):
    return core.tell(name.encode(), wire.Header("broker", name, request, reply=True), body, T, MS)


def test_text_for_a_session(core):
    running(core)
    effects = core.request(cli(), wire.SendText(ID[:8], "hello"), T)
    number = relayed(effects)
    assert effects == [Send(NAME.encode(), NAME, wire.SendText(ID[:8], "hello"), request=number)]
    assert reply(core, NAME, wire.Accepted(), number) == [Answer(cli(), wire.Accepted())]
    assert reply(core, NAME, wire.Accepted(), number) == []
    assert core.next_deadline() is None


def test_each_text_has_its_own_answer(core):
    running(core)
    running(core, OTHER)
    first = relayed(core.request(cli(1), wire.SendText(ID, "x"), T))
    second = relayed(core.request(cli(2), wire.SendText(OTHER, "y"), T))
    full = wire.Failure("internal", "Cannot write to disk.")
    assert reply(core, wire.session_peer(OTHER), full, second) == [Answer(cli(2), full)]
    assert reply(core, NAME, wire.Accepted(), first) == [Answer(cli(1), wire.Accepted())]


def test_a_text_that_nobody_answers(core):
    running(core)
    number = relayed(core.request(cli(), wire.SendText(ID, "x"), T))
    due = core.next_deadline()
    assert T < due <= T + 10
    assert core.tick(due - 0.01) == []
    assert the_answer(core.tick(due)).code == "timeout"
    assert reply(core, NAME, wire.Accepted(), number) == []


@pytest.mark.parametrize(("phase", "code"), [(Phase.ENDED, "session_ended"), (Phase.IDLE, "timeout")])
def test_text_for_whom_it_cannot_reach(core, phase, code):
    core.sessions.put(info(phase=phase))
    assert the_answer(core.request(cli(), wire.SendText(ID, "x"), T)).code == code


@pytest.mark.parametrize("body", [wire.GetStatus(), wire.Beat(), wire.Accepted(), None, "text"])
def test_what_is_no_request(core, body):
    assert the_answer(core.request(cli(), body, T)).code == "bad_request"


def test_lists(core):
    running(core, started_at=5)
    running(core, OTHER, started_at=4)
    third = new_session_id()
    running(core, third, started_at=3)
    tell(core, wire.session_peer(third), wire.SessionChanged(info(third, Phase.ENDED, started_at=3)))

    def ids(ended):
        return [item.session_id for item in the_answer(core.request(cli(), wire.ListSessions(ended), T)).sessions]

    assert (ids(False), ids(True)) == ([OTHER, ID], [third, OTHER, ID])


# ---------------------------------------------------------------------------------------------------------- shutdown


def test_without_a_connector_the_runner_stops_at_once(core):
    running(core)
    assert core.request(cli(), wire.StopRunner(), T) == [Answer(cli(), wire.RunnerStopping(1)), Quit()]
    assert core.stopping


def test_the_hub_is_told_first(core):
    greet(core, "hub")
    effects = core.request(cli(1), wire.StopRunner("me"), T)
    assert effects == [WriteReport(), Send(b"hub", "hub", wire.Shutdown("me"), request=1)]
    assert core.request(cli(2), wire.StopRunner(), T) == []
    effects = tell(core, "hub", wire.Accepted())
    assert answers(effects) == [(1, wire.RunnerStopping(0)), (2, wire.RunnerStopping(0))]
    assert effects[-1] == Quit()


def test_the_farewell_has_a_deadline(core):
    greet(core, "hub")
    core.request(cli(), wire.StopRunner(), T)
    assert core.next_deadline() == T + SHUTDOWN_DEADLINE_S
    assert core.tick(T + SHUTDOWN_DEADLINE_S - 0.01) == []
    assert core.tick(T + SHUTDOWN_DEADLINE_S) == [Answer(cli(), wire.RunnerStopping(0)), Quit()]


def test_a_connector_that_dies_during_the_farewell_ends_it(core):
    greet(core, "hub")
    core.stop_runner("os-signal", T)
    assert core.peer_gone("hub") == [Quit()]


def test_an_accepted_out_of_the_blue_stops_nothing(core):
    greet(core, "hub")
    assert tell(core, "hub", wire.Accepted()) == []
    assert not core.stopping


def test_no_spawns_while_it_stops_and_the_waiting_ones_are_told(core):
    greet(core, "hub")
    core.request(cli(1), order(), T)
    core.stop_runner("me", T)
    assert the_answer(core.request(cli(2), order(OTHER), T)).code == "shutting_down"
    effects = tell(core, "hub", wire.Accepted())
    assert [(number, body.code) for number, body in answers(effects)] == [(1, "shutting_down")]
    assert effects[-1] == Quit()


@pytest.mark.parametrize("body", [wire.StopSession(ID), wire.SendText(ID, "x"), order(OTHER)])
def test_who_waits_is_answered_before_the_end(core, body):
    """Every request under way gets an answer when the runner goes; those for a stop or with a text got none."""
    running(core)
    core.request(cli(1), body, T)
    effects = core.request(cli(2), wire.StopRunner(), T)
    assert {number for number, _ in answers(effects)} == {1, 2}


def test_the_hub_may_stop_the_runner_and_is_answered_on_the_bus(core):
    greet(core, "hub")
    tell(core, "hub", wire.StopRunner("hub"), request=9)
    (answer, quit_) = tell(core, "hub", wire.Accepted())
    assert answer == Answer(ReplyTo("bus", b"hub", "hub", 9), wire.RunnerStopping(0))
    assert quit_ == Quit()


# ------------------------------------------------------------------------------------------------- peers come and go


def test_sessions_hear_that_the_connector_is_gone(core):
    running(core)
    greet(core, "hub")
    core.hub = wire.HubStatus(url="http://hub", online=True)
    assert core.peer_gone("hub") == [Send(NAME.encode(), NAME, wire.PeerDown("hub"))]
    assert (core.hub.url, core.hub.online) == ("http://hub", False)
    assert core.hub.reason
    assert core.peer_gone("hub") == []
    assert core.peer_gone("reaper") == []


def gone(process=SUPERVISOR):
    return wire.SupervisorGone(session_id=ID, process=process)


def test_a_supervisor_that_is_gone_ends_its_session(core):
    running(core)
    greet(core, "reaper")
    greet(core, "hub")
    core.request(cli(), wire.StopSession(ID), T)
    effects = tell(core, "reaper", gone())
    lost = info(phase=Phase.ENDED, reason=EndReason.SUPERVISOR_LOST, ended_at=MS)
    assert not any(isinstance(effect, CloseRecord) for effect in effects)
    assert core.tick(T + OPEN_S) == [CloseRecord(lost)]
    assert Send(b"hub", "hub", wire.SessionLost(lost)) in effects
    assert answers(effects) == [(1, wire.SessionStopped("already_gone", ID))]
    assert (core.sessions.live, core.peers.named(NAME)) == ({}, None)
    assert core.counters["supervisors_lost"] == 1
    assert tell(core, "reaper", gone()) == []
    assert bodies(greet(core, "hub", b"hub2"), wire.SessionLost) == [wire.SessionLost(lost)]


def lose(core):
    """A session whose supervisor died under the running broker."""
    running(core)
    greet(core, "reaper")
    tell(core, "reaper", gone())


@pytest.mark.parametrize(("source", "closed"), [("hapi-cli", 1), ("hapi-app", 1), ("os-signal", 0)])
def test_a_loss_is_on_record_when_the_runner_stops_unless_the_machine_does(core, source, closed):
    lose(core)
    effects = core.stop_runner(source, T + 1)
    assert len([effect for effect in effects if isinstance(effect, CloseRecord)]) == closed


def test_a_lost_session_that_is_continued_is_closed_first(core):
    lose(core)
    effects = core.request(cli(), order(existing=True), T)
    assert [type(effect) for effect in effects] == [CloseRecord, ForkSession]
    assert not any(isinstance(effect, CloseRecord) for effect in core.tick(T + OPEN_S))


def test_the_unknown_messages_of_a_lost_session_are_counted(core):
    running(core)
    greet(core, "reaper")
    tell(core, "reaper", wire.SupervisorGone(session_id=ID, process=SUPERVISOR, unknown_messages=1))
    assert core.sessions.ended[ID].unknown_messages == 1


def test_an_end_on_record_that_nobody_heard_of_is_believed(core):
    running(core)
    greet(core, "reaper")
    greet(core, "hub")
    core.request(cli(), wire.StopSession(ID), T)
    ended = info(phase=Phase.ENDED, reason=EndReason.STOPPED_FROM_HUB, ended_at=5)
    effects = core.last_word(ended) + tell(core, "reaper", gone())
    assert [effect for effect in effects if isinstance(effect, CloseRecord)] == []
    assert Send(b"hub", "hub", wire.SessionLost(ended)) in effects
    assert answers(effects) == [(1, wire.SessionStopped("already_gone", ID))]
    assert (core.sessions.live, core.sessions.ended) == ({}, {ID: ended})
    assert core.counters["supervisors_lost"] == 0


def test_a_stop_that_is_on_record_only_counts(core):
    """Its supervisor died between writing that it was to stop and saying so: the session was called lost."""
    running(core)
    greet(core, "reaper")
    core.last_word(info(phase=Phase.STOPPING, reason=EndReason.STOPPED_BY_USER))
    (closed,) = [effect for effect in tell(core, "reaper", gone()) if isinstance(effect, CloseRecord)]
    assert closed.info.reason == EndReason.STOPPED_BY_USER


def test_an_end_that_no_connector_heard_of_is_told_to_the_next(core):
    running(core)
    ended = info(phase=Phase.ENDED, reason=EndReason.STOPPED_BY_USER, ended_at=5)
    core.last_word(ended)
    assert bodies(greet(core, "reaper"), wire.Watch)[0].sessions[0].supervisor == SUPERVISOR
    tell(core, "reaper", gone())
    assert bodies(greet(core, "hub"), wire.SessionLost) == [wire.SessionLost(ended)]


@pytest.mark.parametrize(
    "record", [info(), info(phase=Phase.ENDED, supervisor=ProcessId(100, 99, "boot")), info(OTHER, phase=Phase.ENDED)]
)
def test_a_record_that_says_nothing_new_changes_nothing(core, record):
    found = running(core)
    assert core.last_word(record) == []
    assert core.sessions.live == {ID: found}


def test_a_session_is_continued_when_its_former_supervisor_has_gone(core):
    """The end of the former one was taken for that of the new one, which then was told that nobody asked for it."""
    running(core)
    greet(core, "reaper")
    tell(core, NAME, wire.SessionChanged(info(phase=Phase.ENDED)))
    assert core.request(cli(7), order(existing=True), T) == []
    assert core.child_ended(ID, SUPERVISOR.pid, 0) == []
    assert ForkSession(ID) in tell(core, "reaper", gone())
    core.forked(ID, 555)
    assert core.child_ended(ID, SUPERVISOR.pid, 0) == []
    new = ProcessId(555, 5, "boot")
    (welcome,) = bodies(greet(core, NAME, identity=b"new", process=new), wire.Welcome)
    assert welcome.order.existing
    assert [item.supervisor for item in core._watched()] == []


def test_what_is_kept_back_is_bounded(core):
    core.adopt([Record(ID, info(), SILENT)], T, MS)
    for number in range(MAX_KEPT):
        assert core.request(cli(number), wire.StopSession(ID), T) == []
    assert the_answer(core.request(cli(), wire.StopSession(ID), T)).code == "at_capacity"


def test_a_runner_that_stops_answers_who_wanted_to_continue_a_session(core):
    running(core)
    tell(core, NAME, wire.SessionChanged(info(phase=Phase.ENDED)))
    core.request(cli(7), order(existing=True), T)
    assert [(number, body.code) for number, body in answers(core.stop_runner("hapi-cli", T))] == [(7, "shutting_down")]


def test_what_a_session_that_ended_left_unknown_is_put_on_record(core):
    running(core)
    greet(core, "reaper")
    tell(core, NAME, wire.SessionChanged(info(phase=Phase.ENDED)))
    effects = tell(core, "reaper", wire.SupervisorGone(session_id=ID, process=SUPERVISOR, unknown_messages=1))
    assert [effect.info.unknown_messages for effect in effects if isinstance(effect, CloseRecord)] == [1]


def test_an_old_generation_that_is_gone_ends_nothing(core):
    found = running(core)
    greet(core, "reaper")
    assert tell(core, "reaper", gone(ProcessId(100, 99, "boot"))) == []
    assert core.sessions.live == {ID: found}
    assert core.peers.named(NAME) is not None


def test_a_supervisor_that_goes_after_the_end_is_only_forgotten(core):
    running(core)
    greet(core, "reaper")
    effects = tell(core, NAME, wire.SessionChanged(info(phase=Phase.ENDED)))
    assert effects == [Send(b"reaper", "reaper", wire.Unwatch(ID))]
    assert core.peers.named(NAME) is not None
    assert tell(core, "reaper", gone()) == []
    assert core.peers.named(NAME) is None
    assert core.counters["supervisors_lost"] == 0


def test_the_reaper_hears_of_new_processes_only(core):
    greet(core, "reaper")
    effects = greet(core, NAME, info=info(agent_process=None))
    assert len(bodies(effects, wire.Watch)) == 1
    assert len(bodies(tell(core, NAME, wire.SessionChanged(info())), wire.Watch)) == 1
    assert bodies(tell(core, NAME, wire.SessionChanged(info(phase=Phase.WORKING))), wire.Watch) == []


@pytest.mark.parametrize("pid", [100, 99])
def test_a_child_that_ends_before_its_hello_says_so(core, pid):
    core.request(cli(1), order(), T)
    core.forked(ID, pid)
    found = dict(answers(core.child_ended(ID, pid, -11)))
    assert found[1].code == "internal"
    assert "-11" in found[1].message
    assert core.spawns.pending == {}


def test_a_child_that_ends_after_its_hello_is_the_reapers_business(core):
    found = running(core)
    assert core.child_ended(ID, SUPERVISOR.pid, 0) == []
    assert core.sessions.live == {ID: found}


def test_the_nursery_takes_the_forks_on_order_with_it(core):
    core.request(cli(1), order(), T)
    core.request(cli(2), order(OTHER), T)
    greet(core, wire.session_peer(OTHER))
    tell(core, wire.session_peer(OTHER), wire.SessionChanged(info(OTHER, Phase.STARTING)))
    assert [(number, body.code) for number, body in answers(core.nursery_lost())] == [(1, "internal")]
    assert list(core.spawns.pending) == [OTHER]
    assert bodies(greet(core, NAME), wire.Refused)


def test_a_child_that_has_its_order_outlives_the_nursery(core):
    """Its spawn was answered with a failure, and it came up all the same, a ghost."""
    core.request(cli(1), order(), T)
    assert bodies(greet(core, NAME), wire.Welcome)
    assert answers(core.nursery_lost()) == []
    assert answers(tell(core, NAME, wire.SessionChanged(info()))) == [(1, wire.Spawned(info()))]


def test_sessions_hear_when_the_hub_comes_and_goes_and_only_then(core):
    running(core)
    greet(core, "hub")
    for online, heard in ((True, [wire.HubOnline(True)]), (True, []), (False, [wire.HubOnline(False)])):
        assert bodies(tell(core, "hub", wire.HubStatus(online=online)), wire.HubOnline) == heard


SOURCES = [("hapi-cli", Ending.STOP), ("hapi-app", Ending.RESTART), ("version-handoff", Ending.RESTART)]


@pytest.mark.parametrize(("source", "ending"), SOURCES)
def test_who_asks_decides_whether_it_comes_back(core, source, ending):
    assert core.request(cli(), wire.StopRunner(source), T)[-1] == Quit(ending)


def test_the_hearts_beat(core):
    greet(core, "reaper")
    assert tell(core, "reaper", wire.Heartbeat(at=MS + 5, installed_version="1")) == [WriteReport()]
    assert core.last_heartbeat == MS + 5


def beat(core, build, now=T):
    """A heartbeat that found `build` installed; what it led to, but for the report."""
    found = wire.Heartbeat(at=MS, installed_version=build.version, fingerprint=build.digest)
    return [effect for effect in tell(core, "reaper", found, now=now) if effect != WriteReport()]


NEWER = Build("2", "two")


def ready_to_hand_over(core):
    greet(core, "reaper")
    assert beat(core, NEWER) == []
    assert beat(core, NEWER) == [CheckInstalled(NEWER)]
    core.upgrade.checked(None, T)
    assert core.next_deadline() == T


def test_what_is_installed_takes_over_when_nothing_is_under_way(core):
    ready_to_hand_over(core)
    assert core.tick(T) == [HandOver(NEWER)]
    greet(core, "hub")
    assert bodies(core.hand_over(T), wire.Shutdown) == [wire.Shutdown("version-handoff")]
    assert beat(core, Build("3", "three")) == beat(core, Build("3", "three")) == []
    assert tell(core, "hub", wire.Accepted())[-1] == Quit(Ending.REPLACE)


def test_a_handoff_waits_for_a_spawn_but_not_for_ever(core):
    ready_to_hand_over(core)
    core.request(cli(), order(), T)
    assert core.tick(T) == []
    assert T < core.next_deadline() < T + 1
    core.upgrade.due(T + RESTLESS_S - 1, busy=True)
    assert HandOver(NEWER) in core.tick(T + RESTLESS_S)


@pytest.mark.parametrize(("source", "ending"), SOURCES)
def test_a_stop_during_a_handoff_wins(core, source, ending):
    greet(core, "hub")
    core.hand_over(T)
    assert core.request(cli(), wire.StopRunner(source), T) == []
    done = tell(core, "hub", wire.Accepted())
    assert answers(done) == [(1, wire.RunnerStopping(0))]
    assert done[-1] == Quit(ending)


def test_a_stop_that_comes_when_all_is_said_is_answered_and_wins(core):
    assert core.hand_over(T) == [Quit(Ending.REPLACE)]
    assert core.request(cli(7), wire.StopRunner(), T) == [Answer(cli(7), wire.RunnerStopping(0)), Quit(Ending.STOP)]


def test_a_handoff_never_turns_a_stop_into_something_else(core):
    greet(core, "hub")
    core.request(cli(), wire.StopRunner(), T)
    assert core.hand_over(T) == []
    assert tell(core, "hub", wire.Accepted())[-1] == Quit(Ending.STOP)


@pytest.mark.parametrize(("spoken", "agreed"), [(1, 1), (2, 2), (99, wire.PROTOCOL_LEVEL)])
def test_the_lower_level_counts(core, spoken, agreed):
    (welcome,) = bodies(greet(core, NAME, info=info(), protocol=spoken), wire.Welcome)
    assert welcome.protocol == core.peers.named(NAME).protocol == agreed


def test_a_level_that_is_too_old_is_told_so_and_ends_no_session(core):
    effects = greet(core, NAME, info=info(), protocol=wire.OLDEST_LEVEL - 1)
    (failure,) = [effect.body for effect in effects]
    assert failure.code == "protocol_mismatch"
    assert failure.hint
    assert core.peers.named(NAME) is None
    assert core.counters["protocol_mismatches"] == 1


def test_any_word_is_a_sign_of_life(core):
    greet(core, "hub")
    tell(core, "hub", wire.Beat(), now=T + 50)
    assert core.peers.named("hub").last_seen == T + 50


EXAMPLES = {
    "Spawn": order(),
    "StopSession": wire.StopSession(ID),
    "StopRunner": wire.StopRunner(),
    "HubStatus": wire.HubStatus(url="evil", online=True),
    "Heartbeat": wire.Heartbeat(at=1, installed_version="666"),
    "SupervisorGone": gone(),
    "SessionChanged": wire.SessionChanged(info(phase=Phase.ENDED)),
    "SpawnFailed": wire.SpawnFailed(session_id=ID, failure=wire.Failure("internal", "x")),
    "SessionStopped": wire.SessionStopped("stopped", ID),
}
MAY = {
    NAME: {"SessionChanged", "SpawnFailed", "SessionStopped"},
    "hub": {"HubStatus", "Spawn", "StopSession", "StopRunner"},
    "reaper": {"SupervisorGone", "Heartbeat"},
}


def memory(core):
    return msgspec.json.encode(
        [core.sessions.live, core.sessions.ended, list(core.spawns.pending), list(core.stops.pending), core.hub]
        + [core.stopping, core.last_heartbeat, core.upgrade.installed, sorted(core.peers.routes)]
    )


@pytest.mark.parametrize("sender", MAY)
@pytest.mark.parametrize("kind", EXAMPLES)
def test_roles(core, sender, kind):
    running(core)
    greet(core, "hub")
    greet(core, "reaper")
    before = memory(core)
    effects = tell(core, sender, EXAMPLES[kind], request=3)
    if kind in MAY[sender]:
        assert core.counters["wrong_role"] == 0
    else:
        assert core.counters["wrong_role"] == 1
        assert [(number, body.code) for number, body in answers(effects)] == [(3, "bad_request")]
        assert memory(core) == before
        assert tell(core, sender, EXAMPLES[kind]) == []


@pytest.mark.parametrize("claimed", ["hub", "reaper", wire.session_peer(OTHER), "", "broker"])
def test_nobody_speaks_under_another_name(core, claimed):
    running(core)
    greet(core, "hub")
    before = memory(core)
    effects = core.tell(NAME.encode(), wire.Header("broker", claimed, 4), wire.SessionChanged(info()), T, MS)
    assert the_answer(effects).code == "bad_request"
    assert memory(core) == before


@pytest.mark.parametrize(
    "body",
    [
        wire.SessionChanged(info(OTHER, Phase.ENDED)),
        wire.SpawnFailed(session_id=THIRD, failure=wire.Failure("internal", "x")),
        wire.SessionStopped("stopped", OTHER),
    ],
    ids=["changed", "spawn failed", "stopped"],
)
def test_a_supervisor_speaks_of_its_own_session_only(core, body):
    """A supervisor's word about another session was taken for that session's."""
    running(core)
    running(core, OTHER)
    core.request(cli(1), wire.StopSession(OTHER), T)
    core.request(cli(2), order(THIRD), T)
    assert answers(tell(core, NAME, body)) == []
    assert core.sessions.live[OTHER].phase is Phase.IDLE
    assert list(core.stops.pending) == [OTHER]


def test_one_connection_has_one_name(core):
    """A second hello under another name left the first one's route behind, pointing at the second."""
    greet(core, "reaper", identity=b"x")
    greet(core, "hub", identity=b"x")
    assert [name for name in ("hub", "reaper") if core.peers.named(name)] in (["hub"], ["reaper"])
    for name, identity in core.peers.routes.items():
        assert core.peers.by_identity[identity].name == name


# ---------------------------------------------------------------------------------------------------------- adoption

SILENT = Facts(readable=True, supervisor_alive=True)
DEAD = Facts(readable=True, supervisor_alive=False)
REBOOTED = Facts(readable=True, same_boot=False, interrupted=True)
UNREADABLE = Facts(readable=False)
DAMAGED = Facts(readable=False, damaged=True)


def test_every_record_gets_a_verdict(core):
    ended = new_session_id()
    rebooted, dead, unreadable = "a" + ID[1:], "b" + ID[1:], "c" + ID[1:]
    records = [
        Record(ended, info(ended, Phase.ENDED), Facts(readable=True)),
        Record(ID, info(), SILENT),
        Record(OTHER, info(OTHER), SILENT),
        Record(dead, info(dead), DEAD),
        Record(rebooted, info(rebooted, Phase.STARTING), Facts(readable=True, same_boot=False)),
        Record(unreadable, None, UNREADABLE),
        Record(THIRD, info(THIRD, supervisor=None), DAMAGED),
    ]
    effects = core.adopt(records, T, MS)
    closed = {effect.info.session_id: effect.info.reason for effect in effects if isinstance(effect, CloseRecord)}
    assert closed == {}
    assert core.adoption.verdicts == {"ended": 4, "quarantined": 1}
    assert core.next_deadline() == T + GRACE_S
    greet(core, NAME, info=info())
    assert core.adoption.verdicts["adopted"] == 1
    assert core.tick(T + GRACE_S) == []
    assert core.adoption.verdicts == {"ended": 4, "quarantined": 2, "adopted": 1}
    assert sum(core.adoption.verdicts.values()) == len(records)
    assert any("1 session is quarantined" in warning for warning in core.warnings())
    assert core.next_deadline() is None
    assert set(core.sessions.live) == {ID, OTHER, dead, rebooted, THIRD}
    assert set(core.sessions.ended) == {ended}
    greet(core, "reaper")
    why = {}
    for key, process in ((dead, SUPERVISOR), (rebooted, SUPERVISOR), (THIRD, NOBODY)):
        effects = tell(core, "reaper", wire.SupervisorGone(session_id=key, process=process))
        why |= {effect.info.session_id: effect.info.reason for effect in effects if isinstance(effect, CloseRecord)}
    lost = EndReason.SUPERVISOR_LOST
    assert why == {dead: lost, THIRD: lost, rebooted: EndReason.MACHINE_REBOOTED}
    assert set(core.sessions.live) == {ID, OTHER}


def test_a_session_lost_in_our_absence_ends_when_its_tree_has(core):
    """Its record was closed at once: a broker that was killed before the reaper had looked left an orphan for good."""
    assert core.adopt([Record(ID, info(), DEAD)], T, MS) == []
    assert core.request(cli(1), wire.StopSession(ID), T) == []
    assert the_answer(core.request(cli(2), order(), T)).code == "session_ended"
    assert the_answer(core.request(cli(3), wire.SendText(ID, "hi"), T)).code == "session_ended"
    (watch,) = bodies(greet(core, "reaper"), wire.Watch)
    assert watch.sessions == [wire.Watched(session_id=ID, supervisor=SUPERVISOR, agent=AGENT)]
    effects = tell(core, "reaper", wire.SupervisorGone(session_id=ID, process=SUPERVISOR, reaped=1))
    assert answers(effects) == [(1, wire.SessionStopped("already_gone", ID))]
    assert [effect.info.reason for effect in effects if isinstance(effect, CloseRecord)] == [EndReason.SUPERVISOR_LOST]


def test_a_refused_connection_does_not_stand_in_the_way(core):
    core.request(cli(1), order(), T)
    greet(core, NAME, identity=b"1")
    core.tick(core.next_deadline())
    greet(core, NAME, identity=b"2")
    core.request(cli(2), order(), T)
    assert bodies(greet(core, NAME, identity=b"3", process=AGENT), wire.Welcome)


def test_a_spawn_of_one_that_is_starting_waits_for_it(core):
    """After a restart of the broker it was said to be ready."""
    starting = running(core, phase=Phase.STARTING)
    assert core.request(cli(1), order(), T) == []
    found = answers(tell(core, NAME, wire.SessionChanged(msgspec.structs.replace(starting, phase=Phase.IDLE))))
    assert [(number, type(body)) for number, body in found] == [(1, wire.Spawned)]


def test_who_speaks_after_the_grace_is_heard(core):
    core.adopt([Record(ID, info(), SILENT)], T, MS)
    core.tick(T + GRACE_S)
    assert bodies(greet(core, NAME, info=info(phase=Phase.WORKING)), wire.Welcome)
    assert core.sessions.live[ID].phase is Phase.WORKING
    assert core.adoption.verdicts == {"adopted": 1, "quarantined": 0}
    assert core.warnings() == []
    assert bodies(core.request(cli(), wire.StopSession(ID), T), wire.StopSession)


def test_what_a_dead_supervisor_left_is_given_to_the_reaper(core):
    core.adopt([Record(ID, info(), DEAD), Record(OTHER, info(OTHER, supervisor=None), DAMAGED)], T, MS)
    assert bodies(greet(core, "hub"), wire.SessionLost) == []
    (watch,) = bodies(greet(core, "reaper"), wire.Watch)
    nobody = wire.Watched(session_id=OTHER, supervisor=NOBODY, agent=AGENT)
    assert watch.sessions == [wire.Watched(session_id=ID, supervisor=SUPERVISOR, agent=AGENT), nobody]
    (told,) = bodies(tell(core, "reaper", gone()), wire.SessionLost)
    assert (told.info.session_id, told.info.reason) == (ID, EndReason.SUPERVISOR_LOST)
    tell(core, "reaper", wire.SupervisorGone(session_id=OTHER, process=NOBODY, unknown_messages=1))
    assert core.sessions.ended[OTHER].unknown_messages == 1
    assert bodies(greet(core, "reaper"), wire.Watch)[0].sessions == []


@pytest.mark.parametrize(("untold", "age_ms", "sent"), [(True, 0, 1), (False, 0, 0), (True, 8 * 86_400_000, 0)])
def test_an_end_that_the_hub_has_not_heard_of_is_told_again(core, untold, age_ms, sent):
    ended = info(phase=Phase.ENDED, ended_at=MS - age_ms)
    core.adopt([Record(ID, ended, Facts(readable=True), untold=untold)], T, MS)
    for connector in (b"one", b"two"):
        assert len(bodies(greet(core, "hub", connector), wire.SessionLost)) == sent


# ------------------------------------------------------------------------------------------------ after a reboot


def reboot(core, *session_ids):
    """Records of another boot; what the broker does about them at once."""
    core.adopt([Record(key, info(key, Phase.WORKING, native_id="n"), REBOOTED) for key in session_ids], T, MS)
    return core.tick(T)


def test_what_went_down_with_the_machine_is_started_again(core):
    assert reboot(core, ID) == [ForkSession(ID)]
    assert core.adoption.verdicts == {"restarted": 1}
    assert core.sessions.live[ID].phase is Phase.STARTING
    (welcome,) = bodies(greet(core, NAME), wire.Welcome)
    assert welcome.order == order(existing=True)
    tell(core, NAME, wire.SessionChanged(info(generation=2)))
    assert core.sessions.live[ID].phase is Phase.IDLE
    assert (core.spawns.pending, core.tick(T)) == ({}, [])


def test_a_few_are_started_at_a_time(core):
    keys = [new_session_id() for _ in range(AT_ONCE + 2)]
    assert len(reboot(core, *keys)) == AT_ONCE
    assert core.tick(T) == []
    assert core.next_deadline() > T
    for key in list(core.spawns.pending):
        greet(core, wire.session_peer(key))
        tell(core, wire.session_peer(key), wire.SessionChanged(info(key, generation=2)))
    assert core.next_deadline() == 0
    assert len(core.tick(T)) == 2


def test_a_restart_does_not_get_in_line_behind_new_spawns(core):
    """In line for too long it would end for good.

    Seen to fail: with one end of the line for all.
    """
    at_once, (last,) = in_line(core, 1)
    assert reboot(core, ID) == []
    assert ready(core, at_once[0]) == [ID]
    assert ready(core, at_once[1]) == [last]


def test_restarts_wait_until_there_is_room(core):
    """Seen to fail: the broker ended with `at_capacity`, and its successors too."""
    for _ in range(MAX_PENDING):
        core.request(cli(), order(new_session_id()), T)
    assert reboot(core, ID) == []
    assert core.next_deadline() > T  # and the loop does not spin
    assert core.restarts.waits(ID)
    core.spawns.settle(next(iter(core.spawns.pending)), wire.Failure("internal", "x"))
    assert ForkSession(ID) in core.tick(T)


@pytest.mark.parametrize("begun", [False, True])
def test_a_stop_wins_over_the_restart(core, begun):
    keys = [new_session_id() for _ in range(AT_ONCE)]
    reboot(core, *([ID] if begun else [*keys, ID]))
    effects = core.request(cli(), wire.StopSession(ID), T)
    if begun:
        effects = greet(core, NAME)
        assert bodies(effects, wire.Refused)
    assert (1, wire.SessionStopped("stopped", ID, "before_start")) in answers(effects)
    (closed,) = [effect.info for effect in effects if isinstance(effect, CloseRecord)]
    assert (closed.phase, closed.reason) == (Phase.ENDED, EndReason.STOPPED_BY_USER)
    assert (ID in core.sessions.live, ID in core.spawns.pending) == (False, False)


def test_a_restart_that_fails_ends_the_session_with_the_reason(core):
    reboot(core, ID)
    core.forked(ID, 77)
    effects = core.child_ended(ID, 77, 1)
    (closed,) = [effect.info for effect in effects if isinstance(effect, CloseRecord)]
    assert closed.reason == EndReason.MACHINE_REBOOTED
    assert "before it was ready" in closed.detail
    reboot(core, OTHER)
    assert any(isinstance(effect, CloseRecord) for effect in core.nursery_lost())


def test_a_runner_that_stops_does_not_give_up_what_it_restarts(core):
    """A runner stopped in the seconds after a reboot ended those sessions for good, as failed spawns."""
    reboot(core, ID)
    greet(core, NAME)
    assert bodies(core.stop_runner("hapi-cli", T), wire.Refused) == []


def test_one_that_came_back_by_itself_is_not_restarted(core):
    keys = [new_session_id() for _ in range(AT_ONCE)]
    reboot(core, *keys, ID)
    greet(core, NAME, info=info(generation=2))
    for key in keys:
        core.spawns.settle(key, wire.Failure("internal", "x"))
    assert ForkSession(ID) not in core.tick(T)


def test_a_runner_that_stops_restarts_nothing_more(core):
    reboot(core, *[new_session_id() for _ in range(AT_ONCE + 1)])
    core.stop_runner("hapi-cli", T)
    core.spawns.pending.clear()
    assert core.tick(T) == []


def test_of_two_workers_of_one_name_the_older_is_sent_away(core):
    for name in ("hub", "reaper"):
        greet(core, name, b"old-" + name.encode())
        effects = core.hello(b"new-" + name.encode(), hello(name, AGENT), T)
        (refused,) = [
            effect for effect in effects if isinstance(effect, Send) and isinstance(effect.body, wire.Refused)
        ]
        assert refused.identity == b"old-" + name.encode()
        assert core.peers.named(name).process == AGENT
        assert bodies(greet(core, name, b"new-" + name.encode(), process=AGENT), wire.Refused) == []


def test_a_thousand_records(core):
    records = [Record(key, info(key), SILENT) for key in (new_session_id() for _ in range(1000))]
    core.adopt(records, T, MS)
    for record in records:
        greet(core, wire.session_peer(record.session_id), info=record.info)
    assert core.adoption.verdicts == {"adopted": 1000}
    assert core.next_deadline() is None


# ------------------------------------------------------------------------------------------------------------- chaos

ids = st.sampled_from([ID, OTHER, "abcd" + ID[4:]])
processes = st.sampled_from([SUPERVISOR, AGENT, ProcessId(7, 7, "other")])
infos = st.builds(lambda key, phase, who: info(key, phase, supervisor=who), ids, st.sampled_from(Phase), processes)
peers = st.one_of(ids.map(wire.session_peer), st.sampled_from(["hub", "reaper", "nobody"]))
words = st.one_of(
    infos.map(wire.SessionChanged),
    ids.map(lambda key: wire.SessionStopped("stopped", key)),
    ids.map(lambda key: wire.SpawnFailed(session_id=key, failure=wire.Failure("internal", ""))),
    st.builds(lambda key, who: wire.SupervisorGone(session_id=key, process=who), ids, processes),
    st.just(wire.Accepted()),
    st.just(wire.HubStatus()),
    ids.map(order),
    ids.map(wire.StopSession),
)
steps = st.one_of(
    st.tuples(st.just("request"), st.one_of(ids.map(order), ids.map(wire.StopSession), st.just(wire.ListSessions()))),
    st.tuples(st.just("hello"), peers, processes, st.none() | infos),
    st.tuples(st.just("tell"), peers, words),
    st.tuples(st.just("tick"), st.floats(0, 40)),
    st.tuples(st.just("gone"), peers),
)


@given(st.lists(steps, max_size=30))
def test_whatever_happens_each_request_is_answered_once(steps):
    core = Core(settings())
    now, asked, answered = T, 0, []

    def take(effects):
        answered.extend(
            effect.to.request
            for effect in effects
            if isinstance(effect, Answer) and effect.to == cli(effect.to.request)
        )

    for step in steps:
        match step:
            case ("request", body):
                asked += 1
                take(core.request(cli(asked), body, now))
            case ("hello", name, process, found):
                take(core.hello(name.encode(), hello(name, process, info=found), now))
            case ("tell", name, body) if name.encode() in core.peers.by_identity:
                take(core.tell(name.encode(), wire.Header("broker", name), body, now, MS))
            case ("tick", passed):
                now += passed
                take(core.tick(now))
            case ("gone", name):
                take(core.peer_gone(name))
        assert not set(core.sessions.live) & set(core.sessions.ended)
    while not core.stopping and (due := core.next_deadline()) is not None:
        now = max(now, due)
        take(core.tick(now))
    assert sorted(answered) == list(range(1, asked + 1))


@pytest.mark.parametrize("body", [wire.StopSession(ID), wire.SendText(ID, "x")], ids=["stop", "send"])
def test_requests_wait_for_the_verdict_on_a_session_found_on_disk(core, body):
    """A stop right after a start was answered `still_alive`: the supervisor had yet to say hello to the new broker."""
    core.adopt([Record(ID, info(), SILENT)], T, MS)
    assert core.request(cli(1), body, T) == []
    effects = greet(core, NAME, info=info())
    assert [effect.to for effect in effects if isinstance(effect, Send) and isinstance(effect.body, type(body))] == [
        NAME
    ]


def test_requests_for_a_session_that_stays_silent_are_answered_after_the_grace(core):
    core.adopt([Record(ID, info(), SILENT)], T, MS)
    core.request(cli(1), wire.StopSession(ID), T)
    due = core.next_deadline()
    assert the_answer(core.tick(due)).status == "still_alive"


def test_a_supervisor_that_dies_before_its_hello_has_ended_and_its_stop_is_answered(core):
    """It counted as quarantined five seconds later, though it was proven dead; a stop waited as long."""
    core.adopt([Record(ID, info(), SILENT)], T, MS)
    greet(core, "reaper")
    core.request(cli(1), wire.StopSession(ID), T)
    assert the_answer(tell(core, "reaper", gone())).status == "already_gone"
    assert core.adoption.verdicts == {"ended": 1}
    assert core.adoption.deadline() is None


def test_a_stop_between_the_order_and_the_first_news_reaches_the_supervisor(core):
    """It was kept for a hello that had been said already: the session came up, and the stop said `still_alive`."""
    core.request(cli(1), order(), T)
    greet(core, NAME)
    (effect,) = core.request(cli(2), wire.StopSession(ID), T)
    assert (effect.to, type(effect.body)) == (NAME, wire.StopSession)
    effects = tell(core, NAME, wire.SessionStopped("stopped", ID, "during_start"))
    assert answers(effects) == [(2, wire.SessionStopped("stopped", ID, "during_start"))]


def test_a_supervisor_that_is_starting_is_sent_away_when_the_runner_stops(core):
    core.request(cli(1), order(), T)
    greet(core, NAME)
    effects = core.stop_runner("me", T)
    assert [(effect.to, type(effect.body)) for effect in effects if isinstance(effect, Send)] == [(NAME, wire.Refused)]
