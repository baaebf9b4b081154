"""An agent's own interface: its whole command for a new and for an old conversation, and the id that is learned."""

from __future__ import annotations

import uuid

import pytest

from hapi import config as configuration
from hapi.agents import table
from hapi.agents.built_in import BUILT_IN, Agent
from hapi.agents.terminal import TerminalCommand, TerminalOrder, learned_id, parting_id, terminal_command
from hapi.errors import ErrorCode, HapiError

ID = "01a206a9-d00b-7920-9d92-ea3d2cb32428"
WITH_TERMINAL = [name for name, agent in BUILT_IN.items() if agent.terminal]


@pytest.fixture
def path(tmp_path):
    """A PATH with a program for every interface of the table."""
    for name in WITH_TERMINAL:
        program = tmp_path / BUILT_IN[name].terminal[0].rpartition("/")[2]
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    return str(tmp_path)


def command(name: str, path: str, *args: str, **order: object) -> TerminalCommand:
    return terminal_command(BUILT_IN[name], TerminalOrder(args=args, **order), path, {})


def words(found: TerminalCommand) -> list[str]:
    """Without the program, and without the words that start the demo."""
    return [word for word in found.argv[1:] if word != "-IS" and not word.endswith("demo_terminal.py")]


def user_agent(tmp_path, **settings: object) -> Agent:
    loaded = configuration.load(environ={"HAPI_HOME": str(tmp_path / "home")})
    fields = {name: getattr(loaded, name) for name in loaded.__struct_fields__} | {"agents": {"mine": settings}}
    return table.find("mine", configuration.Config(**fields))


@pytest.mark.parametrize("name", ["claude", "copilot", "gemini", "qwen", "grok", "demo"])
def test_a_new_conversation_gets_an_id_of_ours(name, path):
    first, second = command(name, path), command(name, path)
    assert words(first) == ["--session-id", first.native_id]
    assert first.native_id == str(uuid.UUID(first.native_id)) != second.native_id
    assert not first.resumed


@pytest.mark.parametrize("name", ["codex", "opencode", "pi", "cursor", "kimi"])
def test_an_agent_that_names_its_conversation_itself(name, path):
    assert command(name, path) == TerminalCommand(argv=[f"{path}/{BUILT_IN[name].terminal[0]}"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("claude", ["--resume", ID]),
        ("codex", ["resume", ID]),
        ("opencode", ["--session", ID]),
        ("copilot", [f"--resume={ID}"]),
        ("gemini", ["--resume", ID]),
        ("qwen", ["--resume", ID]),
        ("pi", ["--session", ID]),
        ("kimi", ["--session", ID]),
        ("cursor", ["--resume", ID]),
        ("grok", ["--resume", ID]),
        ("demo", ["--resume", ID]),
    ],
)
def test_an_old_conversation_by_the_agents_own_words(name, expected, path):
    found = command(name, path, resume=ID)
    assert (words(found), found.native_id, found.resumed, found.notes) == (expected, ID, True, [])


def test_an_agent_that_cannot_resume_begins_anew_and_says_so(path):
    found = command("agy", path, resume=ID)
    assert (found.argv, found.native_id, found.resumed) == ([f"{path}/agy"], None, False)
    assert "a new one began" in found.notes[0]


@pytest.mark.parametrize(
    "args", [("--resume",), ("-c",), ("--verbose", "--resume=abc"), ("--session-id", ID), ("-p", "hello")]
)
def test_people_who_choose_the_conversation_themselves_are_left_alone(args, path):
    assert command("claude", path, *args) == TerminalCommand(argv=[f"{path}/claude", *args])


def test_the_options_come_behind_the_conversation(path):
    found = command(
        "codex", path, "--search", resume=ID, model="m", effort="high", yolo=True, settings={"serviceTier": "fast"}
    )
    assert words(found) == [
        "resume", ID, "--model", "m", "-c", "model_reasoning_effort=high",
        "--dangerously-bypass-approvals-and-sandbox", "-c", "service_tier=fast", "--search",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("args", "left"),
    [
        (["fix it"], []),
        (["--add-dir", "/x", "fix it"], ["--add-dir", "/x"]),
        (["--verbose", "fix it"], ["--verbose", "fix it"]),  # nobody can tell it from the option's value
        (["--add-dir", "/x"], ["--add-dir", "/x"]),
        (["--verbose"], ["--verbose"]),
    ],
)
def test_an_opening_prompt_is_not_said_twice(args, left, path):
    assert words(command("claude", path, *args))[2:] == args
    assert words(command("claude", path, *args, resume=ID)) == ["--resume", ID, *left]


def test_a_mode_without_a_flag_is_left_to_people_and_told(path):
    found = command("copilot", path, permission_mode="read-only")
    assert words(found) == ["--session-id", found.native_id]
    assert found.notes == [
        "GitHub Copilot was not started in permission mode read-only (it has no flag for it); choose it in its own interface."
    ]
    assert command("copilot", path, permission_mode="default").notes == []


def test_a_mode_that_an_old_conversation_keeps(path):
    assert words(command("kimi", path, yolo=True)) == ["--yolo"]
    found = command("kimi", path, yolo=True, resume=ID)
    assert words(found) == ["--session", ID]
    assert "an old conversation keeps its own" in found.notes[0]


@pytest.mark.parametrize("order", [{"model": "m", "effort": "huge"}, {"permission_mode": "none such"}])
def test_options_that_it_does_not_have_are_refused(order, path):
    with pytest.raises(HapiError) as caught:
        command("claude", path, **order)
    assert caught.value.code is ErrorCode.BAD_REQUEST


def test_a_program_that_is_not_there(tmp_path):
    with pytest.raises(HapiError) as caught:
        command("claude", str(tmp_path / "none"))
    assert caught.value.code is ErrorCode.AGENT_UNAVAILABLE


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("codex", [f"/h/.codex/sessions/2026/11/23/rollout-2026-11-23T04-28-41-{ID}.jsonl", "/h/.codex/x.sqlite"], ID),
        ("codex", ["/h/.codex/history.jsonl", f"/h/.codex/thread-writer-locks/{ID}.lock", "/dev/pts/3"], None),
        (
            "codex",
            [f"/s/rollout-2026-11-23T05-00-00-{ID[::-1]}.jsonl", f"/s/rollout-2026-11-23T05-00-00-{ID}.jsonl"],
            ID,
        ),
        ("copilot", [f"/h/.copilot/session-state/{ID}/inuse.602.hold"], ID),
        ("opencode", ["/h/.local/share/opencode/opencode.db"], None),
        ("claude", [f"/h/{ID}.jsonl"], None),
    ],
)
def test_the_id_that_open_files_tell(name, files, expected):
    assert learned_id(BUILT_IN[name], files) == expected


def test_an_agent_that_it_started_is_not_it():
    """Parts of the work are done by agents of the agent, each with a conversation of its own, begun later."""
    files = [f"/s/rollout-2026-11-23T05-00-0{at}-{ID[:-1]}{at}.jsonl" for at in (2, 1, 3)]
    assert learned_id(BUILT_IN["codex"], files) == f"{ID[:-1]}1"


def test_the_id_that_a_program_leaves_on_the_screen():
    text = "  Session   old\n  Continue  opencode -s ses_old\n$ \n  Session   ok\n  Continue  opencode -s ses_df956a051ffe2X\n"
    assert parting_id(BUILT_IN["opencode"], text) == "ses_df956a051ffe2X"
    assert parting_id(BUILT_IN["opencode"], "opencode -s") is None
    assert parting_id(BUILT_IN["codex"], text) is None


def test_a_users_agent_may_say_how_its_conversations_are_named(tmp_path):
    how = {"new": ["--id", "{id}"], "resume": ["--again={id}"], "file": "/talk-([0-9]+)$"}
    agent = user_agent(tmp_path, terminal="sh {flags} -i", conversation=how, permissionMode="wild")
    found = terminal_command(agent, TerminalOrder(resume="42", args=["-x"]), "/bin", {})
    assert (found.argv, found.native_id) == (["/bin/sh", "--again=42", "-x", "-i"], "42")
    assert learned_id(agent, ["/var/talk-17"]) == "17"


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"resume": ["--again"]}, "conversation.resume: must have {id}"),
        ({"file": "talk-["}, "conversation.file: is no regular expression"),
        ({"file": "talk"}, "conversation.file: must have one group"),
        ({"again": []}, "agents.mine.conversation"),
    ],
)
def test_what_makes_no_sense_in_the_settings_is_refused_by_name(tmp_path, how, why):
    with pytest.raises(HapiError, match=r".*") as caught:
        user_agent(tmp_path, terminal="sh", conversation=how)
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION
    assert why in caught.value.message
