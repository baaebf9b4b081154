"""From an agent's updates to chat events. Agents differ, and some are broken: nothing they say may raise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi.wire import AgentText, Plan, PlanEntry, Reasoning, SlashCommand, ToolCall, ToolResult, Usage, encode
from hapi.workers.supervisor.acp_events import CLOSED_KEPT, TEXT_LIMIT, UNKNOWN_KEPT, Turn, usage
from hapi.workers.supervisor.acp_tools import Picture


def text(words, kind="agent_message_chunk"):
    return {"sessionUpdate": kind, "content": {"type": "text", "text": words}}


def thought(words):
    return text(words, "agent_thought_chunk")


def tool(call_id="c", /, **fields):
    return {"sessionUpdate": "tool_call", "toolCallId": call_id, **fields}


def plan(*entries):
    return {"sessionUpdate": "plan", "entries": list(entries)}


def played(*updates, end="end_turn"):
    """The events of a turn, thoughts' blocks by what they say."""
    turn = Turn()
    events = [event for update in updates for event in turn.update(update)]
    return [*events, *turn.finish(end)]


def diff(old, new="new"):
    return [{"type": "diff", "path": "/f", "oldText": old, "newText": new}]


IMAGE = {"type": "image", "data": "eA==", "mimeType": "image/png"}

CASES = {
    "nothing": ([], []),
    "text in pieces": ([text("a"), text("b")], [AgentText("ab")]),
    "empty pieces": ([text(""), {"sessionUpdate": "agent_message_chunk"}], []),
    "a link": (
        [{"sessionUpdate": "agent_message_chunk", "content": {"type": "resource_link", "name": "n", "uri": "u"}}],
        [AgentText("[n](u)")],
    ),
    "an image without a type is passed over": (
        [{"sessionUpdate": "agent_message_chunk", "content": {"type": "image", "data": "x"}}],
        [],
    ),
    "a call and its end": (
        [
            tool(title="ls", kind="execute", rawInput={"command": "ls"}, status="in_progress"),
            {"sessionUpdate": "tool_call_update", "toolCallId": "c", "status": "completed", "rawOutput": {"x": 1}},
        ],
        [ToolCall("c", "ls", {"command": "ls"}, "in_progress", "ls", "execute"), ToolResult("c", {"x": 1})],
    ),
    "a call that is over at once": (
        [tool(title="t", status="failed", content=[{"type": "content", "content": {"type": "text", "text": "no"}}])],
        [ToolCall("c", "t", {}, title="t"), ToolResult("c", "no", is_error=True)],
    ),
    "a call without output": ([tool(title="t", status="completed")], [ToolCall("c", "t", {}, title="t"), ToolResult("c", "done")]),
    "a call without an id": ([tool(""), {"sessionUpdate": "tool_call"}], []),
    "a call left open": (
        [tool(title="t")],
        [
            ToolCall("c", "t", {}, title="t"),
            ToolResult("c", "the agent did not report the end of this call", is_error=True),
        ],
    ),
    "an edit": (
        [tool(status="completed", content=diff("old"))],
        [
            ToolCall("c", "Edit", {"file_path": "/f", "old_string": "old", "new_string": "new"}),
            ToolResult("c", "done"),
        ],
    ),
    "a new file": (
        [tool(status="completed", content=diff(None))],
        [ToolCall("c", "Write", {"file_path": "/f", "content": "new"}), ToolResult("c", "done")],
    ),
    "text ends at a call": (
        [text("a"), tool(title="t", status="completed"), text("b")],
        [AgentText("a"), ToolCall("c", "t", {}, title="t"), ToolResult("c", "done"), AgentText("b")],
    ),
    "a plan": (
        [plan({"content": "a", "priority": "high", "status": "completed"}, {"content": "b"}, "junk", {"status": "x"})],
        [Plan([PlanEntry("a", "high", "completed"), PlanEntry("b"), PlanEntry("")])],
    ),
    "context": (
        [{"sessionUpdate": "usage_update", "used": 5, "size": 10}, {"sessionUpdate": "usage_update"}],
        [Usage(context_tokens=5, context_window=10)],
    ),
    "an image": (
        [text("a"), {"sessionUpdate": "agent_message_chunk", "content": IMAGE}, text("b")],
        [AgentText("a"), Picture("eA==", "image/png"), AgentText("b")],
    ),
    "an image in a resource": (
        [{"sessionUpdate": "agent_message_chunk", "content": {"type": "resource", "resource": {
            "uri": "file:///p/x.png", "mimeType": "image/png", "blob": "eA=="}}}],
        [Picture("eA==", "image/png", "x.png")],
    ),
    "a text in a resource": (
        [{"sessionUpdate": "agent_message_chunk", "content": {"type": "resource", "resource": {
            "uri": "file:///p/x", "text": "words"}}}],
        [AgentText("\n`file:///p/x`\n\n```\nwords\n```\n")],
    ),
    "an image of a call is shown once": (
        [
            tool(title="t", content=[{"type": "content", "content": IMAGE}]),
            tool(title="t", status="completed", content=[{"type": "content", "content": IMAGE}]),
        ],
        [ToolCall("c", "t", {}, title="t"), Picture("eA==", "image/png", call_id="c"), ToolResult("c", "[image]")],
    ),
    "a call's progress is told when it changes": (
        [tool(title="t"), tool(title="t"), tool(title="t", status="in_progress"), tool(status="in_progress"),
         tool(title="t", status="completed")],
        [ToolCall("c", "t", {}, title="t"), ToolCall("c", "t", {}, "in_progress", "t"), ToolResult("c", "done")],
    ),
    "a late end of a call": (
        [tool(title="t", status="completed"), {**tool(status="completed", rawOutput="all"), "sessionUpdate": "tool_call_update"}],
        [ToolCall("c", "t", {}, title="t"), ToolResult("c", "done"), ToolResult("c", "all")],
    ),
    "a terminal": (
        [tool(title="t", status="completed", content=[{"type": "terminal", "terminalId": "t1"}])],
        [ToolCall("c", "t", {}, title="t"), ToolResult("c", "[terminal t1]")],
    ),
    "a place": (
        [tool(title="Read it", kind="read", status="completed", locations=[{"path": "/f", "line": 3}])],
        [ToolCall("c", "Read it", {"file_path": "/f"}, title="Read it", kind="read"), ToolResult("c", "done")],
    ),
    "several edits of a file": (
        [tool(status="completed", content=[*diff("a", "b"), *diff("c", "d")])],
        [
            ToolCall("c", "MultiEdit", {"file_path": "/f", "edits": [
                {"old_string": "a", "new_string": "b"}, {"old_string": "c", "new_string": "d"}]}),
            ToolResult("c", "done"),
        ],
    ),
    "edits of several files": (
        [tool(status="completed", content=[*diff("a", "b"), {"type": "diff", "path": "/g", "newText": "n"}])],
        [
            ToolCall("c", "CodexPatch", {"changes": {
                "/f": {"modify": {"old_content": "a", "new_content": "b"}}, "/g": {"add": {"content": "n"}}}}),
            ToolResult("c", "done"),
        ],
    ),
    "the name that Claude's adapter tells": (
        [tool(title="`ls`", status="completed", rawInput={"command": "ls"}, _meta={"claudeCode": {"toolName": "Bash"}})],
        [ToolCall("c", "Bash", {"command": "ls"}, title="`ls`"), ToolResult("c", "done")],
    ),
    "the same context again": (
        [{"sessionUpdate": "usage_update", "used": 5, "size": 10}] * 3, [Usage(context_tokens=5, context_window=10)],
    ),
    "an echo": ([text("me", "user_message_chunk")], []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_turns(name):
    updates, events = CASES[name]
    assert played(*updates) == events


def test_thought_and_text_are_blocks_of_their_own():
    events = played(thought("a"), thought("b"), text("c"), thought("d"))
    assert [event.text for event in events] == ["ab", "c", "d"]
    assert [type(event) for event in events] == [Reasoning, AgentText, Reasoning]
    assert events[0].block != events[2].block


def test_growing_thought_keeps_its_block():
    turn = Turn()
    assert turn.thinking is None
    turn.update(thought("a"))
    first = turn.thinking
    turn.update(thought("b"))
    assert (turn.thinking[0], turn.thinking[1]) == (first[0], "ab")
    (event,) = turn.finish("end_turn")
    assert (event.block, turn.thinking) == (first[0], None)


def test_generations_do_not_share_blocks():
    blocks = set()
    for generation in (1, 2):
        turn = Turn(generation)
        turn.update(thought("a"))
        blocks |= {event.block for event in turn.finish("end_turn")}
    assert len(blocks) == 2


def test_long_text_is_cut_into_blocks_and_nothing_is_lost():
    events = played(text("x" * (2 * TEXT_LIMIT + 5)))
    assert [len(event.text) for event in events] == [TEXT_LIMIT, TEXT_LIMIT, 5]


@pytest.mark.parametrize(
    "huge",
    ["x" * 9_000_000, {"a": ["x" * 9_000_000]}, ["xy" * 1000] * 9_000, {str(n): n for n in range(900_000)}],
    ids=["text", "inside", "many", "numbers"],
)
@pytest.mark.parametrize("where", ["rawInput", "rawOutput"])
def test_what_a_tool_says_fits_on_the_bus(where, huge):
    """An event over the wire's limit blocked all that came after it from the hub."""
    for event in played(tool(title="t", status="completed", **{where: huge})):
        assert len(encode(event)) < 1_000_000


def test_a_cancelled_turn_says_so_of_its_calls():
    assert played(tool(title="t"), end="cancelled")[-1] == ToolResult("c", "cancelled", is_error=True)


def test_permission_is_asked_with_what_is_known_of_the_call():
    turn = Turn()
    turn.update(tool(title="ls", kind="execute", rawInput={"command": "ls"}))
    assert turn.describe({"toolCallId": "c"}) == ("ls", {"command": "ls"}, "execute")
    assert turn.describe({"toolCallId": "c", "title": "rm", "kind": None}) == ("rm", {"command": "ls"}, "execute")
    assert turn.describe({}) == ("Tool", {}, None)


def test_news_about_the_session():
    turn = Turn()
    for kind, fields in {
        "available_commands_update": {"availableCommands": [{"name": "help", "description": "d"}, {"x": 1}, 5]},
        "current_mode_update": {"currentModeId": "plan"},
        "session_info_update": {"title": "Mend"},
        "config_option_update": {"configOptions": [{"id": "model"}]},
        "from_the_future": {},
    }.items():
        assert turn.update({"sessionUpdate": kind, **fields}) == []
    assert (turn.commands, turn.mode, turn.title) == ([SlashCommand("help", "d")], "plan", "Mend")
    assert turn.config_options == [{"id": "model"}]
    assert turn.unknown == {"from_the_future": 1}


@pytest.mark.parametrize("empty", [None, "", " ", "Untitled", "New session - 2026-01-01", 5, ["x"]])
def test_a_title_that_says_nothing_is_none(empty):
    turn = Turn()
    turn.update({"sessionUpdate": "session_info_update", "title": "Mend"})
    turn.update({"sessionUpdate": "session_info_update", "title": empty})
    assert turn.title == "Mend"


def test_a_plan_to_leave_planning_with():
    turn = Turn()
    asked = {"toolCallId": "c", "title": "Ready?", "kind": "switch_mode", "rawInput": {"plan": "1. Dig."}}
    assert turn.describe(asked) == ("ExitPlanMode", {"plan": "1. Dig."}, "switch_mode")
    words = [{"type": "content", "content": {"type": "text", "text": "2. Fill."}}]
    assert turn.describe({"kind": "switch_mode", "content": words})[:2] == ("ExitPlanMode", {"plan": "2. Fill."})
    assert turn.describe({"kind": "switch_mode", "title": "Mode"})[0] == "Mode"


def test_tokens_that_the_chunks_tell_are_those_of_the_turn():
    """Qwen tells them chunk by chunk, a call of the model at a time; the context stays known."""
    turn = Turn()
    turn.update({"sessionUpdate": "usage_update", "used": 7, "size": 9})
    for _ in range(2):
        turn.update({**text("a"), "_meta": {"usage": {"inputTokens": 3, "outputTokens": 1, "totalTokens": 4, "x": []}}})
    (found,) = turn.spent({}, "m")
    assert (found.input_tokens, found.output_tokens, found.total_tokens) == (6, 2, 8)
    assert (found.context_tokens, found.context_window) == (7, 9)
    assert turn.spent({}, "m") == []


def test_what_is_remembered_is_bounded():
    turn = Turn()
    for number in range(CLOSED_KEPT + 50):
        turn.update(tool(f"c{number}", title="t", status="completed", content=[{"type": "content", "content": IMAGE}]))
        turn.update({"sessionUpdate": f"odd {number}"})
    assert max(len(turn._closed), len(turn._pictures)) <= CLOSED_KEPT
    assert len(turn.unknown) <= UNKNOWN_KEPT and not turn._told


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({}, []),
        ({"usage": 5}, []),
        ({"_meta": []}, []),
        ({"_meta": {"quota": 5}}, []),
        ({"usage": {"inputTokens": 1, "outputTokens": 2, "totalTokens": 3}}, [(1, 2, 3)]),
        ({"usage": {"inputTokens": "x"}}, [(0, 0, None)]),
        ({"_meta": {"quota": {"token_count": {"input_tokens": 4, "output_tokens": 5}}}}, [(4, 5, None)]),
    ],
)
def test_usage(answer, expected):
    found = usage(answer, "opus")
    assert [(event.input_tokens, event.output_tokens, event.total_tokens) for event in found] == expected
    assert all(event.model == "opus" for event in found)


def nested(depth):
    value = "x"
    for _ in range(depth):
        value = [value]
    return value


# each of these raised out of the transport, and with it the whole conversation was over
BROKEN = {
    "content is a number": tool(status="completed", content=5),
    "content is true": tool(status="completed", content=True),
    "status is a list": tool(status=[]),
    "status is an object": tool(status={}),
    "priority is a list": plan({"content": "a", "priority": []}),
    "step's status is an object": plan({"content": "a", "status": {}}),
    "a nested input": tool(title="t", rawInput=nested(900)),
    "a nested output": tool(status="completed", rawOutput=nested(900)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_updates_do_not_raise(name):
    for event in played(BROKEN[name], text("after")):
        encode(event)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats(allow_nan=False) | st.sampled_from(["", "x", "completed"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "name", "path"]), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
KEYS = ("toolCallId", "_meta", "locations", "title", "status", "title", "kind", "content", "rawInput", "rawOutput", "entries", "used", "size",
        "availableCommands", "currentModeId", "configOptions")  # fmt: skip
NAMES = ("agent_message_chunk", "agent_thought_chunk", "tool_call", "tool_call_update", "plan", "usage_update",
         "available_commands_update", "current_mode_update", "session_info_update", "config_option_update")  # fmt: skip
updates = st.builds(
    lambda kind, fields: {"sessionUpdate": kind, **fields},
    st.sampled_from(NAMES) | json_values,
    st.dictionaries(st.sampled_from(KEYS), json_values, max_size=5),
)


@given(st.lists(updates, max_size=6), json_values)
def test_whatever_an_agent_says(said, answer):
    turn = Turn()
    events = [event for update in said for event in turn.update(update)]
    name, _, kind = turn.describe(said[0] if said else {})
    assert isinstance(name, str) and (kind is None or isinstance(kind, str))
    events += turn.finish("end_turn")
    events += usage({"usage": answer, "_meta": answer}, None)
    events += turn.spent({"usage": answer}, None)
    for event in events:
        encode(event)
    calls = {event.call_id for event in events if isinstance(event, ToolCall)}
    assert {event.call_id for event in events if isinstance(event, ToolResult)} == calls


HUGE_NUMBER = 2**64


@pytest.mark.parametrize("number", [HUGE_NUMBER, -(2**63) - 1, int("9" * 4_000)], ids=["over", "under", "long"])
@pytest.mark.parametrize("where", ["rawInput", "rawOutput"])
def test_a_number_that_messagepack_has_no_room_for(where, number):
    """In a permission request it kept every later state of the session from the hub."""
    events = played(tool(title="t", status="completed", **{where: {"n": [number]}}))
    assert any(str(number) in encode(event).decode(errors="replace") for event in events)


@pytest.mark.parametrize("number", [HUGE_NUMBER, -1, True, 1.5])
def test_a_count_that_is_none(number):
    """One of more than 64 bits ended the session at the end of its turn."""
    turn = Turn()
    turn.update({"sessionUpdate": "usage_update", "used": number, "size": 5})
    (event,) = turn.spent({"usage": {"inputTokens": number, "outputTokens": 3}}, "m")
    assert (event.input_tokens, event.output_tokens, event.context_tokens) == (0, 3, None)


@pytest.mark.parametrize("end", ["error", "opened"])
def test_what_a_prompt_without_an_answer_has_cost_is_not_the_next_ones(end):
    turn = Turn()
    turn.update(text("a") | {"_meta": {"usage": {"inputTokens": 5}}})
    turn.finish(end)
    assert turn.spent({}, "m") == []


def test_names_plans_and_commands_are_bounded():
    long = "x" * 9_000_000
    turn = Turn()
    turn.update(
        {
            "sessionUpdate": "available_commands_update",
            "availableCommands": [{"name": long}, {"name": "a", "description": long}] * 900,
        }
    )
    assert 0 < len(turn.commands) <= 500
    assert len(encode(turn.commands)) < 1_000_000
    (plan,) = turn.update({"sessionUpdate": "plan", "entries": [{"content": long}] * 900})
    (call,) = turn.update(tool(title=long))
    assert max(len(encode(plan)), len(encode(call))) < 1_000_000
