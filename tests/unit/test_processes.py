"""When a worker that died is started again."""

import pytest

from hapi.broker.processes import FIRST_DELAY_S, LONGEST_DELAY_S, WorkerLife


def test_a_new_worker_is_due_at_once():
    life = WorkerLife("hub")
    assert life.due(0.0)
    life.ordered()
    assert not life.due(1e9)
    life.started(42)
    assert (life.due(1e9), life.pid) == (False, 42)


def test_delays_double_up_to_the_longest():
    life = WorkerLife("hub")
    delays = [life.died(100.0 + number * 0.001) for number in range(16)]
    assert delays[:5] == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert delays[0] == FIRST_DELAY_S
    assert delays[-1] == LONGEST_DELAY_S
    assert delays == sorted(delays)


def test_after_a_quiet_minute_the_delays_begin_anew():
    life = WorkerLife("hub")
    for number in range(6):
        life.died(float(number))
    assert life.died(200.0) == FIRST_DELAY_S
    assert life.restarts == 7


def test_due_only_after_the_delay():
    life = WorkerLife("hub")
    delay = life.died(10.0)
    assert not life.due(10.0 + delay - 0.001)
    assert life.due(10.0 + delay)


@pytest.mark.parametrize(("deaths", "failed"), [(0, False), (4, False), (5, True), (40, True)])
def test_a_crash_loop_is_shown(deaths, failed):
    life = WorkerLife("hub")
    for number in range(deaths):
        life.started(number + 1)
        life.died(50.0 + number * 0.1)
    status = life.status(60.0)
    assert (status.restarts, bool(status.failed)) == (deaths, failed)
    assert life.status(500.0).failed is None
    assert status.pid == 0


def test_trap_10_a_worker_that_always_crashes_is_started_a_handful_of_times_a_minute():
    life, now, starts = WorkerLife("hub"), 0.0, 0
    while now < 60.0:
        assert life.due(now)
        starts += 1
        now += life.died(now)
    assert starts < 12
