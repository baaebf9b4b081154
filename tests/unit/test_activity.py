"""Whether a program is at work, by when it writes."""

import pytest

from hapi.workers.supervisor.activity import ECHO_S, GAP_S, QUIET_S, START_S, Activity


def after(*steps):
    activity = Activity()
    for kind, at in steps:
        getattr(activity, kind)(at)
    return activity


def every(step, start, end):
    return [("output", start + n * step) for n in range(round((end - start) / step) + 1)]


def echoes(start, end, step=0.1):
    """Someone types on, and each key is echoed a moment later."""
    keys = [start + n * step for n in range(round((end - start) / step))]
    return [pair for at in keys for pair in (("typed", at), ("output", at + 0.02))]


@pytest.mark.parametrize(
    ("steps", "working"),
    [
        ([], False),
        ([("output", 5.0)], False),
        (every(0.1, 5.0, 5.0 + START_S - 0.2), False),  # a prompt that is drawn
        (every(0.1, 5.0, 5.0 + START_S + 0.1), True),
        (every(GAP_S + 0.1, 5.0, 15.0), False),  # a clock that ticks
        (every(3.0, 5.0, 30.0), False),  # top
        (echoes(5.0, 15.0), False),
        ([*echoes(5.0, 7.0), *every(0.1, 7.0 + ECHO_S, 8.5 + ECHO_S)], True),
        ([("prompted", 5.0)], True),
        ([("typed", 5.0), ("output", 5.1)], False),
    ],
)
def test_what_counts_as_work(steps, working):
    assert after(*steps).working is working


def test_silence_ends_it_and_the_time_to_look_is_told():
    activity = after(*every(0.1, 5.0, 6.5))
    assert activity.look(6.6) == pytest.approx(6.5 + QUIET_S)
    activity.output(8.0)
    assert activity.look(8.5) == pytest.approx(8.0 + QUIET_S)
    assert activity.working
    assert activity.look(8.0 + QUIET_S) is None
    assert not activity.working
    assert activity.look(20.0) is None


def test_the_next_work_needs_output_that_goes_on_again():
    activity = after(*every(0.1, 5.0, 6.5))
    activity.look(6.5 + QUIET_S)
    activity.output(8.6)
    assert not activity.working
    for _, at in every(0.1, 8.7, 9.8):
        activity.output(at)
    assert activity.working


def test_typing_ahead_keeps_work_going():
    activity = after(*every(0.1, 5.0, 6.5), *echoes(6.6, 9.6))
    activity.look(9.6)
    assert activity.working


def test_a_message_makes_it_work_until_it_is_silent():
    activity = after(("prompted", 5.0))
    assert activity.look(5.0) == pytest.approx(5.0 + QUIET_S)
    assert activity.look(5.0 + QUIET_S) is None
    assert not activity.working
