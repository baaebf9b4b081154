"""Who may speak to whom, and one name, one peer."""

import itertools

import pytest

from hapi import wire
from hapi.broker.peers import DEPARTED_KEPT, PASSES_KEPT, Peer, Peers, may_route, may_tell_broker, role
from hapi.ids import ProcessId

WHO = ProcessId(1, 1, "boot")
NAMES = ("hub", "reaper", "broker", "cli", "nursery", "session:a", "session:b", "session:", "session", "", "HUB")
SESSIONS = ("session:a", "session:b", "session:", "session")
ROUTES = {*itertools.product(SESSIONS, ["hub"]), *itertools.product(["hub"], SESSIONS)}


@pytest.mark.parametrize(("sender", "to"), list(itertools.product(NAMES, NAMES)))
def test_every_route(sender, to):
    assert may_route(sender, to) is ((sender, to) in ROUTES)


@pytest.mark.parametrize(
    ("name", "kind"), [("hub", "hub"), ("session:1:2", "session"), ("session:", "session"), ("", ""), (":x", "")]
)
def test_roles(name, kind):
    assert role(name) == kind


@pytest.mark.parametrize("sender", ["cli", "broker", "", "nobody", "HUB"])
def test_who_has_no_role_may_say_nothing(sender):
    assert not may_tell_broker(sender, wire.Beat())
    assert not may_tell_broker(sender, wire.StopRunner())


@pytest.mark.parametrize("sender", ["hub", "reaper", "session:a"])
def test_everybody_may_beat(sender):
    assert may_tell_broker(sender, wire.Beat())
    assert not may_tell_broker(sender, wire.GetStatus())


def peer(name, identity):
    return Peer(identity, name, WHO, 0, 0.0)


def test_the_newest_introduction_wins():
    peers = Peers()
    peers.add(peer("hub", b"1"))
    peers.add(peer("hub", b"2"))
    assert peers.named("hub").identity == b"2"
    assert list(peers.by_identity) == [b"2"]
    assert peers.remove("hub").identity == b"2"
    assert (peers.remove("hub"), peers.named("hub"), peers.by_identity, peers.routes) == (None, None, {}, {})


def test_by_role():
    peers = Peers()
    for number, name in enumerate(("hub", "session:a", "session:b")):
        peers.add(peer(name, str(number).encode()))
    assert [found.name for found in peers.of_role("session")] == ["session:a", "session:b"]
    assert peers.of_role("reaper") == []


CHANGES = {
    "another comes": lambda peers: peers.add(peer("session:b", b"3")),
    "the sender has another name": lambda peers: peers.add(peer("reaper", b"2")),
    "the sender has another connection": lambda peers: peers.add(peer("session:a", b"4")),
    "the target goes": lambda peers: peers.remove("hub"),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_may_pass_is_forgotten_when_somebody_comes_or_goes(change):
    """Seen to fail: without the clearing in `remove`."""
    peers = Peers()
    peers.add(peer("session:a", b"2"))
    peers.add(peer("hub", b"1"))
    peers.remember(b"2", b"header", b"1")
    assert peers.passes == {(b"2", b"header"): b"1"}
    change(peers)
    assert peers.passes == {}


def test_what_may_pass_is_bounded():
    peers = Peers()
    for number in range(PASSES_KEPT + 1):
        peers.remember(b"2", b"%d" % number, b"1")
    assert len(peers.passes) <= PASSES_KEPT
    assert peers.passes[b"2", b"%d" % PASSES_KEPT] == b"1"


def test_the_last_words_of_who_departed_pass():
    """The reaper's word of a supervisor's end can overtake the supervisor's answer to who had it stopped."""
    peers = Peers()
    peers.add(peer("session:a", b"1"))
    peers.depart("session:a")
    peers.depart("session:nobody")
    assert peers.named("session:a") is None
    assert "session:a" not in peers.routes
    assert peers.speaker(b"1") == "session:a"
    peers.add(peer("session:a", b"2"))
    assert [peers.speaker(identity) for identity in (b"1", b"2", b"3")] == ["session:a", "session:a", None]


def test_who_was_refused_has_no_last_words():
    peers = Peers()
    peers.add(peer("session:a", b"1"))
    peers.remove("session:a")
    assert peers.speaker(b"1") is None


def test_those_who_departed_are_forgotten_in_time():
    peers = Peers()
    for number in range(DEPARTED_KEPT + 1):
        peers.add(peer(f"session:{number}", b"%d" % number))
        peers.depart(f"session:{number}")
    assert peers.speaker(b"0") is None
    assert peers.speaker(b"1") == "session:1"
