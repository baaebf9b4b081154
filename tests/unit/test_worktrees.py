"""The verdict on a worktree: which facts keep it, in which order they count, and what looks like ours."""

import itertools

import pytest

from hapi.wire import WorktreeInfo
from hapi.worktrees import Facts, State, judge, looks_like_ours

PLACE = WorktreeInfo("/r/proj", "hapi-fix", "fix", "/r/proj-worktrees/fix", 1)
IDLE = {"recorded": True, "branch": "hapi-fix"}
KEPT = [
    ({"open_sessions": 1}, State.LIVE, "its session has not ended"),
    ({"processes": 1}, State.IN_USE, "1 process in it"),
    ({"trouble": "git took too long"}, State.UNKNOWN, "git took too long"),
    ({"registered": False}, State.UNKNOWN, "git knows of no worktree there"),
    ({"locked": ""}, State.LOCKED, "it is locked"),
    ({"branch": "mine"}, State.UNKNOWN, "mine is checked out in it, not hapi-fix"),
    ({"changes": 2}, State.DIRTY, "2 files changed or new"),
    ({"operation": "rebase"}, State.DIRTY, "a rebase is under way"),
    ({"hidden": 1}, State.DIRTY, "git was told not to look at 1 file"),
    ({"nested": "build/dep"}, State.DIRTY, "another repository or worktree lies in it: build/dep"),
    ({"commits": 1}, State.UNMERGED, "1 commit in no other branch, tag or remote"),
    ({"strays": 1}, State.UNMERGED, "1 commit made in it that no branch has"),
    ({"stashes": 2}, State.STASHED, "2 stashes made in it"),
]
FREE = [({"present": False}, State.GONE), ({"own_commits": True}, State.MERGED), ({}, State.UNUSED)]


@pytest.mark.parametrize(("fact", "state", "why"), KEPT)
def test_trap_43_each_sign_of_work_keeps_it_whatever_else_is_so(fact, state, why):
    """Seen to fail: without the reason's line in `_reasons`."""
    for more in ({}, {"own_commits": True}, {"present": False}):
        verdict = judge(PLACE, Facts(**(IDLE | more | fact)))
        assert (verdict.state, verdict.kept) == (state, why)


@pytest.mark.parametrize(("first", "second"), list(itertools.combinations(range(len(KEPT)), 2)))
def test_of_two_reasons_the_first_is_said(first, second):
    facts = Facts(**(IDLE | KEPT[second][0] | KEPT[first][0]))
    assert judge(PLACE, facts).state is KEPT[first][1]


@pytest.mark.parametrize(("fact", "state"), FREE)
def test_what_is_of_no_more_use_may_go_but_only_if_it_is_ours(fact, state):
    assert judge(PLACE, Facts(**(IDLE | fact))).kept is None
    verdict = judge(PLACE, Facts(**(IDLE | fact | {"recorded": False})))
    assert (verdict.state, verdict.kept) == (state, "no session on record here ran in it")


def test_a_detached_head_and_a_reason_to_lock_are_named():
    assert "no branch is checked out" in judge(PLACE, Facts(recorded=True)).kept
    assert judge(PLACE, Facts(**IDLE, locked="on a stick")).kept == "it is locked: on a stick"


@pytest.mark.parametrize(
    ("path", "branch", "ours"),
    [
        ("/r/proj-worktrees/fix", "hapi-fix", True),
        ("/r/proj-worktrees/fix", "fix", False),
        ("/r/proj-worktrees/fix", "hapi-other", False),
        ("/r/proj-worktrees/deep/fix", "hapi-fix", False),
        ("/r/other-worktrees/fix", "hapi-fix", False),
        ("/r/proj-worktrees/", "hapi-", False),
        ("/r/fix", "hapi-fix", False),
    ],
)
def test_what_looks_like_ours(path, branch, ours):
    assert looks_like_ours(path, branch, "/r/proj") is ours
