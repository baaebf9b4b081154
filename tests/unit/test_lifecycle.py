"""The phases of a session: every pair of them against a table written anew, and moves in the order of a life."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi.lifecycle import BUSY, MOVES, READY, EndReason, IllegalMove, Lifecycle, Phase

# from \ to                 starting idle working waiting stopping ended       "." stays, "x" goes, "-" is refused
TABLE = {
    Phase.STARTING: ".x--xx",
    Phase.IDLE: "-.x-xx",
    Phase.WORKING: "-x.xxx",
    Phase.WAITING: "-xx.xx",
    Phase.STOPPING: "----.x",
    Phase.ENDED: "-----.",
}
PHASES = (Phase.STARTING, Phase.IDLE, Phase.WORKING, Phase.WAITING, Phase.STOPPING, Phase.ENDED)
PAIRS = list(itertools.product(PHASES, PHASES))


def allowed(here, there):
    return TABLE[here][PHASES.index(there)]


def test_the_table_is_complete():
    assert set(PHASES) == set(Phase) == set(TABLE) == set(MOVES)
    assert all(len(row) == len(PHASES) for row in TABLE.values())


@pytest.mark.parametrize(("here", "there"), PAIRS, ids=lambda phase: phase.value)
def test_every_pair(here, there):
    life = Lifecycle(here)
    match allowed(here, there):
        case "x":
            assert life.move(there) is True
            assert (life.phase, life.history) == (there, (here, there))
        case ".":
            assert life.move(there) is False
            assert (life.phase, life.history) == (here, (here,))
        case "-":
            with pytest.raises(IllegalMove) as caught:
                life.move(there)
            assert (caught.value.current, caught.value.wanted, caught.value.history) == (here, there, (here,))
            assert (life.phase, life.history) == (here, (here,))


def test_an_illegal_move_tells_the_whole_story():
    life = Lifecycle()
    for phase in (Phase.IDLE, Phase.WORKING, Phase.STOPPING):
        life.move(phase)
    with pytest.raises(IllegalMove, match="starting → idle → working → stopping → idle") as caught:
        life.move(Phase.IDLE)
    assert caught.value.history == (Phase.STARTING, Phase.IDLE, Phase.WORKING, Phase.STOPPING)


def test_the_history_is_bounded_and_keeps_the_newest():
    life = Lifecycle(Phase.IDLE)
    for _ in range(100):
        life.move(Phase.WORKING)
        life.move(Phase.IDLE)
    life.move(Phase.ENDED)
    assert len(life.history) == Lifecycle.HISTORY_LIMIT
    assert life.history[-3:] == (Phase.WORKING, Phase.IDLE, Phase.ENDED)


@given(st.lists(st.sampled_from(PHASES)))
def test_any_life_follows_the_table(moves):
    life = Lifecycle()
    for wanted in moves:
        before, history = life.phase, life.history
        try:
            moved = life.move(wanted)
        except IllegalMove:
            assert allowed(before, wanted) == "-"
            assert (life.phase, life.history) == (before, history)
        else:
            assert allowed(before, wanted) == ("x" if moved else ".")
            assert life.history[-1] is life.phase is wanted


def test_every_phase_can_end_and_nothing_comes_back():
    assert all(allowed(phase, Phase.ENDED) in "x." for phase in PHASES)
    assert MOVES[Phase.ENDED] == frozenset()
    assert all(Phase.STARTING not in moves for moves in MOVES.values())


def test_the_groups():
    assert {*frozenset(Phase) - {Phase.ENDED}} == {*PHASES} - {Phase.ENDED}
    assert {*READY} == {Phase.IDLE, *BUSY}
    assert {*BUSY} == {Phase.WORKING, Phase.WAITING}


@pytest.mark.parametrize("reason", EndReason)
def test_reasons_are_words_for_people(reason):
    assert reason.value == reason.value.strip().lower()
    assert "_" not in reason.value
