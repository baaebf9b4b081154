"""Golden bytes: what every message looks like on the wire and on disk. A change here is a change of the protocol.

`HAPI_REGOLD=1 pytest tests/unit/test_golden.py` writes the files anew; then look at the diff and think of old peers.
"""

import os
import typing
from pathlib import Path

import msgspec
import pytest

from hapi import journal, wire
from hapi.ids import ProcessId
from hapi.lifecycle import EndReason, Phase
from hapi.terminal import protocol
from hapi.workers import orders

GOLDEN = Path(__file__).parent.parent / "golden"
SESSION = "1f0c22ab-0000-4000-8000-000000000001"
AT = 1_700_000_000_000
BOOT = "7d0c4e9a-6d5a-4a53-9a36-7c2f6f1f5b1e"
PROCESS = ProcessId(4711, 123_456, BOOT)
INFO = wire.SessionInfo(
    session_id=SESSION,
    namespace="work",
    agent="claude",
    directory="/home/u/проект",
    phase=Phase.ENDED,
    started_by="terminal",
    started_at=AT,
    supervisor=PROCESS,
    agent_process=ProcessId(4712, 123_460, BOOT),
    generation=3,
    reason=EndReason.AGENT_CRASHED,
    exit_code=7,
    exit_signal=9,
    ended_at=AT + 1,
    detail="SIGKILL",
    title="Mend the bus",
    native_id="native-1",
    model="opus",
    permission_mode="plan",
    version="1.2.3",
    effort="high",
    worktree=wire.WorktreeInfo("/home/u/p", "hapi-fix", "fix", "/home/u/p-worktrees/fix", AT),
    unknown_messages=1,
    events_lost=2,
    config={"serviceTier": "fast"},
    defaults={"model": "sonnet"},
    granted_mode="default",
    driver="pty",
    queued=4,
    last_words="All of it is done.",
)
REQUEST = wire.PermissionRequest(
    request_id="call-1", tool="Bash", arguments={"command": "ls"}, created_at=AT, tool_call_id="call-1"
)
OUTCOME = wire.PermissionOutcome(
    request=REQUEST,
    completed_at=AT + 2,
    status="denied",
    decision="abort",
    mode="plan",
    reason="no",
    answers={"0": ["Red"]},
)
ATTACHMENT = wire.Attachment("a1", "x.png", "image/png", 12, "/tmp/x.png")
MESSAGE = wire.UserMessage(id="m1", text="hello", created_at=AT, local_id="l1", seq=5, attachments=[ATTACHMENT])
FAILURE = wire.Failure("bad_request", "No.", "Ask again.")
ORDER = wire.Spawn(
    session_id=SESSION,
    directory="/home/u/p",
    agent="demo",
    started_by="runner",
    model="demo-fast",
    effort="low",
    permission_mode="plan",
    yolo=True,
    worktree="fix",
    args=["--x"],
    env={"PATH": "/bin"},
    resume="native-1",
    existing=True,
    config={"k": "v"},
    umask=0o027,
    driver="pty",
    command=["top", "-d", "1"],
    cols=132,
    rows=43,
)
HUB = wire.HubStatus(
    url="http://hub", online=True, reason="fine", refused=True, retry_at=AT, machine_id="mac", counters={"sent": 1}
)
EVENT = wire.NumberedEvent(7, AT, wire.AgentText("hi", wire.ImageRef("i1", "a.png", "image/png", "c1")))
CHOICE = wire.Choice("opus", "Opus", "the large one")

MESSAGES = (
    wire.UserText("hello"),
    wire.AgentText("**hi** ☺", wire.ImageRef("i1", "a.png", "image/png", "c1")),
    wire.Reasoning("thought-1", "hm"),
    wire.ToolCall("c1", "Bash", {"command": "ls", "n": [1, 2.5, None, True]}, "in_progress", "List", "execute"),
    wire.ToolResult("c1", {"out": ["a"]}, is_error=True),
    wire.Plan([wire.PlanEntry("step", "high", "completed")]),
    wire.Usage(
        model="opus",
        input_tokens=1,
        output_tokens=2,
        total_tokens=3,
        thought_tokens=4,
        cached_input_tokens=5,
        cache_write_tokens=6,
        context_tokens=7,
        context_window=8,
    ),
    wire.Note("careful", is_error=True),
    wire.Consumed(["l1", "l2"]),
    wire.Indeterminate(["l3"]),
    wire.ModeChanged("plan"),
    wire.TurnEnded("end_turn", more=True),
    wire.GetStatus(),
    wire.ListSessions(ended=True),
    ORDER,
    wire.StopSession("1f0c", "hub", "too slow", handoff=True),
    wire.SendText("1f0c", "hello", "k1"),
    wire.WaitSession("1f0c", "ended", 1500),
    wire.StopRunner("os-signal"),
    wire.Status(
        pid=1,
        version="1.2.3",
        namespace="work",
        endpoint="ipc:///x/broker.sock",
        started_at=AT,
        log_path="/x/runner.log",
        workspace_roots=["/home/u"],
        hub=HUB,
        workers={"hub": wire.WorkerStatus(2, 3, "died 5 times in the last minute")},
        sessions={"idle": 1},
        verdicts={"adopted": 2},
        counters={"dropped": 3},
        last_heartbeat=AT,
        heartbeat_age_ms=1500,
        heartbeat_interval_ms=5000,
        supervised=True,
        stopping=True,
        warnings=["look"],
        protocol=2,
        fingerprint="0011223344556677",
        install="/opt/hapi",
        handoff_disabled=True,
        handoff=wire.HandoffStatus(
            installed_version="1.2.4",
            installed_fingerprint="8899aabbccddeeff",
            recent=1,
            reason="it was replaced once",
            again_at=AT + 3,
        ),
    ),
    wire.SessionList([INFO]),
    wire.Spawned(INFO, existing=True),
    wire.SessionStopped("still_alive", SESSION, "kill", [4712]),
    wire.Waited(INFO, reached=True),
    wire.RunnerStopping(3),
    wire.Accepted("done"),
    FAILURE,
    wire.Hello(name=f"session:{SESSION}", process=PROCESS, version="1.2.3", generation=2, info=INFO, protocol=2),
    wire.Beat(),
    wire.SessionChanged(INFO),
    wire.SpawnFailed(session_id=SESSION, failure=FAILURE),
    wire.SupervisorGone(session_id=SESSION, process=PROCESS, reaped=2, survivors=[9], unknown_messages=1),
    wire.Heartbeat(at=AT, installed_version="1.2.4", fingerprint="8899aabbccddeeff"),
    HUB,
    wire.Welcome(
        instance="abc",
        hub=True,
        hub_online=True,
        order=ORDER,
        workspace_roots=["/home/u"],
        runner_pid=1,
        runner_started_at=AT,
        umask=0o027,
        protocol=2,
        fingerprint="0123456789abcdef",
    ),
    wire.Refused("too late"),
    wire.HelloWanted(),
    wire.PeerUp("hub"),
    wire.PeerDown("hub"),
    wire.HubOnline(online=True),
    wire.Shutdown("hapi-cli"),
    wire.Watch([wire.Watched(session_id=SESSION, supervisor=PROCESS, agent=PROCESS)]),
    wire.Unwatch(SESSION),
    wire.SessionLost(INFO),
    MESSAGE,
    wire.CancelMessage("m1", "l1"),
    wire.RetryMessage(MESSAGE),
    wire.AnswerPermission(
        request_id="call-1",
        approved=True,
        decision="approved_for_session",
        mode="plan",
        allow_tools=["Bash"],
        answers={"q": ["a"]},
    ),
    wire.AbortTurn(),
    wire.Configure({"model": "opus", "effort": None}),
    wire.Delivered(7),
    wire.Snapshot(
        info=INFO,
        effort="high",
        requests=[REQUEST],
        outcomes=[OUTCOME],
        worktree=wire.WorktreeInfo("/home/u/p", "hapi-fix", "fix", "/home/u/p-worktrees/fix", AT),
        commands=[wire.SlashCommand("help", "all of it")],
        models=[CHOICE],
        modes=[CHOICE],
        config={"k": "v"},
        last_seq=7,
        protocol=2,
        efforts=[CHOICE],
        can_fork=True,
    ),
    wire.Events([EVENT]),
    wire.LiveReasoning("thought-1", "h"),
    wire.MessageFate("in_flight"),
    wire.Configured({"model": "opus", "effort": None}),
    wire.ForkConversation(),
    wire.Forked("n-2"),
)
ENTRIES = (
    journal.Received(MESSAGE),
    journal.Taken("m1"),
    journal.Removed("m1"),
    journal.Emitted(EVENT),
    journal.Delivered(7),
    journal.Base(7, 5, [("m1", "taken")]),
)
ORDERS = (
    orders.Fork("session", SESSION),
    orders.Forked("session", SESSION, 4711),
    orders.ForkFailed("session", SESSION, "out of memory"),
    orders.Exited("hub", "none", 4711, -9),
)
TERMINAL = (
    protocol.Attach(
        terminal="shell-1",
        cols=132,
        rows=50,
        read_only=True,
        open_shell=True,
        replay=False,
        viewer="web",
        level=2,
        answers=False,
    ),
    protocol.Input("ü\r".encode()),
    protocol.Resize(132, 50),
    protocol.Redraw(history=False),
    protocol.CloseTerminal(),
    protocol.Attached(info=INFO, terminal="shell-1", cols=132, rows=50, created=True, viewers=2, level=2),
    protocol.Replay(data=b"\x1b[2J", lost=7),
    protocol.Output(b"\xc3"),
    protocol.Resized(132, 50),
    protocol.Ended(code=7, signal=9, reason="SIGKILL"),
)
HEADER = wire.Header(f"session:{SESSION}", "hub", 42, reply=True)


def unions(module):
    """Every struct in every union of tagged structs that a module defines."""
    found = {}
    for value in vars(module).values():
        members = typing.get_args(value)
        if members and all(isinstance(m, type) and issubclass(m, msgspec.Struct) for m in members):
            found |= dict.fromkeys(members)
    return list(found)


def tag(kind):
    return kind.__struct_config__.tag


GROUPS = {
    "wire": (unions(wire), MESSAGES, GOLDEN),
    "journal": ([*typing.get_args(journal.Entry)], ENTRIES, GOLDEN / "journal"),
    "nursery": ([orders.Fork, *typing.get_args(orders.FromNursery)], ORDERS, GOLDEN / "nursery"),
    "terminal": ([kind for kind in unions(protocol) if kind is not wire.Failure], TERMINAL, GOLDEN / "terminal"),
    "header": ([wire.Header], (HEADER,), GOLDEN / "header"),
}
CASES = [
    pytest.param(message, folder / f"{tag(type(message)).replace('/', '-')}.msgpack", id=f"{name}-{tag(type(message))}")
    for name, (_, messages, folder) in GROUPS.items()
    for message in messages
]


@pytest.mark.parametrize("group", GROUPS)
def test_every_message_has_one_example(group):
    kinds, messages, _ = GROUPS[group]
    assert sorted(kind.__name__ for kind in kinds) == sorted(type(message).__name__ for message in messages)


def test_the_unions_are_found():
    assert {wire.Hello, wire.Events, wire.Status, wire.TurnEnded, wire.Watch} <= set(unions(wire))
    assert len(unions(wire)) > 50


@pytest.mark.parametrize(("message", "path"), CASES)
def test_the_bytes_are_the_golden_ones(message, path):
    data = wire.encode(message)
    if os.environ.get("HAPI_REGOLD") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    assert path.read_bytes() == data
    assert msgspec.msgpack.decode(data, type=type(message)) == message


@pytest.mark.parametrize("group", GROUPS)
def test_no_golden_file_without_a_message(group):
    _, _, folder = GROUPS[group]
    wanted = {case.values[1] for case in CASES}
    assert {path for path in folder.iterdir() if path.is_file()} <= wanted


@pytest.mark.parametrize(("message", "path"), CASES)
def test_the_example_sets_every_field(message, path):
    """A new field must show up in the golden bytes: nothing in an example may be its field's default."""
    assert unset(message) == []


def unset(value):
    if isinstance(value, list | tuple):
        return [name for item in value for name in unset(item)]
    if isinstance(value, dict):
        return unset(list(value.values()))
    if not isinstance(value, msgspec.Struct):
        return []
    found = []
    for field in msgspec.structs.fields(value):
        inner = getattr(value, field.name)
        default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
        if default is not msgspec.NODEFAULT and inner == default:
            found.append(f"{type(value).__name__}.{field.name}")
        found += unset(inner)
    return found


@pytest.mark.parametrize("kinds", [pytest.param(kinds, id=name) for name, (kinds, _, _) in GROUPS.items()])
def test_tags_are_unique_and_say_what_the_class_says(kinds):
    tags = [tag(kind) for kind in kinds if kind is not wire.Header]
    assert len(set(tags)) == len(tags)
    assert [name.replace("_", "") for name in tags] == [k.__name__.lower() for k in kinds if k is not wire.Header]


def test_the_protocol_name_leads_every_header():
    assert wire.encode(HEADER)[1:].startswith(b"\xa6" + wire.PROTOCOL.encode())
