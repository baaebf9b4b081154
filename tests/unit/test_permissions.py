"""What is allowed without asking, and which option says so."""

import itertools

import pytest

from hapi.workers.supervisor.permissions import automatic, choose, outcome

MODES = (None, "", "default", "read-only", "safe-yolo", "yolo", "acceptEdits", "bypassPermissions", "always-proceed",
         "plan", "ask", "YOLO", "from the future")  # fmt: skip
KINDS = (None, "read", "search", "think", "fetch", "edit", "delete", "move", "execute", "other", "switch_mode", "")
ALL = ("yolo", "bypassPermissions", "always-proceed")


def expected(mode, kind):
    if mode in ALL:
        return "approved_for_session"
    if mode == "safe-yolo":
        return "approved"
    table = {"read-only": ("read", "search", "think", "fetch"), "acceptEdits": ("edit", "delete", "move")}
    return "approved" if kind in table.get(mode, ()) else None


@pytest.mark.parametrize(("mode", "kind"), list(itertools.product(MODES, KINDS)))
def test_every_mode_and_kind(mode, kind):
    assert automatic(mode, kind) == expected(mode, kind)
    assert automatic(mode, kind, allowed_before=True) == "approved_for_session"


def options(*kinds):
    return [{"optionId": f"id-{kind}", "kind": kind, "name": kind} for kind in kinds]


FULL = options("reject_always", "reject_once", "allow_always", "allow_once")


@pytest.mark.parametrize(
    ("offered", "decision", "chosen"),
    [
        (FULL, "approved", "id-allow_once"),
        (FULL, "approved_for_session", "id-allow_always"),
        (FULL, "denied", "id-reject_once"),
        (FULL, "abort", None),
        (options("allow_always"), "approved", "id-allow_always"),
        (options("allow_once"), "approved_for_session", "id-allow_once"),
        (options("reject_always"), "denied", "id-reject_always"),
        (options("allow_once"), "denied", None),
        (options("reject_once"), "approved", None),
        ([], "approved", None),
        ([{}, {"kind": "allow_once"}, {"kind": "allow_once", "optionId": 5}], "approved", None),
        ([{"kind": "allow_once", "optionId": 5}, *FULL], "approved", "id-allow_once"),
        ([{"optionId": "allow_once", "kind": "from the future"}], "approved", None),
    ],
)
def test_options_by_kind(offered, decision, chosen):
    assert choose(offered, decision) == chosen
    answer = outcome(offered, decision)["outcome"]
    wanted = {"outcome": "cancelled"} if chosen is None else {"outcome": "selected", "optionId": chosen}
    assert answer == wanted


@pytest.mark.parametrize("decision", ["denied", "abort"])
def test_a_no_never_chooses_a_yes(decision):
    for count in range(len(FULL) + 1):
        for offered in itertools.permutations(FULL, count):
            assert "allow" not in str(choose(list(offered), decision))
