"""What is allowed without asking, and which option says so."""

import itertools

import pytest

from hapi.workers.supervisor.permissions import automatic, choose, grants_all, grants_no_more, harmless, outcome

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
    assert automatic(mode, kind, allowed_before=True) == (expected(mode, kind) or "approved")


@pytest.mark.parametrize("kind", KINDS)
def test_plan_denies_what_writes_where_that_is_on_us(kind):
    wanted = None if kind in {"read", "search", "think", "fetch"} else "denied"
    assert automatic("plan", kind, plan_denies=True) == wanted
    allowed = automatic("plan", kind, allowed_before=True, plan_denies=True)
    assert allowed == (wanted or "approved")
    assert automatic("default", kind, plan_denies=True) is None
    assert automatic("yolo", kind, plan_denies=True) == "approved_for_session"


@pytest.mark.parametrize("tool", ["change_title", "mcp__hapi__change_title", " Think ", "save_memory", "list_peers"])
@pytest.mark.parametrize("mode", [None, "default", "read-only", "acceptEdits", "plan"])
def test_nobody_is_asked_for_what_only_concerns_the_conversation(mode, tool):
    assert automatic(mode, "other", tool, plan_denies=True) == "approved"
    assert automatic(mode, None, tool) == "approved"
    assert automatic(mode, "execute", tool) is None, "a command may have any title"
    assert automatic(mode, "other", f"{tool.strip()} now") is None


@pytest.mark.parametrize("tool", ["", "/tmp/think", "rm__x", "think; rm -rf", "rethink"])
def test_a_name_that_only_looks_harmless_is_not(tool):
    assert not harmless(tool, None)


def test_who_is_never_asked():
    assert [mode for mode in MODES if grants_all(mode)] == ["safe-yolo", "yolo", "bypassPermissions", "always-proceed"]


@pytest.mark.parametrize(("mode", "than"), list(itertools.product(MODES, MODES)))
def test_a_mode_grants_no_more_when_all_that_it_lets_pass_passed_before(mode, than):
    more = [kind for kind in KINDS if expected(mode, kind) and not expected(than, kind)]
    assert grants_no_more(mode, than) is not bool(more)


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
