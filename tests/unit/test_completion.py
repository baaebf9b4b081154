"""Completion: the table of words is the command line's own, what is offered fits, and it is quick.

`HAPI_REGOLD=1 pytest tests/unit/test_completion.py` writes the table anew.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from typer.main import get_command

from hapi.cli import app, logs, words
from hapi.cli.complete import offers, sessions
from hapi.cli.words import Words
from hapi.lifecycle import Phase
from hapi.wire import SessionInfo
from tests.conftest import skip_or_fail

ROOT = Path(__file__).resolve().parents[2]
LIVE = {"send", "wait", "attach", "runner stop-session"}
FIRST, SECOND, THIRD = (
    "1f0c22ab-0000-4000-8000-000000000001",
    "2f0c22ab-0000-4000-8000-000000000002",
    "2f0c22ab-1000-4000-8000-000000000003",
)


# --------------------------------------------------------------------------------------------- the table of words


def walked():
    """The table, from the command line itself."""
    found = {}

    def walk(command, path):
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and not getattr(p, "hidden", False)]
        found[path] = Words(
            what=first_sentence(command.help),
            options={name: (kind(p, path), first_sentence(p.help)) for p in options for name in p.opts if listed(name)},
            arguments=tuple(kind(p, path) or "" for p in arguments),
        )
        for name, child in getattr(command, "commands", {}).items():
            if not child.hidden:
                walk(child, f"{path} {name}".strip())

    walk(get_command(app.app), "")
    return found


def first_sentence(text):
    return re.split(r"(?<=[.:;]) |\n\n", (text or "").replace("\n", " ").strip())[0].rstrip(".:;")


def listed(name):
    return name not in {"--install-completion", "--show-completion", "--help", "-h"}


def kind(parameter, path):
    if getattr(parameter, "is_flag", False):
        return None
    if getattr(parameter.type, "choices", None):
        return " ".join(["choice", *map(str, parameter.type.choices)])
    if parameter.name == "worker":
        return " ".join(["choice", *logs.WORKERS])
    if parameter.metavar in {"ID", "[ID]"} or parameter.name == "session":
        return "live" if path in LIVE else "session"
    return {"agent": "agent", "namespace": "namespace"}.get(parameter.name, "text")


def test_the_table_is_the_command_line_s_own():
    wanted = walked()
    if os.environ.get("HAPI_REGOLD") == "1":
        write(wanted)
        return
    assert wanted == words.COMMANDS, "HAPI_REGOLD=1 pytest tests/unit/test_completion.py"


def write(table):
    path = Path(words.__file__)
    lines = [
        f"    {key!r}: Words({entry.what!r}, {entry.options!r}, {entry.arguments!r}),\n" for key, entry in table.items()
    ]
    head = path.read_text().partition("COMMANDS")[0]
    path.write_text(f"{head}COMMANDS: dict[str, Words] = {{\n{''.join(lines)}}}\n")
    subprocess.run([sys.executable, "-m", "ruff", "format", "-q", path], check=True)


# ----------------------------------------------------------------------------------------------- what is offered


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "h"
    monkeypatch.setenv("HAPI_HOME", str(home))
    for variable in ("HAPI_NAMESPACE", "CLI_API_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    record(home / "sessions", FIRST, phase=Phase.IDLE, title="Mend\tthe bus")
    record(home / "sessions", SECOND, phase=Phase.WORKING)
    record(home / "sessions", THIRD, phase=Phase.ENDED)
    record(home / "namespaces" / "work" / "sessions", "3f0c22ab-0000-4000-8000-000000000009", phase=Phase.IDLE)
    return home


def record(directory, key, **changes):
    values = {"session_id": key, "namespace": "default", "agent": "demo", "directory": "/w", "started_by": "runner"}
    info = SessionInfo(**(values | {"started_at": 1} | changes))
    (directory / key).mkdir(parents=True)
    (directory / key / "state.json").write_bytes(msgspec.json.encode(info))


def offered(line):
    given = ["hapi", *line.split(" ")]
    return {word for word, _ in offers(given, len(given) - 1)}


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("", {"runner", "send", "logs", "demo", "codex"}, {"start", "--version"}),
        ("ru", {"runner"}, {"send"}),
        ("runner st", {"start", "stop", "status", "stop-session", "start-sync"}, {"spawn"}),
        ("runner spawn --a", {"--agent"}, {"--model"}),
        ("runner spawn --agent de", {"demo"}, {"codex"}),
        ("runner spawn --agent=de", {"--agent=demo"}, {"demo"}),
        ("runner spawn --agent = de", {"demo"}, {"--agent=demo"}),  # as bash has it
        ("runner spawn ", set(), {"demo", "start"}),  # a directory: the shell's own business
        ("send ", {"1f0c22ab", "2f0c22ab-0"}, {"2f0c22ab-1"}),
        ("logs ", {"1f0c22ab", "2f0c22ab-0", "2f0c22ab-1"}, {"3f0c22ab"}),
        ("logs 2", {"2f0c22ab-0", "2f0c22ab-1"}, {"1f0c22ab"}),
        ("logs -f 1f", {"1f0c22ab"}, set()),
        ("attach ", {"1f0c22ab", "2f0c22ab-0"}, {"2f0c22ab-1"}),
        ("resume ", {"2f0c22ab-1"}, set()),
        ("--namespace work send ", {"3f0c22ab"}, {"1f0c22ab"}),
        ("send --namespace=work ", {"3f0c22ab"}, {"1f0c22ab"}),
        ("send --namespace ", {"default", "work"}, {"1f0c22ab"}),
        ("wait --for ", {"idle", "ended"}, {"1f0c22ab"}),
        ("runner logs --worker ", {"hub", "reaper", "nursery"}, set()),
        ("runner logs --session ", {"2f0c22ab-1"}, set()),
        ("completion ", {"bash", "zsh", "fish"}, set()),
        ("send 1f0c22ab ", set(), {"2f0c22ab-0"}),
        ("runner spawn . -- --", set(), {"--agent"}),
        ("demo --", set(), {"--namespace"}),
        ("no-such-thing ", set(), {"runner"}),
    ],
)
def test_what_may_come_next(home, line, some, none):
    found = offered(line)
    assert some <= found
    assert not none & found
    if not some:
        assert found == set()


def test_sessions_are_described(home):
    assert dict(offers(["hapi", "send", "1"], 2)) == {"1f0c22ab": "demo /w idle: Mend?the bus"}


def test_a_home_that_is_not_there_offers_nothing(tmp_path):
    assert sessions(tmp_path / "none", ended=True) == []


def test_damaged_records_are_passed_over(home):
    (home / "sessions" / FIRST / "state.json").write_text("{")
    assert offered("send ") == {"2f0c22ab-0"}


def test_user_s_agents_are_offered(home):
    (home / "settings.json").write_text('{"agents": {"mine": {"use": "demo"}}}')
    assert "mine" in offered("m")


# ------------------------------------------------------------------------------------------------- in real shells


@pytest.fixture
def shell_environment(home, tmp_path):
    program = tmp_path / "bin" / "hapi"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m hapi "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    return {"PATH": path, "HAPI_HOME": str(home), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path), "TERM": "dumb"}


def run(shell, script, environment):
    if shutil.which(shell) is None:
        skip_or_fail(shell, f"{shell} is not installed")
    done = subprocess.run(
        [shell, *(["-f"] if shell == "zsh" else []), "-c", script],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_bash(shell_environment):
    script = """
        eval "$(hapi completion bash)"
        try() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _hapi; echo "${COMPREPLY[*]}"; }
        try hapi runner st
        try hapi send 1
        try hapi wait --for = e
        try hapi runner spawn ''
        complete -p hapi
    """
    found = run("bash", script, shell_environment)
    assert set(found[0].split()) == {"start", "start-sync", "status", "stop", "stop-session"}
    assert found[1:] == ["1f0c22ab", "ended", "", "complete -o default -F _hapi hapi"]


def test_zsh(shell_environment):
    """Through its own completion system, in a terminal of its own."""
    if shutil.which("zsh") is None:
        skip_or_fail("zsh", "zsh is not installed")
    script = """
        zmodload zsh/zpty
        zpty -b shell 'PS1= PROMPT_EOL_MARK= zsh -f -i'
        zpty -w shell 'autoload -U compinit; compinit -u -D; eval "$(hapi completion zsh)"; bindkey "^I" complete-word; echo set-up'
        zpty -r -m shell line '*set-up*set-up*'
        zpty -w -n shell $'hapi send 1f\\t'
        zpty -r -m shell line '*1f0c22ab*' && echo session
        zpty -w -n shell $'\\C-u'
        zpty -w -n shell $'hapi comple\\t'
        zpty -r -m shell line '*completion*' && echo command
        zpty -d shell
    """
    assert run("zsh", script, shell_environment) == ["session", "command"]


def test_fish(shell_environment):
    script = """
        hapi completion fish | source
        complete -C 'hapi runner st'
        complete -C 'hapi send 1'
        complete -C 'hapi wait --for='
    """
    found = [line.split("\t")[0] for line in run("fish", script, shell_environment)]
    assert set(found[:-3]) == {"start", "start-sync", "status", "stop", "stop-session"}
    assert found[-3:] == ["1f0c22ab", "--for=ended", "--for=idle"]


def test_it_is_quick(home, shell_environment):
    """With hundreds of sessions, beside a bare interpreter, each at its best of several: a person presses Tab and waits."""
    for number in range(500):
        record(home / "sessions", f"{number:08x}-1111-4000-8000-000000000009", phase=Phase.ENDED)
    command = [sys.executable, "-m", "hapi", "__complete", "2", "hapi", "send", ""]
    bare = [sys.executable, "-c", "pass"]
    times: dict[str, list[float]] = {"bare": [], "complete": []}
    for _ in range(8):
        for name, argv in (("bare", bare), ("complete", command)):
            began = time.monotonic()
            done = subprocess.run(argv, env=shell_environment, capture_output=True, text=True, timeout=60, check=True)
            times[name].append(time.monotonic() - began)
    assert "1f0c22ab\tdemo /w idle" in done.stdout
    assert min(times["complete"]) < 8 * min(times["bare"]), times
