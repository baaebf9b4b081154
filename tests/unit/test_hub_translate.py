"""Our words ⇄ the hub's, as tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi import wire
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import EndReason, Phase
from hapi.workers.hub import describe, incoming, params, translate
from hapi.workers.hub.context import Host
from hapi.workers.hub.machine_rpc import spawn_error
from hapi.workers.hub.schema import MessageRow, MessagesConsumed, MessagesIndeterminate

SID = "0c7bd5f4-3ff3-4b35-8f2c-6b3b2a9d7f10"
HOST = Host("box", "linux", "/home/u", "/home/u/.hapi", "m-1", "1.0")


def numbered(event, seq=7):
    return wire.NumberedEvent(seq, 1000, event)


def snapshot(**changes):
    extra = {name: changes.pop(name) for name in list(changes) if name in wire.Snapshot.__struct_fields__}
    info = {
        "session_id": SID,
        "namespace": "default",
        "agent": "opencode",
        "directory": "/p",
        "phase": Phase.IDLE,
        "started_by": "runner",
        "started_at": 5,
    }
    return wire.Snapshot(info=wire.SessionInfo(**{**info, **changes}), **extra)


CODEX = [
    (wire.AgentText("hi"), {"type": "message", "message": "hi"}),
    (wire.Reasoning("b", "hm"), {"type": "reasoning", "id": "b", "message": "hm"}),
    (
        wire.ToolCall("c", "Bash", {"command": "ls"}, kind="execute"),
        {
            "type": "tool-call",
            "callId": "c",
            "name": "Bash",
            "input": {"command": "ls"},
            "status": "pending",
            "nativeKind": "execute",
        },
    ),
    (
        wire.ToolCall("c", "X", None),
        {"type": "tool-call", "callId": "c", "name": "X", "input": None, "status": "pending"},
    ),
    (
        wire.ToolResult("c", "out", is_error=True),
        {"type": "tool-call-result", "callId": "c", "output": "out", "is_error": True},
    ),
    (
        wire.Plan([wire.PlanEntry("a", "high", "completed")]),
        {"type": "plan", "entries": [{"content": "a", "priority": "high", "status": "completed"}]},
    ),
    (
        wire.Usage(model="m", input_tokens=1, output_tokens=2, context_window=9),
        {
            "type": "token_count",
            "usageSchema": "hapi.usage.v1",
            "inputTokenSemantics": "includes-cache",
            "model": "m",
            "info": {"total": {"inputTokens": 1, "outputTokens": 2}, "modelContextWindow": 9},
        },
    ),
]
REMARKS = [
    (wire.Note("n"), {"type": "message", "message": "n"}),
    (wire.Note("n", is_error=True), {"type": "error", "message": "n"}),
    (wire.ModeChanged("plan"), {"type": "permission-mode-changed", "mode": "plan"}),
    (wire.TurnEnded("end_turn"), {"type": "ready"}),
]


@pytest.mark.parametrize(("event", "data"), CODEX, ids=lambda value: type(value).__name__)
def test_agent_output_becomes_a_row_and_is_consumed_at_once(event, data):
    row, consumed = translate.notices(SID, [numbered(event)])
    assert isinstance(row, MessageRow)
    assert row.message == {"role": "agent", "content": {"type": "codex", "data": data}, "meta": {"sentFrom": "cli"}}
    assert (row.local_id, row.created_at) == ("a:0c7bd5f4:7", 1000)
    assert consumed == MessagesConsumed(sid=SID, local_ids=["a:0c7bd5f4:7"])


@pytest.mark.parametrize(("event", "data"), REMARKS, ids=lambda value: type(value).__name__)
def test_remarks_become_events_with_the_same_id_every_time(event, data):
    first, again = (translate.notices(SID, [numbered(event)])[0] for _ in range(2))
    assert first == again
    assert first.message["content"]["data"] == data
    assert first.message["content"]["type"] == "event"


def test_events_without_a_row():
    assert translate.notices(SID, [numbered(wire.TurnEnded("end_turn", more=True))]) == []
    assert translate.notices(SID, [numbered(wire.Consumed([]))]) == []
    taken = MessagesConsumed(sid=SID, local_ids=["u"], clear_queued_thinking_grace=True)
    assert translate.notices(SID, [numbered(wire.Consumed(["u"]))]) == [taken]
    assert translate.notices(SID, [numbered(wire.Indeterminate(["u"]))]) == [
        MessagesIndeterminate(sid=SID, local_ids=["u"])
    ]


def test_rows_are_consumed_together_but_not_across_a_message_of_a_person():
    """A row's place in the chat is where it was consumed: one that came before a message stays before it."""
    said = [wire.AgentText("1"), wire.AgentText("2"), wire.Consumed(["u"]), wire.TurnEnded("end_turn", more=True)]
    made = translate.notices(SID, [numbered(event, seq) for seq, event in enumerate([*said, wire.AgentText("3")], 1)])
    names = [notice.local_ids if isinstance(notice, MessagesConsumed) else notice.local_id for notice in made]
    rows = [f"a:0c7bd5f4:{seq}" for seq in range(1, 6)]
    assert names == [rows[0], rows[1], rows[:2], ["u"], rows[4], rows[4:]]


def test_words_typed_here_are_the_users():
    row = translate.notices(SID, [numbered(wire.UserText("do it"))])[0]
    assert row.message == {"role": "user", "content": {"type": "text", "text": "do it"}, "meta": {"sentFrom": "cli"}}


@given(st.text(max_size=10), st.integers(0, 9000))
def test_no_string_is_longer_than_the_hub_takes(seed, times):
    text = (seed + "😀") * times
    short = translate.cut(text)
    assert len(short.encode("utf-16-le")) // 2 <= translate.MAX_UNITS
    assert short == text or "left out" in short


def test_cutting_reaches_every_depth():
    value = {"a": [{"b": "x" * 100_000}], 3: ("y",)}
    found = translate.cut_deep(value)
    assert len(found["a"][0]["b"]) < translate.MAX_UNITS
    assert found["3"] == ["y"]
    deep: list = []
    for _ in range(200):
        deep = [deep]
    assert "nested" in str(translate.cut_deep(deep))


def test_metadata_keeps_what_is_not_ours():
    base = {"name": "Mine", "preferredPermissionMode": "plan", "archivedBy": "hub", "lifecycleState": "archived"}
    found = describe.metadata(snapshot(native_id="n"), base, HOST, archived=False, now=9)
    assert (found["name"], found["preferredPermissionMode"], found["opencodeSessionId"]) == ("Mine", "plan", "n")
    assert (found["lifecycleState"], found["lifecycleStateSince"]) == ("running", 9)
    assert "archivedBy" not in found
    assert describe.metadata(snapshot(native_id="n"), found, HOST, archived=False, now=99) == found


def test_metadata_of_an_archived_session():
    found = describe.metadata(snapshot(), {}, HOST, archived=True, now=9)
    assert (found["lifecycleState"], found["archivedBy"], found["archiveReason"]) == (
        "archived",
        "cli",
        "User terminated",
    )
    by_hub = {"lifecycleState": "archived", "lifecycleStateSince": 3, "archivedBy": "hub", "archiveReason": "R"}
    kept = describe.metadata(snapshot(), by_hub, HOST, archived=True, now=9)
    assert (kept["archivedBy"], kept["archiveReason"], kept["lifecycleStateSince"]) == ("hub", "R", 3)


def test_a_spawn_that_failed_leaves_the_row_as_archived_as_it_was():
    failed = snapshot(phase=Phase.ENDED, reason=EndReason.SPAWN_FAILED)
    for state in ("archived", "running"):
        found = describe.metadata(failed, {"lifecycleState": state}, HOST, archived=False, now=9)
        assert found["lifecycleState"] == state


def test_the_worktree_of_a_session_without_a_record_stays_on_its_row():
    base = {"worktree": {"basePath": "/r", "branch": "b", "name": "n"}}
    assert describe.metadata(snapshot(), base, HOST, archived=False, now=9)["worktree"] == base["worktree"]


def test_a_session_in_a_terminal_says_so_wherever_the_hub_looks():
    there = snapshot(driver="pty")
    assert describe.metadata(there, {}, HOST, archived=False, now=9)["startingMode"] == "pty"
    state = describe.agent_state(there, can_chat=True)
    assert (state["startingMode"], state["controlledByUser"]) == ("pty", True)
    back = snapshot()
    assert describe.metadata(back, {"startingMode": "pty"}, HOST, archived=False, now=9)["startingMode"] == "remote"
    assert describe.agent_state(back)["controlledByUser"] is False


def test_agent_state_is_capped_and_newest_first_out():
    request = wire.PermissionRequest(request_id="r", tool="T", arguments={}, created_at=1, tool_call_id="c")
    outcomes = [
        wire.PermissionOutcome(
            request=wire.PermissionRequest(request_id=str(n), tool="T", arguments=None, created_at=n),
            completed_at=n,
            status="denied",
            decision="abort",
        )
        for n in range(80)
    ]
    state = describe.agent_state(snapshot(requests=[request], outcomes=outcomes))
    assert state["requests"] == {"r": {"tool": "T", "arguments": {}, "createdAt": 1, "toolCallId": "c"}}
    assert list(state["completedRequests"]) == [str(n) for n in range(30, 80)]
    assert state["completedRequests"]["79"]["decision"] == "abort"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"phase": Phase.WAITING}, {"thinking": True}),
        ({"permission_mode": "plan"}, {"permissionMode": "plan"}),
        ({"permission_mode": "no-such-mode"}, {}),
        ({"effort": "high"}, {"modelReasoningEffort": "high"}),
        ({"agent": "claude", "effort": "max", "model": "m"}, {"effort": "max", "model": "m"}),
        ({"agent": "dsh", "model": "m", "effort": "x", "permission_mode": "default"}, {}),
        ({"config": {"serviceTier": "fast", "collaborationMode": "bogus", "x": "y"}}, {"serviceTier": "fast"}),
    ],
)
def test_the_keepalive_never_says_what_the_hub_would_choke_on(changes, expected):
    basis = {"sid": SID, "time": 3, "thinking": False, "mode": "remote"}
    if "agent" not in changes:
        basis["modelReasoningEffort"] = None  # it has none, whatever the hub remembers
    assert describe.alive(snapshot(**changes), 3).payload() == {**basis, **expected}


@pytest.mark.parametrize(
    ("reason", "code", "word"),
    [
        (EndReason.COMPLETED, None, "completed"),
        (EndReason.AGENT_EXITED, 0, "completed"),
        (EndReason.AGENT_EXITED, 3, "error"),
        (EndReason.STOPPED_BY_USER, None, "terminated"),
        (EndReason.STOPPED_FROM_HUB, None, "terminated"),
        (EndReason.AGENT_CRASHED, None, "error"),
        (EndReason.SUPERVISOR_LOST, None, "error"),
        (None, None, "error"),
    ],
)
def test_end_reasons(reason, code, word):
    assert describe.end_word(snapshot(reason=reason, exit_code=code).info) == word


@pytest.mark.parametrize(
    ("raw", "field", "value"),
    [
        ({}, "agent", "claude"),
        ({}, "existing", False),
        ({}, "worktree", None),
        ({"sessionType": "worktree"}, "worktree", ""),
        ({"sessionType": "worktree", "worktreeName": "My Feature!"}, "worktree", "My Feature!"),
        ({"sessionType": "simple", "worktreeName": "x"}, "worktree", None),
        ({"existingSessionId": SID, "sessionId": SID}, "session_id", SID),
        ({"existingSessionId": SID}, "existing", True),
        ({"resumeSessionId": "nat"}, "resume", "nat"),
        ({"effort": "max"}, "effort", "max"),
        ({"modelReasoningEffort": "low"}, "effort", "low"),
        ({"yolo": True}, "yolo", True),
        ({"startingMode": "pty"}, "driver", "pty"),
        ({"startingMode": "remote"}, "driver", "acp"),
        ({"permissionMode": "plan"}, "permission_mode", "plan"),
        (
            {"serviceTier": "fast", "copilotAgentMode": "plan"},
            "config",
            {"serviceTier": "fast", "copilotAgentMode": "plan"},
        ),
    ],
)
def test_spawn_parameters(raw, field, value):
    order = params.spawn({"type": "spawn-in-directory", "directory": "/p", **raw})
    assert getattr(order, field) == value
    assert order.started_by == "runner"


@pytest.mark.parametrize("raw", [{"forkSession": True}, {"existingSessionId": "no-uuid"}])
def test_spawns_that_are_refused_with_words(raw):
    with pytest.raises(HapiError):
        params.spawn({"directory": "/p", **raw})


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"approved": True}, {"approved": True}),
        ({"approved": True, "decision": "approved_for_session"}, {"decision": "approved_for_session"}),
        ({"approved": False, "decision": "abort"}, {"approved": False, "decision": "abort"}),
        ({"approved": True, "allowTools": ["Bash(ls)"]}, {"allow_tools": ["Bash(ls)"]}),
        ({"approved": True, "mode": "acceptEdits"}, {"mode": "acceptEdits"}),
        ({"approved": True, "answers": {"0": ["A"]}}, {"answers": {"0": ["A"]}}),
    ],
)
def test_permission_answers(raw, expected):
    answer = params.permission({"id": "p", **raw})
    assert {name: getattr(answer, name) for name in expected} == expected


def test_settings_that_took_effect_are_answered_and_no_others():
    raw = {"permissionMode": "plan", "model": {"provider": "x", "modelId": "y"}, "effort": None}
    assert params.configure(raw) == wire.Configure({"permissionMode": "plan", "model": "x/y", "effort": None})
    configured = wire.Configured({"permissionMode": "default", "model": "x/y"})
    assert params.applied(raw, configured) == {
        "applied": {"permissionMode": "default", "model": {"provider": "x", "modelId": "y"}}
    }
    with pytest.raises(HapiError):
        params.configure({"model": 3})


def row(content):
    return incoming.ChatRow(id="r", seq=1, content=content)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"role": "user", "content": {"type": "text", "text": "hi"}, "meta": {"sentFrom": "webapp"}}, "hi"),
        ({"role": "user", "content": {"type": "text", "text": "hi"}, "meta": {"sentFrom": "cli"}}, None),
        ({"role": "agent", "content": {"type": "codex", "data": {}}}, None),
        ({"role": "user", "content": {"text": "half \ud83d"}}, "half ?"),
        ("nonsense", None),
        (None, None),
    ],
)
def test_which_rows_are_a_users_message(content, text):
    message = params.user_message(row(content))
    assert (message.text if message else None) == text
    if message:
        wire.encode(message)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (
            ErrorCode.AGENT_UNAVAILABLE,
            {"type": "error", "errorMessage": "M. H", "code": "agent_unavailable", "agent": "pi"},
        ),
        (
            ErrorCode.OUTSIDE_WORKSPACE_ROOTS,
            {"type": "error", "errorMessage": "M. H", "code": "outside_workspace_roots"},
        ),
        (ErrorCode.DIRECTORY_APPROVAL_REQUIRED, {"type": "requestToApproveDirectoryCreation", "directory": "/n"}),
        (ErrorCode.AGENT_FAILED, {"type": "error", "errorMessage": "M. H"}),
    ],
)
def test_failed_spawns_in_the_hubs_words(code, expected):
    assert spawn_error(HapiError(code, "M", "H"), {"agent": "pi", "directory": "/n"}) == expected
