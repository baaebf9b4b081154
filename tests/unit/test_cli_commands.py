"""The commands against a broker that answers what the test wants: exit status, stdout, stderr."""

import json
import os
import sys

import pytest

from hapi import config, wire
from hapi.cli import app, spawn
from hapi.ids import session_id
from hapi.lifecycle import Phase
from tests.unit.test_cli_fake import SESSION, FakeBroker, ended, session, status


@pytest.fixture(autouse=True)
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HAPI_HOME", str(tmp_path / "h"))
    for name in ("CLI_API_TOKEN", "HAPI_NAMESPACE", "HAPI_API_URL", "HAPI_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return config.load().paths


@pytest.fixture
def hapi(capsys):
    def run(*words):
        code = app.run(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return run


def answers(**replies):
    """By the name of the request."""
    return lambda body: replies.get(type(body).__name__, status())


def test_list_as_text(hapi, paths):
    with FakeBroker(paths, answers(ListSessions=wire.SessionList([session()]))):
        code, out, err = hapi("runner", "list")
    assert (code, err) == (0, "")
    heading, row = out.splitlines()
    assert heading.split() == ["ID", "AGENT", "DIRECTORY", "PHASE", "PID", "STARTED", "BY", "AGE", "MEMORY"]
    assert row.startswith(f"{SESSION}  demo   /home/u/proj  idle   {os.getpid()}")


def test_list_as_json_is_the_contract(hapi, paths):
    with FakeBroker(paths, answers(ListSessions=wire.SessionList([session()]))) as broker:
        code, out, _ = hapi("runner", "list", "--json")
    (found,) = json.loads(out)
    assert code == 0
    assert found.pop("memoryBytes") > 1_000_000
    assert found == {
        "sessionId": SESSION,
        "agent": "demo",
        "directory": "/home/u/proj",
        "phase": "idle",
        "pid": os.getpid(),
        "agentPid": 999_999,
        "startedBy": "runner",
        "startedAt": "2023-11-14T22:13:20.000Z",
        "namespace": "default",
        "unknownMessages": 0,
        "eventsLost": 0,
        "driver": "acp",
        "title": None,
        "queued": 0,
        "lastWords": None,
    }
    assert broker.asked == [wire.ListSessions(ended=False)]


def test_list_of_ended_sessions(hapi, paths):
    with FakeBroker(paths, answers(ListSessions=wire.SessionList([ended()]))) as broker:
        _, out, _ = hapi("runner", "list", "--ended", "--json")
    (found,) = json.loads(out)
    assert broker.asked == [wire.ListSessions(ended=True)]
    assert (found["phase"], found["reason"], found["memoryBytes"]) == ("ended", "stopped by user", 0)
    assert found["endedAt"] == "2023-11-14T22:14:20.000Z"


def test_list_of_nothing(hapi, paths):
    with FakeBroker(paths, answers(ListSessions=wire.SessionList([]))):
        assert hapi("runner", "list")[:2] == (0, "No active sessions\n")
        assert hapi("runner", "list", "--json")[:2] == (0, "[]\n")


def test_list_without_a_runner(hapi):
    code, out, err = hapi("runner", "list")
    assert (code, out) == (3, "")
    assert err.startswith("Error: The runner is not running")
    assert "Hint: Start it: hapi runner start" in err
    code, out, err = hapi("runner", "list", "--json")
    assert (code, err) == (3, "")
    assert json.loads(out)["error"]["code"] == "not_running"


def test_all_namespaces(hapi, paths):
    work = config.load("work").paths
    mine = answers(ListSessions=wire.SessionList([session()]))
    theirs = answers(ListSessions=wire.SessionList([session(namespace="work")]), GetStatus=status(namespace="work"))
    with FakeBroker(work, theirs):
        code, out, _ = hapi("runner", "list", "--all")
        assert code == 0
        assert out.splitlines()[1].startswith("work")
        with FakeBroker(paths, mine):
            found = json.loads(hapi("runner", "list", "--all", "--json")[1])
            assert [one["namespace"] for one in found] == ["default", "work"]
        code, out, _ = hapi("runner", "status", "--all", "--json")
        assert code == 0
        assert [one["running"] for one in json.loads(out)] == [False, True]
    assert hapi("runner", "list", "--all")[0] == 3
    assert hapi("runner", "status", "--all")[0] == 3


def test_a_namespace_may_be_named_before_or_after(hapi):
    work = config.load("work").paths
    with FakeBroker(work, answers(ListSessions=wire.SessionList([]))):
        assert hapi("--namespace", "work", "runner", "list")[0] == 0
        assert hapi("runner", "list", "--namespace=work")[0] == 0
        assert hapi("runner", "list")[0] == 3


def test_status_as_json_is_the_contract(hapi, paths):
    with FakeBroker(paths, lambda _: status()):
        code, out, _ = hapi("runner", "status", "--json")
    found = json.loads(out)
    assert code == 0
    promised = "running pid version installedVersion namespace endpoint startedAt lastHeartbeat logPath hub workers"
    assert set(f"{promised} sessions verdicts counters".split()) <= found.keys()
    assert found["running"] is True
    assert found["hub"]["url"] == "http://localhost:3006"
    assert found["hub"]["online"] is True
    assert found["workers"]["reaper"] == {"pid": None, "restarts": 9, "memoryBytes": 0, "failed": "boom"}
    assert found["counters"] == {"unroutable": 3}


def test_status_as_text(hapi, paths):
    refused = wire.HubStatus(url="http://h", refused=True, reason="token not accepted")
    with FakeBroker(paths, lambda _: status(version="9.9.9", hub=refused, warnings=["disk\x1b[2J full"])):
        code, out, _ = hapi("runner", "status")
    assert code == 0
    assert "9.9.9 (installed: " in out
    assert "http://h refused: token not accepted" in out
    assert "3 unroutable" in out
    assert "boom" in out
    assert "Warning: disk?[2J full" in out


def test_status_without_a_runner_tells_what_is_known(hapi, paths):
    paths.make_private()
    paths.state.write_text('{"pid": 12, "lastHeartbeat": "2026-01-01T00:00:00Z"}')
    code, out, _ = hapi("runner", "status")
    assert code == 3
    assert "not running" in out
    assert "2026-01-01T00:00:00Z" in out
    found = json.loads(hapi("runner", "status", "--json")[1])
    assert found["running"] is False
    assert found["reason"]
    assert found["lastKnown"]["pid"] == 12


def test_spawn_sends_what_was_asked(hapi, paths, tmp_path, monkeypatch):
    monkeypatch.setenv("CLI_API_TOKEN", "canary")
    monkeypatch.chdir(tmp_path)
    with FakeBroker(paths, answers(Spawn=wire.Spawned(session()))) as broker:
        code, out, _ = hapi(
            "runner", "spawn", ".", "--agent", "demo", "--model", "m", "--yolo", "--worktree", "--", "--json", "a b"
        )
    order = broker.asked[-1]
    assert (code, out) == (0, f"{SESSION}\n")
    assert (order.directory, order.agent, order.model, order.yolo) == (str(tmp_path), "demo", "m", True)
    assert (order.worktree, order.args, order.started_by) == ("", ["--json", "a b"], "terminal")
    assert order.env["PATH"] == os.environ["PATH"]
    assert "CLI_API_TOKEN" not in order.env
    assert "canary" not in str(order.env)


def test_spawn_as_json_and_with_an_id(hapi, paths, tmp_path):
    with FakeBroker(paths, answers(Spawn=wire.Spawned(session(), existing=True))) as broker:
        code, out, _ = hapi("runner", "spawn", str(tmp_path), "--id", SESSION.upper(), "--json")
    found = json.loads(out)
    assert code == 0
    assert broker.asked[-1].session_id == SESSION
    assert broker.asked[-1].agent == "claude"
    assert {"sessionId", "pid", "agentPid", "directory", "agent", "phase"} <= found.keys()
    assert found["existing"] is True


def test_spawn_takes_the_default_agent_of_the_settings(paths):
    paths.make_private()
    paths.settings.write_text('{"defaultAgent": "codex"}')
    assert spawn.default_agent(paths) == "codex"
    assert spawn.default_agent(config.load("work").paths) == "codex"


def test_spawn_into_nowhere(hapi, tmp_path):
    code, _, err = hapi("runner", "spawn", str(tmp_path / "missing"))
    assert code == 1
    assert "does not exist" in err
    assert "mkdir -p" in err


def test_spawn_with_a_bad_id(hapi, tmp_path):
    assert hapi("runner", "spawn", str(tmp_path), "--id", "nope")[0] == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["DIR", "--worktree"], ["DIR", "--worktree="]),
        (["DIR", "--worktree", "fix"], ["DIR", "--worktree=fix"]),
        (["--worktree", "fix", "DIR"], ["--worktree=fix", "DIR"]),
        (["--worktree", "."], ["--worktree=", "."]),
        (["--worktree", "~/p"], ["--worktree=", "~/p"]),
        (["--worktree", "/p"], ["--worktree=", "/p"]),
        (["--worktree", "a/b"], ["--worktree=", "a/b"]),
        (["--worktree", "--yolo", "DIR"], ["--worktree=", "--yolo", "DIR"]),
        (["--worktree=x", "DIR"], ["--worktree=x", "DIR"]),
        (["DIR"], ["DIR"]),
    ],
)
def test_worktree_with_and_without_a_name(words, expected):
    assert spawn.name_worktree(words) == expected


@pytest.mark.parametrize(
    ("words", "worktree"), [([], None), (["--worktree"], ""), (["--worktree", "fix"], "fix"), (["--worktree="], "")]
)
def test_worktree_reaches_the_broker(hapi, paths, tmp_path, words, worktree):
    with FakeBroker(paths, answers(Spawn=wire.Spawned(session()))) as broker:
        assert hapi("runner", "spawn", str(tmp_path), *words)[0] == 0
    assert broker.asked[-1].worktree == worktree


@pytest.mark.parametrize(("word", "code"), [("stopped", 0), ("already_gone", 0), ("still_alive", 1)])
def test_stop_session(hapi, paths, word, code):
    reply = wire.SessionStopped(word, SESSION, "kill", survivors=[7] if code else [])
    with FakeBroker(paths, answers(StopSession=reply)) as broker:
        result, out, err = hapi("runner", "stop-session", "PID-7")
        assert (result, out) == (code, f"{word} (kill)\n")
        assert ("Still alive: 7" in err) == bool(code)
        found = json.loads(hapi("runner", "stop-session", "1f0c", "--json")[1])
    assert (found["status"], found["rung"]) == (word, "kill")
    assert broker.asked[-1] == wire.StopSession("1f0c")


def test_an_error_of_the_broker(hapi, paths):
    failure = wire.Failure("ambiguous_session", "Two sessions begin with '1'.", "Say more of it.")
    with FakeBroker(paths, answers(StopSession=failure)):
        code, out, err = hapi("runner", "stop-session", "1")
        assert (code, out, err) == (1, "", "Error: Two sessions begin with '1'.\nHint: Say more of it.\n")
        code, out, _ = hapi("runner", "stop-session", "1", "--json")
    assert code == 1
    assert json.loads(out) == {
        "error": {"code": "ambiguous_session", "message": "Two sessions begin with '1'.", "hint": "Say more of it."}
    }


def test_send(hapi, paths, monkeypatch):
    with FakeBroker(paths, answers(SendText=wire.Accepted())) as broker:
        code, out, err = hapi("send", "1f0c", "run the tests")
        assert (code, out, err) == (0, "", "Sent.\n")
        first = broker.asked[-1]
        assert (first.target, first.text) == ("1f0c", "run the tests")
        hapi("send", "1f0c", "run the tests", "--id", "k1")
        assert (broker.asked[-1].id, first.id) == ("k1", session_id(first.id))
        assert hapi("send", "1f0c", "  ")[0] == 2


def test_stop_tells_how_many_live_on(hapi, paths, monkeypatch):
    gone = wire.RunnerStopping(sessions=2)
    monkeypatch.setattr("hapi.procs.identity", lambda _: None)
    replies = answers(StopRunner=gone)
    with FakeBroker(paths, replies) as broker:
        code, _, err = hapi("runner", "stop")  # the fake holds the lock on, and is nobody we may signal
        assert code == 1
        assert "nothing was done" in err
        assert broker.asked[-1] == wire.StopRunner()
    assert hapi("runner", "stop")[:2] == (0, "The runner is not running.\n")


def test_a_bare_hapi_needs_a_terminal(hapi):
    code, out, err = hapi()
    assert (code, out) == (2, "")
    assert "hapi runner spawn" in err


@pytest.mark.parametrize("words", [["runner", "spwan"], ["runner", "list", "--nope"], ["nope"], ["runner", "spawn"]])
def test_wrong_usage(hapi, words):
    code, out, err = hapi(*words)
    assert (code, out) == (2, "")
    assert "Error:" in err
    code, out, err = hapi(*words, "--json")
    assert (code, err) == (2, "")
    assert json.loads(out)["error"]["code"] == "usage"


def test_a_bad_variable_is_named(hapi, monkeypatch):
    monkeypatch.setenv("HAPI_RUNNER_HTTP_TIMEOUT", "soon")
    code, _, err = hapi("runner", "status")
    assert code == 1
    assert "HAPI_RUNNER_HTTP_TIMEOUT" in err


def test_what_we_did_not_foresee_is_our_fault(hapi, monkeypatch):
    def broken(*_args, **_keywords):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("hapi.cli.sessions.load", broken)
    code, _, err = hapi("runner", "list")
    assert code == 4
    assert "ZeroDivisionError: by zero" in err
    assert "HAPI_DEBUG=1" in err
    assert "Traceback" not in err
    monkeypatch.setenv("HAPI_DEBUG", "1")
    assert "Traceback" in hapi("runner", "list")[2]


def test_an_interrupt_is_130(hapi, monkeypatch):
    def interrupted(*_args, **_keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr("hapi.cli.sessions.load", interrupted)
    assert hapi("runner", "list")[0] == 130


COMMANDS = [
    [],
    ["hub"],
    ["send"],
    ["doctor"],
    ["doctor", "clean"],
    *[["auth", name] for name in ("login", "status", "logout")],
    *[["runner", name] for name in ("start", "start-sync", "stop", "restart", "status", "logs")],
    *[["runner", name] for name in ("list", "spawn", "stop-session", "install", "uninstall")],
]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_examples(hapi, words):
    code, out, _ = hapi(*words, "--help")
    assert code == 0
    assert "Examples:" in out


def test_the_environment_goes_along_without_what_is_no_text(monkeypatch):
    monkeypatch.setitem(os.environ, "ODD", b"\xff".decode(errors="surrogateescape"))
    sent = spawn.environment()
    assert "ODD" not in sent
    assert "PATH" in sent


def test_memory_of_a_session_that_is_gone_is_nothing():
    from hapi.cli.sessions import memory

    assert memory(session(supervisor=None)) == 0
    assert memory(session(phase=Phase.ENDED)) == 0


def test_windows_gets_one_sentence(monkeypatch, capsys):
    from hapi.__main__ import main

    monkeypatch.setattr(sys, "platform", "win32")
    assert main(["runner", "list"]) == 1
    assert "WSL" in capsys.readouterr().err


LEAVING = wire.Failure("shutting_down", "The runner stopped.", "Start it again: hapi runner start")


def test_a_runner_that_leaves_is_asked_again_where_that_is_safe(hapi, paths):
    replies = iter([LEAVING, wire.SessionStopped("stopped", SESSION, "eof")])
    with FakeBroker(paths, lambda body: next(replies) if isinstance(body, wire.StopSession) else status()) as broker:
        code, out, _ = hapi("runner", "stop-session", SESSION)
    assert (code, out) == (0, "stopped (eof)\n")
    assert [type(body).__name__ for body in broker.asked] == ["StopSession", "GetStatus", "StopSession"]


def test_a_message_is_not_sent_twice(hapi, paths):
    """A supervisor from before the messages' keys would say it twice."""
    with FakeBroker(paths, answers(SendText=LEAVING)) as broker:
        code, _, err = hapi("send", SESSION, "hello")
    assert (code, "The runner stopped." in err) == (1, True)
    assert [type(body).__name__ for body in broker.asked] == ["SendText"]


@pytest.mark.parametrize(("recorded", "asked"), [("0.0.1", True), ("99.0", False), ("nonsense", False), (None, False)])
def test_the_report_tells_whether_the_runner_may_be_outdated(hapi, paths, recorded, asked):
    """Only then is there a second question before the command's own."""
    with FakeBroker(paths, answers(ListSessions=wire.SessionList([]))) as broker:
        if recorded is not None:
            paths.state.write_text(json.dumps({"startedWithCliVersion": recorded}))
        assert hapi("runner", "list")[0] == 0
    assert [type(body).__name__ for body in broker.asked] == ["GetStatus"] * asked + ["ListSessions"]


def test_status_says_how_the_runner_stands_with_an_upgrade(hapi, paths):
    handoff = wire.HandoffStatus(installed_version="9", installed_fingerprint="f", recent=1, reason="no", again_at=0)
    with FakeBroker(paths, answers(GetStatus=status(protocol=2, handoff=handoff))):
        text = hapi("runner", "status")[1]
        found = json.loads(hapi("runner", "status", "--json")[1])
    assert "hapi/1, level 2" in text
    assert "tripped after 1 handoff, on again at 1970-01-01T00:00:00.000Z" in text
    assert found["handoff"] == {
        "installedVersion": "9",
        "installedFingerprint": "f",
        "recent": 1,
        "reason": "no",
        "againAt": "1970-01-01T00:00:00.000Z",
    }
    with FakeBroker(paths, answers(GetStatus=status(handoff=handoff, handoff_disabled=True))):
        assert "off (HAPI_DISABLE_VERSION_HANDOFF)" in hapi("runner", "status")[1]
    with FakeBroker(paths, answers()):
        assert json.loads(hapi("runner", "status", "--json")[1])["handoff"] is None
