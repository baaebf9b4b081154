"""Commands that are answered without a parser: the same answer, and only where every word is understood."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hapi import config, wire
from hapi.__main__ import main
from hapi.cli import app, quick, words
from hapi.cli.scope import state
from hapi.errors import ErrorCode, HapiError
from tests.unit.test_cli_fake import SESSION, FakeBroker, session, status

QUICK = [
    ["runner", "list"],
    ["runner", "list", "--json"],
    ["runner", "list", "--ended", "--all"],
    ["runner", "list", "--json", "--json"],
    ["runner", "status"],
    ["runner", "status", "--json", "--all"],
    ["runner", "stop-session", SESSION],
    ["runner", "stop-session", "--json", SESSION],
    ["runner", "stop"],
    ["runner", "stop", "--json"],
    ["runner", "--namespace", "work", "list"],
    ["--namespace=work", "runner", "list", "--json"],
    ["runner", "list", "--namespace", "no such name", "--json"],
    ["--namespace", "a", "runner", "list", "--namespace=b"],
    ["runner", "list", "--namespace="],
    ["runner", "list", "--namespace", "--json"],
    ["runner", "list", "--namespace", "--"],
    ["runner", "--namespace", "runner", "list"],
    ["runner", "stop-session", ""],
]
FOR_THE_PARSER = [
    [],
    ["runner"],
    ["runner", "list", "-h"],
    ["runner", "list", "--nope"],
    ["runner", "list", "more"],
    ["runner", "list", "--"],
    ["runner", "stop-session"],
    ["runner", "stop-session", "a", "b"],
    ["runner", "stop-session", "--", "-a"],
    ["runner", "start", "--workspace-root", "/srv"],
    ["runner", "list", "--namespace"],
    ["--version", "runner", "list"],
    ["claude", "runner", "list"],
    ["send", "a", "b"],
]


@pytest.fixture(autouse=True)
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HAPI_HOME", str(tmp_path / "h"))
    for name in ("CLI_API_TOKEN", "HAPI_NAMESPACE", "HAPI_API_URL", "HAPI_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    return config.load().paths


def answers(body):
    known = {"ListSessions": wire.SessionList([session()]), "StopSession": wire.SessionStopped("still_alive", SESSION)}
    return known.get(type(body).__name__, status(pid=0))


def both(line, capsys):
    """Exit status, stdout and stderr, as we give them and as the parser does."""
    assert quick.prepared(line) is not None
    told = []
    for command in (main, app.run):
        code = command(line)
        told.append((code, *capsys.readouterr()))
    return told


@pytest.mark.parametrize("line", [line for line in QUICK if "stop-session" not in line], ids=" ".join)
def test_without_a_runner_the_answer_is_the_parsers(line, capsys):
    """A session is not stopped without a runner: one is started for it."""
    ours, theirs = both(line, capsys)
    assert ours == theirs


@pytest.mark.parametrize("line", [line for line in QUICK if line[:2] != ["runner", "stop"]], ids=" ".join)
def test_with_a_runner_the_answer_is_the_parsers(line, paths, capsys, monkeypatch):
    monkeypatch.setattr("hapi.procs.memory_bytes", lambda _: 4096)
    with FakeBroker(paths, answers):
        ours, theirs = both(line, capsys)
    assert ours == theirs


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt, BrokenPipeError, RuntimeError, HapiError(ErrorCode.DISK, "Full.")]
)
def test_what_goes_wrong_is_told_as_the_parser_tells_it(error, paths, capsys, monkeypatch):
    def fails(*_):
        raise error

    monkeypatch.setattr("hapi.cli.output.Progress.__call__", fails)
    monkeypatch.setattr("os.dup2", lambda *_: None)  # the standard output is pytest's
    with FakeBroker(paths, lambda _: None):
        ours, theirs = both(["runner", "list", "--json"], capsys)
    assert ours == theirs
    assert ours[0] == (130 if error is KeyboardInterrupt else ours[0]) != 0


@pytest.mark.parametrize("line", FOR_THE_PARSER, ids=" ".join)
def test_anything_else_is_left_to_the_parser(line):
    assert quick.prepared(line) is None


COMMANDS = {
    "hapi.cli.sessions": ("show_list", "stop_session"),
    "hapi.cli.status": ("show", "show_all"),
    "hapi.cli.running": ("start", "stop"),
    "hapi.cli.stop_all": ("run",),
}
SAID = [[word] for word in ("--json", "--all", "--ended", "--namespace", "--namespace=", "w", "", "-", "--", "-h")]
NAMESPACES = [["--namespace", "a"], ["--namespace", "b"], ["--namespace=c"]]
LINES = st.tuples(
    st.lists(st.sampled_from(NAMESPACES), max_size=1),
    st.sampled_from([["runner", command] for command in sorted(quick._SWITCHES)]),
    st.lists(st.sampled_from(NAMESPACES + SAID), max_size=4),
).map(lambda parts: [word for words_ in [*parts[0], parts[1], *parts[2]] for word in words_])


@given(LINES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300, deadline=None)
def test_whatever_is_understood_is_understood_as_the_parser_does(paths, line):
    """Seen to fail: with the first `--namespace` counting, with `--all` beside a session, with `--` passed over."""
    called = []

    def recorded(name):
        return lambda *given, **named: called.append((name, *map(str, given), named, state.namespace)) or 0

    with pytest.MonkeyPatch.context() as patch:
        for module, names in COMMANDS.items():
            for name in names:
                patch.setattr(f"{module}.{name}", recorded(f"{module}.{name}"))
        if quick.prepared(line) is not None:
            ours, count = main(line), len(called)
            assert app.run(line) == ours
            assert called[:count] == called[count:]
            assert count == (ours == 0), "a wrong namespace is all that ends it before it begins"


def test_it_knows_no_switch_that_the_parser_does_not():
    for command, switches in quick._SWITCHES.items():
        known = words.COMMANDS[f"runner {command}"]
        assert switches <= {name for name, (value, _) in known.options.items() if value is None}
        assert (command in quick._TAKE_A_SESSION) == bool(known.arguments)


def test_stopping_all_sessions_is_quick_too():
    assert quick.prepared(["runner", "stop-session", "--all"]) is not None
    assert quick.prepared(["runner", "stop-session", "--all", "1f0c"]) is None


def test_what_msgspec_is_spared_is_there_for_others():
    code = (
        "import sys; from hapi import lean; lean.import_msgspec(); assert 'msgspec' in sys.modules;"
        "assert 'typing_extensions' not in sys.modules; import typing_extensions; typing_extensions.Self"
    )
    subprocess.run([sys.executable, "-c", code], timeout=30, check=True)
