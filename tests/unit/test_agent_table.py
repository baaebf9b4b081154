"""The table of agents: what the settings make of it, where executables are found, which arguments they get."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hapi import config as configuration
from hapi.agents import table
from hapi.errors import ErrorCode, HapiError


@pytest.fixture
def configured(tmp_path):
    """A configuration with these `agents` in its settings."""

    def make(**agents):
        loaded = configuration.load(environ={"HAPI_HOME": str(tmp_path / "home")})
        return configuration.Config(
            **{name: getattr(loaded, name) for name in loaded.__struct_fields__} | {"agents": agents}
        )

    return make


@pytest.fixture
def programs(tmp_path):
    """Create executables in a directory of their own; returns it, as a PATH."""

    def make(*names):
        place = tmp_path / "bin"
        place.mkdir(exist_ok=True)
        for name in names:
            program(place / name)
        return str(place)

    return make


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def failure(call, *args, **kwargs) -> HapiError:
    with pytest.raises(HapiError) as caught:
        call(*args, **kwargs)
    return caught.value


def test_names_are_ours_and_the_users(configured):
    names = table.names(configured(mine={"use": "demo"}))
    assert names == sorted([*table.FLAVORS, "demo", "gemini", "mine", "qwen"])


def test_unknown_agent_names_the_known(configured):
    error = failure(table.find, "claud", configured(mine={"use": "demo"}))
    assert error.code == ErrorCode.UNKNOWN_AGENT
    assert "claude" in error.hint
    assert "mine" in error.hint


@pytest.mark.parametrize("name", table.BUILT_IN)
def test_entries_are_consistent(name):
    agent = table.BUILT_IN[name]
    assert bool(agent.command) is not bool(agent.missing)
    assert agent.flavor is (name in table.FLAVORS)
    assert agent.yolo_mode is None or agent.yolo_mode in agent.modes
    assert all(set(values) <= set(agent.settings[key]) for key, values in agent.flags.settings.items())
    how = agent.conversation
    assert all(any("{id}" in word for word in words) for words in (how.new, how.resume) if words)
    assert agent.terminal or not (how.new or how.resume or how.file)
    assert set(agent.acp_modes) | set(agent.flags.modes) | set(agent.terminal_flags.modes) <= set(agent.modes)


@pytest.mark.parametrize(
    ("name", "installed", "expected"),
    [
        ("claude", ["claude-agent-acp", "claude-code-acp"], ["claude-agent-acp"]),
        ("claude", ["claude-code-acp"], ["claude-code-acp"]),
        ("kimi", ["kimi"], ["kimi", "acp"]),
        ("grok", ["grok"], ["grok", "agent", "stdio"]),
        ("copilot", ["copilot"], ["copilot", "--acp", "--stdio"]),
    ],
)
def test_resolve_finds_the_first_candidate(configured, programs, name, installed, expected):
    path = programs(*installed)
    command = table.resolve(table.find(name, configured()), path, environ={})
    assert command == [f"{path}/{expected[0]}", *expected[1:]]


def test_resolve_says_where_it_looked_and_what_to_do(configured):
    error = failure(table.resolve, table.find("codex", configured()), "/no/where:/else", environ={})
    assert (error.code, error.message) == (ErrorCode.AGENT_UNAVAILABLE, "codex is not installed or is not on PATH")
    assert "/no/where:/else" in error.hint
    assert "npm install -g @zed-industries/codex-acp" in error.hint


def test_resolve_without_acp_says_why(configured, programs):
    error = failure(table.resolve, table.find("agy", configured()), programs("agy"))
    assert (error.code, error.message) == (
        ErrorCode.AGENT_UNAVAILABLE,
        "agy is not available: it does not speak ACP",
    )
    assert table.resolve(table.find("agy", configured()), programs("agy"), terminal=True)


def test_resolve_takes_path_from_the_environment(configured, programs):
    path = programs("kimi")
    assert table.resolve(table.find("kimi", configured()), None, environ={"PATH": path})[0] == f"{path}/kimi"


def test_the_demo_runs_on_this_interpreter_and_never_imports_from_its_directory(configured):
    command = table.resolve(table.find("demo", configured()), "")
    assert command == [sys.executable, "-IS", str(Path(table.__file__).with_name("demo.py"))]
    assert (
        subprocess.run([*command, "--help"], cwd="/", env={}, capture_output=True, check=False, timeout=10).returncode
        == 0
    )


def test_which_wants_an_executable_file_in_an_absolute_directory(tmp_path, monkeypatch):
    program(tmp_path / "plain" / "tool", 0o644)
    (tmp_path / "directory" / "tool").mkdir(parents=True)
    found = program(tmp_path / "good" / "tool")
    monkeypatch.chdir(tmp_path / "good")
    path = os.pathsep.join([".", "", *(str(tmp_path / name) for name in ("none", "plain", "directory", "good"))])
    assert table.which("tool", path) == str(found)
    assert table.which("tool", ".:") is None
    assert table.which("./tool", "") == str(found)


def shim(root: Path, package: str = "@zed-industries/codex-acp") -> Path:
    """An npm installation of codex-acp under `root`: the shim's link in .bin."""
    script = program(root / "node_modules" / package / "bin/codex-acp.js")
    link = root / "node_modules/.bin/codex-acp"
    link.parent.mkdir()
    link.symlink_to(os.path.relpath(script, link.parent))
    return link


def native_name() -> str:
    arch = {"x86_64": "x64", "aarch64": "arm64", "arm64": "arm64"}[os.uname().machine]
    return f"node_modules/@zed-industries/codex-acp-{sys.platform}-{arch}/bin/codex-acp"


@pytest.mark.parametrize("nested", [False, True])
def test_an_npm_shim_is_passed_over_for_the_native_program(configured, tmp_path, nested):
    link = shim(tmp_path)
    native = program(tmp_path / ("node_modules/@zed-industries/codex-acp" if nested else "") / native_name())
    assert table.resolve(table.find("codex", configured()), str(link.parent), environ={}) == [str(native)]


def test_a_shim_without_its_native_program_is_used_itself(configured, tmp_path):
    link = shim(tmp_path)
    program(tmp_path / native_name(), 0o644)
    assert table.resolve(table.find("codex", configured()), str(link.parent), environ={}) == [str(link)]


def test_override_of_the_adapted_program_goes_into_the_environment(configured, programs, tmp_path):
    own = str(program(tmp_path / "my-claude"))
    agent, path, environ = (
        table.find("claude", configured()),
        programs("claude-agent-acp", "claude"),
        {"HAPI_CLAUDE_PATH": own},
    )
    assert table.resolve(agent, path, environ=environ) == [f"{path}/claude-agent-acp"]
    assert table.environment(agent, path, environ) == {"CLAUDE_CODE_EXECUTABLE": own}
    assert table.resolve(agent, path, terminal=True, environ=environ) == [own]
    assert table.environment(agent, path, {}) == {}


@pytest.mark.parametrize(
    ("extra", "arguments"),
    [({}, []), ({"HAPI_DSH_ACP_ARGS_JSON": '["--x", "y"]'}, ["--x", "y"])],
)
def test_override_of_the_command(configured, tmp_path, extra, arguments):
    own = str(program(tmp_path / "my-dsh"))
    environ = {"HAPI_DSH_ACP_COMMAND": own, **extra}
    assert table.resolve(table.find("dsh", configured()), "", environ=environ) == [own, *arguments]


@pytest.mark.parametrize(
    ("name", "environ", "word"),
    [
        ("claude", {"HAPI_CLAUDE_PATH": "/no/such"}, "HAPI_CLAUDE_PATH names no program: /no/such"),
        ("dsh", {"HAPI_DSH_ACP_COMMAND": "/bin/sh", "HAPI_DSH_ACP_ARGS_JSON": "x"}, "HAPI_DSH_ACP_ARGS_JSON must be"),
    ],
)
def test_a_bad_override_is_a_configuration_error(configured, programs, name, environ, word):
    path = programs("claude-agent-acp")
    error = failure(table.resolve, table.find(name, configured()), path, environ=environ)
    assert error.code == ErrorCode.BAD_CONFIGURATION
    assert word in error.message


def test_availability_of_exactly_the_ten_flavors(configured, programs, monkeypatch):
    monkeypatch.setenv("COPILOT_CLI_PATH", "/no/such")
    config = configured(codex={"use": "demo"}, pi={"use": 3}, mine={"use": "demo"})
    report = table.availability(config, programs("kimi", "copilot", "agy"))
    assert [flavor for flavor, _, _ in report] == sorted(table.FLAVORS)
    reasons = {flavor: reason for flavor, _, reason in report}
    assert {flavor for flavor, available, _ in report if available} == {"codex", "kimi"}
    assert (reasons["copilot"], reasons["pi"]) == ("invalid_configuration", "invalid_configuration")
    assert (reasons["agy"], reasons["grok"], reasons["kimi"]) == ("not_found", "not_found", None)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("claude", {"model": "opus", "effort": "high", "permission_mode": "plan"}, []),
        (
            "claude",
            {"model": "opus", "effort": "high", "permission_mode": "plan", "terminal": True},
            ["--model", "opus", "--effort", "high", "--permission-mode", "plan"],
        ),
        (
            "grok",
            {"model": "g4", "effort": "deep", "args": ["-x"]},
            ["--model", "g4", "--reasoning-effort", "deep", "-x"],
        ),
        ("cursor", {"permission_mode": "autoReview"}, ["--auto-review"]),
        ("codex", {"yolo": True, "terminal": True}, ["--dangerously-bypass-approvals-and-sandbox"]),
        ("codex", {"yolo": True, "permission_mode": "read-only", "terminal": True}, ["--sandbox", "read-only"]),
        ("codex", {"settings": {"serviceTier": "fast"}, "args": ["-x"]}, ["-c", "service_tier=fast", "-x"]),
        ("codex", {"settings": {"serviceTier": "standard", "collaborationMode": "plan"}}, []),
        ("kimi", {"settings": {"serviceTier": "standard", "copilotAgentMode": "interactive"}}, []),
        ("pi", {"yolo": True}, []),
        ("demo", {"args": ["--", "a b"]}, ["--", "a b"]),
    ],
)
def test_launch_arguments(configured, name, options, expected):
    assert table.launch_arguments(table.find(name, configured()), **options) == expected


def test_flags_go_where_the_command_wants_them(configured, programs):
    agent, path = table.find("grok", configured()), programs("grok")
    flags = table.launch_arguments(agent, model="g4")
    assert table.resolve(agent, path, flags, environ={})[1:] == ["agent", "--model", "g4", "stdio"]
    assert table.resolve(table.find("demo", configured()), "", ["-v"])[-1] == "-v"


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dsh", {"model": "x"}, "dsh takes no model."),
        ("claude", {"effort": "huge"}, "claude has no effort 'huge'."),
        ("kimi", {"effort": "low"}, "kimi has no effort 'low'."),
        ("codex", {"permission_mode": "plan"}, "codex has no permission mode 'plan'."),
        ("pi", {"permission_mode": "yolo"}, "pi has no permission mode 'yolo'."),
        ("kimi", {"settings": {"serviceTier": "fast"}}, "kimi has no serviceTier 'fast'."),
        ("codex", {"settings": {"serviceTier": "slow"}}, "codex has no serviceTier 'slow'."),
        ("claude", {"settings": {"copilotAgentMode": "plan"}}, "claude has no copilotAgentMode 'plan'."),
    ],
)
def test_wrong_combinations_say_what_is_wrong(configured, name, options, words):
    error = failure(table.launch_arguments, table.find(name, configured()), **options)
    assert (error.code, error.message) == (ErrorCode.BAD_REQUEST, words)
    assert error.hint


@pytest.mark.parametrize(
    ("chosen", "yolo", "mode"), [(None, False, "plan"), (None, True, "yolo"), ("default", True, "default")]
)
def test_which_permission_mode_wins(configured, chosen, yolo, mode):
    agent = table.find("opencode", configured(opencode={"permissionMode": "plan"}))
    assert table.permission_mode(agent, chosen, yolo=yolo) == mode


def test_an_alias_runs_the_other_command_under_its_own_name(configured):
    config = configured(
        codex={"use": "demo", "env": {"A": "1"}}, mine={"use": "codex", "args": ["-v"], "env": {"B": "2"}}
    )
    codex, mine = table.find("codex", config), table.find("mine", config)
    assert (codex.name, codex.title, codex.flavor) == ("codex", "Codex", True)
    assert codex.command == mine.command == table.BUILT_IN["demo"].command
    assert codex.modes == table.BUILT_IN["codex"].modes
    assert codex.settings == table.BUILT_IN["codex"].settings
    assert (mine.name, mine.flavor, mine.args, mine.env) == ("mine", False, ("-v",), {"A": "1", "B": "2"})


@pytest.mark.parametrize("command", [["gemini", "--acp"], "gemini --acp"])
def test_an_agent_of_the_users_own(configured, programs, command):
    config = configured(gemini={"command": command, "permissionMode": "yolo", "model": "pro", "effort": "any"})
    agent, path = table.find("gemini", config), programs("gemini")
    assert not agent.flavor
    assert table.resolve(agent, path) == [f"{path}/gemini", "--acp"]
    assert table.permission_mode(agent, None, yolo=False) == "yolo"
    assert table.launch_arguments(agent, effort="deep") == []


def test_a_users_command_replaces_a_flavors(configured, programs):
    path = programs("my-codex")
    agent = table.find("codex", configured(codex={"command": ["my-codex", "serve"]}))
    assert table.resolve(agent, path) == [f"{path}/my-codex", "serve"]
    assert agent.modes == table.BUILT_IN["codex"].modes


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({}, "agents.mine: needs"),
        ({"comand": "x"}, "agents.mine: Object contains unknown field `comand`"),
        ({"use": "nobody"}, "agents.mine.use: there is no agent called 'nobody'"),
        ({"use": "mine"}, "agents.mine.use: goes in a circle"),
        ({"use": "other"}, "agents.other.use: goes in a circle"),
        ({"command": []}, "agents.mine.command: is empty"),
        ({"command": "'x"}, "agents.mine.command: No closing quotation"),
        ({"command": ["x"], "env": {"A": 1}}, "agents.mine: Expected `str`, got `int` - at `agents.mine.env[...]`"),
        ({"command": 7}, "agents.mine: Expected `str | array | null`, got `int` - at `agents.mine.command`"),
        ({"use": "codex", "permissionMode": "plan"}, "agents.mine: mine has no permission mode 'plan'"),
        ({"use": "dsh", "model": "x"}, "agents.mine: mine takes no model"),
    ],
)
def test_bad_settings_name_the_key(configured, settings, key):
    error = failure(table.find, "mine", configured(mine=settings, other={"use": "mine"}))
    assert error.code == ErrorCode.BAD_CONFIGURATION
    assert key in error.message


def test_a_users_agent_needs_a_sober_name(configured):
    assert failure(table.find, "a b", configured(**{"a b": {"use": "demo"}})).code == ErrorCode.BAD_CONFIGURATION
