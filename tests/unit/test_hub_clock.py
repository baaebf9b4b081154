"""The hub's time, learned from its answers."""

import pytest

from hapi.workers.hub import hub_clock
from hapi.workers.hub.hub_clock import HubClock

DATE = "Sun, 22 Nov 2026 22:07:58 GMT"
DATE_MS = 1_795_385_278_000


@pytest.fixture
def time(monkeypatch):
    """This machine's clocks: `wall` in ms, `monotonic` in s."""
    clocks = {"wall": DATE_MS, "monotonic": 100.0}
    monkeypatch.setattr(hub_clock, "now_ms", lambda: clocks["wall"])
    monkeypatch.setattr(hub_clock, "monotonic", lambda: clocks["monotonic"])
    return clocks


@pytest.mark.parametrize("date", [None, "", "yesterday", "Sun, 99 Nov 2026 99:07:58 GMT"])
def test_an_answer_that_tells_no_time_changes_nothing(time, date):
    clock = HubClock()
    clock.heard(date)
    assert clock.now_ms() == DATE_MS


def test_a_clock_that_is_set_back_is_put_right(time):
    clock = HubClock()
    clock.heard(DATE)
    time["wall"] -= 8 * 3_600_000
    time["monotonic"] += 30
    assert clock.now_ms() == DATE_MS + 30_000


def test_a_clock_that_is_ahead_is_left_alone(time):
    clock = HubClock()
    clock.heard(DATE)
    time["wall"] += 8 * 3_600_000
    assert clock.now_ms() == DATE_MS + 8 * 3_600_000


def test_the_newest_answer_counts(time):
    """After a sleep the monotonic clock is behind, until the hub speaks again."""
    clock = HubClock()
    clock.heard("Sun, 22 Nov 2026 14:07:58 GMT")
    time["wall"] = 0
    clock.heard(DATE)
    assert clock.now_ms() == DATE_MS
