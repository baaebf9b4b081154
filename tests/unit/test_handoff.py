"""Version handoff, the decisions: builds, versions, the breaker, what a command does, what a heartbeat leads to."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi import breaker, wire
from hapi.breaker import MAX_ASKED, Breaker, Handoff, again_at
from hapi.broker.effects import CheckInstalled, HandOver
from hapi.broker.upgrade import RESTLESS_S, Upgrade
from hapi.files import FileLock
from hapi.handoff import Build, Choice, Ours, choose, older, restart_source

NOW = 1_700_000_000_000
WINDOW = 300_000
ONE, TWO, THREE = Build("1", "a"), Build("2", "b"), Build("3", "c")


# ---------------------------------------------------------------------------------------------------------- versions


def test_versions_in_their_order():
    ordered = [
        "0.9",
        "0.9.1",
        "0.10",
        "1.0.dev3",
        "1.0a1",
        "1.0a2",
        "1.0b1",
        "1.0rc1",
        "1.0",
        "1.0.post1",
        "1.0.1",
        "2",
    ]
    for index, one in enumerate(ordered):
        for later in ordered[index + 1 :]:
            assert older(one, later)
            assert not older(later, one)


@pytest.mark.parametrize(
    ("one", "other"), [("1.0", "1.0.0"), ("v1.2", "1.2"), ("1.2+local", "1.2"), ("1.0-rc1", "1.0rc1")]
)
def test_versions_that_are_equal(one, other):
    assert not older(one, other)
    assert not older(other, one)


@given(st.text(max_size=12), st.text(max_size=12))
def test_a_version_that_nobody_understands_is_older_than_none(one, other):
    assert not (older(one, other) and older(other, one))
    assert not older("nonsense", one)
    assert not older(one, "nonsense")


# -------------------------------------------------------------------------------------------------------- the breaker


def handoff(at, by="heartbeat"):
    return Handoff(at=at, by=by, old="1", new="2")


@pytest.mark.parametrize(
    ("ages", "by", "allowed"),
    [
        ([], "heartbeat", True),
        ([1000], "heartbeat", False),
        ([1000], "command", False),
        ([1000], "start", True),
        ([WINDOW], "heartbeat", True),
        ([WINDOW - 1], "heartbeat", False),
        ([-1000], "heartbeat", True),
        ([-1000, 1000], "heartbeat", False),
        ([1000] * (MAX_ASKED - 1), "start", True),
        ([1000] * MAX_ASKED, "start", False),
        ([1000] * (MAX_ASKED - 1) + [-1000], "start", True),
    ],
)
def test_the_breaker(ages, by, allowed):
    assert (again_at([handoff(NOW - age) for age in ages], by, NOW, WINDOW) is None) is allowed


@given(st.lists(st.integers(0, 3 * WINDOW), max_size=30), st.sampled_from(["heartbeat", "start"]))
def test_the_breaker_says_when_and_means_it(times, by):
    """Obeying `again_at`, no window of any position ever holds more than allowed."""
    history = []
    for now in sorted(times):
        until = again_at(history, by, now, WINDOW)
        assert until is None or until > now
        if until is None:
            history.append(handoff(now))
        else:
            assert again_at(history, by, until, WINDOW) is None
    limit = MAX_ASKED if by == "start" else 1
    stamps = [item.at for item in history]
    assert all(later - earlier >= WINDOW for earlier, later in zip(stamps, stamps[limit:], strict=False))


def test_a_claim_counts(tmp_path):
    box = Breaker(tmp_path / "handoffs.json", WINDOW)
    assert box.refusal("heartbeat", NOW) is None
    assert box.claim(handoff(NOW), "heartbeat") is None
    refusal = box.claim(handoff(NOW + 1), "heartbeat")
    assert "once within 5 min" in refusal
    assert "hapi runner start" in refusal
    for number in range(2, MAX_ASKED + 1):
        assert box.claim(handoff(NOW + number, "start"), "start") is None
    assert "hapi runner restart" in box.claim(handoff(NOW + 9, "start"), "start")
    assert len(box.recent(NOW + 9)) == MAX_ASKED
    assert box.refusal("heartbeat", NOW + 9 + WINDOW) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"handoffs": 5}', b'{"handoffs": [{"at": "x"}]}', b"\xff"])
def test_a_damaged_history_allows_nothing_by_itself(tmp_path, content):
    path = tmp_path / "handoffs.json"
    path.write_bytes(content)
    box = Breaker(path, WINDOW)
    assert "damaged" in box.claim(handoff(NOW), "heartbeat")
    assert "damaged" in box.claim(handoff(NOW), "command")
    assert path.read_bytes() == content
    assert box.claim(handoff(NOW), "start") is None
    assert [kept.read_bytes() for kept in tmp_path.glob("handoffs.json.bad-*")] == [content]
    assert box.claim(handoff(NOW + 1), "heartbeat")


def test_a_history_that_cannot_be_written_allows_nothing_by_itself(tmp_path):
    path = tmp_path / "handoffs.json"
    (tmp_path / "handoffs.json.lock").mkdir()
    box = Breaker(path, WINDOW)
    assert "cannot be written" in box.claim(handoff(NOW), "heartbeat")
    assert box.claim(handoff(NOW), "start") is None


def test_two_at_once(tmp_path):
    lock = FileLock(tmp_path / "handoffs.json.lock")
    assert lock.acquire()
    box = Breaker(tmp_path / "handoffs.json", WINDOW)
    assert "another process" in box.claim(handoff(NOW), "heartbeat")
    lock.release()
    assert box.claim(handoff(NOW), "heartbeat") is None


def test_the_history_is_short(tmp_path):
    box = Breaker(tmp_path / "handoffs.json", 1)
    for number in range(50):
        assert box.claim(handoff(NOW + number * 10), "heartbeat") is None
    assert len(json.loads((tmp_path / "handoffs.json").read_bytes())["handoffs"]) == breaker._KEPT


# ----------------------------------------------------------------------------------------------- what a command does


def status(version="1", **changes):
    values = {"pid": 1, "namespace": "default", "endpoint": "", "started_at": 0, "log_path": "", "workspace_roots": []}
    values |= {"hub": wire.HubStatus(), "workers": {}, "sessions": {}, "verdicts": {}, "counters": {}}
    return wire.Status(version=version, **(values | changes))


OURS = Ours(Build("2", "b"), "/here")


@pytest.mark.parametrize(
    ("by", "runs", "action"),
    [
        ("command", status("2"), "use"),
        ("command", status("2", fingerprint="other"), "use"),
        ("command", status("1"), "replace"),
        ("command", status("3"), "use"),
        ("command", status("nonsense"), "use"),
        ("command", status("1", handoff_disabled=True), "use"),
        ("command", status("1", supervised=True, install="/here"), "restart"),
        ("command", status("1", supervised=True, install="/there"), "use"),
        ("command", status("1", supervised=True), "use"),
        ("start", status("2"), "use"),
        ("start", status("2", fingerprint="b"), "use"),
        ("start", status("2", fingerprint="other"), "replace"),
        ("start", status("1"), "replace"),
        ("start", status("3"), "replace"),
        ("start", status("3", handoff_disabled=True), "use"),
        ("start", status("3", supervised=True, install="/there"), "restart"),
    ],
)
def test_what_a_command_does(by, runs, action):
    choice = choose(runs, OURS, by)
    assert choice.action == action
    assert bool(choice.why) is (action == "use" and runs.version != "2")
    disabled = choose(runs, Ours(OURS.build, OURS.install, disabled=True), by)
    assert disabled.action == "use"
    assert disabled == Choice("use") or "HAPI_DISABLE_VERSION_HANDOFF" in disabled.why


def test_a_released_runner_is_asked_in_words_that_it_knows():
    assert restart_source(status()) == "hapi-app"
    assert restart_source(status(protocol=2)) == "version-handoff"


# --------------------------------------------------------------------------------------------- what a heartbeat leads to


def test_seen_twice_checked_handed_over():
    upgrade = Upgrade(ONE)
    assert upgrade.heard(ONE, 0) == upgrade.heard(TWO, 1) == []
    assert upgrade.heard(TWO, 2) == [CheckInstalled(TWO)]
    assert upgrade.heard(TWO, 3) == [], "one check at a time"
    assert upgrade.deadline() is None
    upgrade.checked(None, 4)
    assert upgrade.deadline() == 4
    assert "takes over soon" in upgrade.warnings()[0]
    assert upgrade.due(4, busy=False) == [HandOver(TWO)]
    assert upgrade.due(4, busy=False) == []


def test_an_installation_that_keeps_changing_is_left_alone():
    upgrade = Upgrade(ONE)
    for number in range(2, 20):
        assert upgrade.heard(Build(str(number), str(number)), number) == []


def test_a_change_during_the_check_begins_anew():
    upgrade = Upgrade(ONE)
    upgrade.heard(TWO, 1)
    upgrade.heard(TWO, 2)
    assert upgrade.heard(THREE, 3) == []
    upgrade.checked(None, 4)
    assert upgrade.due(4, busy=False) == []
    assert upgrade.heard(THREE, 5) == [CheckInstalled(THREE)]


def test_a_change_back_calls_it_off():
    upgrade = Upgrade(ONE)
    upgrade.heard(TWO, 1)
    upgrade.heard(TWO, 2)
    upgrade.checked(None, 3)
    upgrade.heard(ONE, 4)
    assert upgrade.due(5, busy=False) == []
    assert upgrade.warnings() == []


def test_code_that_fails_is_tried_again_when_it_changes_or_after_a_while():
    upgrade = Upgrade(ONE, retry_s=300)
    upgrade.heard(TWO, 1)
    upgrade.heard(TWO, 2)
    upgrade.checked("it does not start", 3)
    assert upgrade.heard(TWO, 4) == upgrade.heard(TWO, 302) == []
    assert "it does not start" in upgrade.warnings()[0]
    assert upgrade.heard(TWO, 303) == [CheckInstalled(TWO)]
    upgrade.checked("it does not start", 304)
    upgrade.heard(THREE, 305)
    assert upgrade.heard(THREE, 306) == [CheckInstalled(THREE)]


def test_the_breaker_is_asked_at_every_heartbeat_and_quoted_once(caplog):
    upgrade = Upgrade(ONE)
    upgrade.heard(TWO, 1)
    for now in range(2, 10):
        assert upgrade.heard(TWO, now) == [CheckInstalled(TWO)]
        upgrade.held("it was replaced once")
    assert caplog.text.count("it was replaced once") == 1
    assert "it was replaced once" in upgrade.warnings()[0]


@pytest.mark.parametrize(("build", "disabled"), [(Build("", ""), False), (TWO, True)])
def test_what_cannot_or_must_not_be_is_not_tried(build, disabled):
    upgrade = Upgrade(ONE, disabled=disabled)
    assert [upgrade.heard(build, now) for now in range(5)] == [[]] * 5
    assert upgrade.reason
    assert upgrade.warnings()


def test_a_restless_broker_is_waited_for_but_not_for_ever():
    upgrade = Upgrade(ONE)
    upgrade.heard(TWO, 1)
    upgrade.heard(TWO, 2)
    upgrade.checked(None, 10)
    now = 10.0
    while not (done := upgrade.due(now, busy=True)):
        assert upgrade.deadline() > now
        now = upgrade.deadline()
    assert done == [HandOver(TWO)]
    assert now == 10 + RESTLESS_S
