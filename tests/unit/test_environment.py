"""What an agent gets to see of the environment."""

import pytest

from hapi.ids import SESSION_MARK
from hapi.wire import WorktreeInfo
from hapi.workers.supervisor.environment import agent_environment

BASE = {
    "PATH": "/bin",
    "EMPTY": "",
    "HAPI_HOME": "/h",
    "HAPI_NAMESPACE": "work",
    "HAPI_API_URL": "http://hub",
    "HAPI_DEMO_DELAY_MS": "0",
}
SECRETS = {
    "CLI_API_TOKEN": "canary",
    "HAPI_EXTRA_HEADERS_JSON": '{"x":"canary"}',
    "HAPI_TOKEN_OF_TOMORROW": "canary",
    "HAPI_RUNNER_SUPERVISED": "1",
    "NOTIFY_SOCKET": "/run/systemd",
    "LISTEN_FDS": "1",
    "LISTEN_PID": "2",
}


def test_trap_17_our_secrets_stay_with_us():
    environment = agent_environment(BASE | SECRETS, "id", {}, None)
    assert environment == BASE | {SESSION_MARK: "id"}
    assert "canary" not in str(environment)


@pytest.mark.parametrize("name", SECRETS)
def test_what_the_settings_ask_for_is_given(name):
    assert agent_environment(BASE | SECRETS, "id", {name: "mine"}, None)[name] == "mine"


def test_an_inherited_mark_is_replaced():
    assert agent_environment({SESSION_MARK: "another session"}, "id", {}, None) == {SESSION_MARK: "id"}


def test_a_worktree_is_described():
    worktree = WorktreeInfo("/p", "hapi-fix", "fix", "/p-worktrees/fix", 17)
    found = agent_environment({"HAPI_WORKTREE_PATH": "/old"}, "id", {}, worktree)
    assert {key: value for key, value in found.items() if "WORKTREE" in key} == {
        "HAPI_WORKTREE_BASE_PATH": "/p",
        "HAPI_WORKTREE_BRANCH": "hapi-fix",
        "HAPI_WORKTREE_NAME": "fix",
        "HAPI_WORKTREE_PATH": "/p-worktrees/fix",
        "HAPI_WORKTREE_CREATED_AT": "17",
    }
    assert "HAPI_WORKTREE_PATH" not in agent_environment({"HAPI_WORKTREE_PATH": "/old"}, "id", {}, None)


def test_nothing_given_is_changed():
    base, extra = dict(BASE | SECRETS), {"A": "b"}
    agent_environment(base, "id", extra, None)
    assert (base, extra) == (BASE | SECRETS, {"A": "b"})
