"""What was allowed for the session covers that, and nothing beside it."""

import pytest

from hapi.workers.supervisor.acp_tools import name
from hapi.workers.supervisor.allowances import Allowances


@pytest.mark.parametrize(
    ("rule", "tool", "arguments", "allowed"),
    [
        ("Edit", "Edit", {"file_path": "/f"}, True),
        ("Edit", "Write", {"file_path": "/f"}, False),
        ("Bash", "Bash", {"command": "rm -r /"}, True),
        ("Bash(git status)", "Bash", {"command": "git status"}, True),
        ("Bash(git status)", "Bash", {"command": "git status -v"}, False),
        ("Bash(git status)", "Bash", {}, False),
        ("Bash(git status)", "Bash(git status)", {}, False),
        ("Bash(git status)", "Shell", {"command": "git status"}, False),
        ("Bash(git add:*)", "Bash", {"command": "git add a b"}, True),
        ("Bash(git add:*)", "Bash", {"command": "git add"}, True),
        ("Bash(git add:*)", "Bash", {"command": "git address"}, False),
        ("Bash(git add:*)", "Bash", {"command": "git add a; rm b"}, False),
        ("Bash(git add:*)", "Bash", {"command": "git add $(rm b)"}, False),
        ("Bash(git add:*)", "Bash", {"command": "git add *(e:rm:)"}, False),
        ("Bash(git add:*)", "Bash", {"command": "git add a\nrm b"}, False),
        ("Bash(git add:*)", "Bash", {"command": "git add a >b"}, False),
        ("Bash(git add:*)", "Bash", {"command": "git add " + "a" * 40_000}, False),
        ("Bash(echo (a))", "Bash", {"command": "echo (a)"}, True),
        ("Bash(two\nlines)", "Bash", {"command": "two\nlines"}, True),
        ("Bash()", "Bash", {"command": "ls"}, False),
    ],
)
def test_rules(rule, tool, arguments, allowed):
    allowances = Allowances()
    assert not allowances.allows(tool, arguments)
    allowances.add(rule)
    assert allowances.allows(tool, arguments) is allowed


@pytest.mark.parametrize(
    ("arguments", "other"),
    [({"command": "ls"}, {"command": "rm"}), ({"command": ["ls", "a"]}, {"command": ["ls", "b"]}), ({"cmd": "x"}, {})],
)
def test_a_call_that_runs_a_command_allows_that_command_only(arguments, other):
    allowances = Allowances()
    allowances.add_call("Bash", arguments)
    assert allowances.allows("Bash", arguments)
    assert not allowances.allows("Bash", other)


def test_a_call_that_runs_none_allows_its_tool():
    allowances = Allowances()
    allowances.add_call("Edit", {"file_path": "/a"})
    assert allowances.allows("Edit", {"file_path": "/b"})


@pytest.mark.parametrize(
    ("arguments", "other"),
    [
        ({}, {"command": "rm"}),
        ("… it was cut …", "… it was cut …"),
        ({"command": ["ls", 1]}, {"command": ["ls", 1]}),
        ({"command": "x" * 48_001}, {"command": "x" * 48_001}),
        ({"command": ["x" * 30_000] * 2}, {"command": ["x" * 30_000] * 2}),
        ({"command": "bash:*"}, {"command": "bash -c x"}),
    ],
)
def test_a_call_never_allows_what_may_be_another_command(arguments, other):
    """One that was cut allowed its whole tool, and one without a command all the commands of its tool."""
    allowances = Allowances()
    allowances.add_call("Bash", arguments)
    assert not allowances.allows("Bash", other)


def test_a_name_that_was_cut_is_not_remembered():
    allowances = Allowances()
    allowances.add_call(name({"title": "x" * 9_000}), {})
    assert not allowances.allows(name({"title": "x" * 9_000}), {})
