"""Which session a person means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi.broker.sessions import ENDED_KEPT, Sessions
from hapi.errors import ErrorCode, HapiError
from hapi.ids import ProcessId, new_session_id
from hapi.lifecycle import Phase
from hapi.wire import SessionInfo

hexes = st.text("0123456789abcdef", min_size=12, max_size=12)
ids = st.builds(lambda head, tail: f"{head}-0000-4000-8000-{tail}", st.sampled_from(["1f0c22ab", "1f0c9999"]), hexes)


def info(session_id, phase=Phase.IDLE, pids=(None, None), **changes):
    supervisor, agent = (None if pid is None else ProcessId(pid, 1, "boot") for pid in pids)
    values = {"session_id": session_id, "namespace": "default", "agent": "demo", "directory": "/", "phase": phase}
    values |= {"started_by": "runner", "started_at": 1, "supervisor": supervisor, "agent_process": agent}
    return SessionInfo(**(values | changes))


pids = st.none() | st.integers(1, 30)
infos = st.builds(info, ids, st.sampled_from([Phase.IDLE, Phase.STARTING, Phase.ENDED]), st.tuples(pids, pids))
targets = st.one_of(st.text(max_size=6), ids, st.integers(-3, 40).map(lambda pid: f"PID-{pid}"), st.just("pid-"))


def meant(sessions, target):
    """The rule, said differently: all that fit; live ones first; exactly one, or an error."""
    text = target.strip().lower()
    for wanted in (True, False):
        group = [found for found in sessions if (found.phase is not Phase.ENDED) is wanted]
        exact = [found for found in group if found.session_id == text]
        if text.startswith("pid-"):
            pids = [{p.pid for p in (found.supervisor, found.agent_process) if p} for found in group]
            fits = [found for found, own in zip(group, pids, strict=True) if text[4:] in map(str, own)]
        else:
            fits = [found for found in group if len(text) >= 4 and found.session_id.startswith(text)]
        if exact or len(fits) == 1:
            return (exact or fits)[0]
        if fits:
            return ErrorCode.AMBIGUOUS_SESSION
    return ErrorCode.UNKNOWN_SESSION


@given(st.lists(infos, max_size=6, unique_by=lambda found: found.session_id), targets, st.data())
def test_resolve(known, target, data):
    sessions = Sessions()
    for found in known:
        sessions.put(found)
    if known and data.draw(st.booleans()):
        whole = data.draw(st.sampled_from(known)).session_id
        target = whole[: data.draw(st.integers(0, len(whole)))]
        target = data.draw(st.sampled_from([target, target.upper(), f" {target}\n"]))
    try:
        answer = sessions.resolve(target)
    except HapiError as error:
        assert error.message
        answer = error.code
    assert answer == meant(known, target)


@given(infos)
def test_a_session_is_found_by_every_name_of_its_own(found):
    sessions = Sessions()
    sessions.put(found)
    names = [found.session_id[:length] for length in range(4, 37)]
    names += [f"PID-{process.pid}" for process in (found.supervisor, found.agent_process) if process]
    assert all(sessions.resolve(name) is found for name in names)


def test_an_ambiguous_name_shows_the_candidates():
    sessions = Sessions()
    for number in range(8):
        sessions.put(info(f"1f0c22ab-0000-4000-8000-00000000000{number}"))
    with pytest.raises(HapiError, match="fits 8 sessions") as caught:
        sessions.resolve("1f0c")
    assert len(caught.value.message) < 200


@given(st.lists(st.tuples(ids, st.sampled_from(Phase)), max_size=20))
def test_the_newest_news_counts(news):
    sessions = Sessions()
    for session_id, phase in news:
        sessions.put(info(session_id, phase))
    last = dict(news)
    assert {found.session_id: found.phase for found in sessions.listed(ended=True)} == last
    live = {key: phase for key, phase in last.items() if phase is not Phase.ENDED}
    assert {found.session_id: found.phase for found in sessions.listed(ended=False)} == live
    assert sum(sessions.phases().values()) == len(live)


def test_the_oldest_ended_ones_are_forgotten():
    sessions = Sessions()
    keys = [new_session_id() for _ in range(ENDED_KEPT + 5)]
    for key in keys:
        sessions.put(info(key, Phase.ENDED))
    assert list(sessions.ended) == keys[5:]
    assert len(sessions.listed(ended=True)) == ENDED_KEPT


def test_oldest_first():
    sessions = Sessions()
    for at in (5, 3, 4):
        sessions.put(info(new_session_id(), started_at=at))
    assert [found.started_at for found in sessions.listed(ended=False)] == [3, 4, 5]
