"""The demo agent, driven as a real process through the ACP SDK's client, command by command."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager

import acp
import psutil
import pytest

WAIT = 10
COMMAND = (sys.executable, "-m", "hapi.agents.demo")


class Client(acp.Client):
    """Remembers all updates and settles permissions by `option` (None: says cancelled; an event: waits for it)."""

    def __init__(self):
        self.updates = []
        self.option = "allow_once"
        self.asked = asyncio.Event()
        self.changed = asyncio.Event()

    async def session_update(self, session_id, update, **kwargs):
        self.updates.append(update)
        self.changed.set()

    async def request_permission(self, session_id, tool_call, options, **kwargs):
        self.options = options
        self.asked.set()
        if isinstance(self.option, asyncio.Event):
            await self.option.wait()
        if not isinstance(self.option, str):
            return acp.RequestPermissionResponse.model_validate({"outcome": {"outcome": "cancelled"}})
        outcome = {"outcome": "selected", "optionId": self.option}
        return acp.RequestPermissionResponse.model_validate({"outcome": outcome})

    async def seen(self, kind):
        """The first update of a kind, as soon as there is one."""
        async with asyncio.timeout(WAIT):
            while not (found := self.of(kind)):
                self.changed.clear()
                await self.changed.wait()
        return found[0]

    def of(self, kind):
        return [update for update in self.updates if update.session_update == kind]

    def text(self, kind="agent_message_chunk"):
        return "".join(update.content.text for update in self.of(kind))


class Demo:
    """A running demo agent with one session open."""

    def __init__(self, process, connection, client):
        self.process, self.connection, self.client = process, connection, client

    async def open(self, cwd):
        self.initialized = await self.connection.initialize(protocol_version=1)
        self.opened = await self.connection.new_session(cwd=str(cwd), mcp_servers=[])
        self.id = self.opened.session_id

    def start(self, text):
        return asyncio.ensure_future(self.connection.prompt(session_id=self.id, prompt=[acp.text_block(text)]))

    async def say(self, text):
        """Send a prompt; returns (text of the answer, stop reason)."""
        self.client.updates.clear()
        async with asyncio.timeout(WAIT):
            response = await self.start(text)
        return self.client.text(), response.stop_reason

    async def gone(self):
        async with asyncio.timeout(WAIT):
            return await self.process.wait()


@asynccontextmanager
async def running(cwd, env=None, *, session=True):
    env = {**os.environ, "HAPI_DEMO_DELAY_MS": "0", "PYTHONPATH": os.getcwd(), **(env or {})}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
    process = await asyncio.create_subprocess_exec(*COMMAND, env=env, cwd=cwd, start_new_session=True, **pipes)
    client = Client()
    connection = acp.connect_to_agent(client, process.stdin, process.stdout, use_unstable_protocol=True)
    demo = Demo(process, connection, client)
    try:
        if session:
            await demo.open(cwd)
        yield demo
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await connection.close()
        process._transport.close()


@pytest.fixture
async def demo(tmp_path):
    async with running(tmp_path) as agent:
        yield agent


async def test_what_it_offers(demo):
    assert demo.initialized.protocol_version == 1
    assert demo.initialized.agent_capabilities.load_session
    assert demo.initialized.agent_info.name == "hapi-demo"
    assert [mode.id for mode in demo.opened.modes.available_modes][-1] == "bypassPermissions"
    categories = [option.category for option in demo.opened.config_options]
    assert categories == ["model", "thought_level", None, None]  # the SDK drops those that it does not know
    commands = await demo.client.seen("available_commands_update")
    assert {"say", "ask", "crash"} <= {command.name for command in commands.available_commands}


async def test_plain_text_is_echoed_with_a_thought_and_usage(demo):
    demo.client.updates.clear()
    response = await demo.start("hello there, this is a longer message")
    assert demo.client.text() == "You said: hello there, this is a longer message"
    assert len(demo.client.of("agent_message_chunk")) > 2
    assert demo.client.text("agent_thought_chunk")
    assert demo.client.of("usage_update")[0].size == 100_000
    assert response.stop_reason == "end_turn"
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens > 0


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("/say one", "one"),
        ("/say one ; /say two", "one\n\ntwo"),
        ("/say one\n/say two", "one\n\ntwo"),
        ("/count", "1"),
        ("/env NO_SUCH_VARIABLE", "unset"),
        ("/env HAPI_DEMO_DELAY_MS", "0"),
        ("/nonsense", "There is no command `/nonsense`. Try `/help`."),
        ("/slow x", "`/slow x` failed: could not convert string to float: 'x'"),
        ("/slow 0 3", "chunk 1 of 3 chunk 2 of 3 chunk 3 of 3 "),
        ("/edit ../out x", "`/edit ../out x` failed: FILE must lie in the working directory"),
        ("/spew 16100 stdout-text", ("x" * 99 + "\n") * 161),
    ],
)
async def test_commands_that_only_talk(demo, prompt, answer):
    assert await demo.say(prompt) == (answer, "end_turn")


async def test_place_and_process(demo, tmp_path):
    assert await demo.say("/cwd") == (str(tmp_path), "end_turn")
    assert await demo.say("/pid") == (str(demo.process.pid), "end_turn")
    assert "/ignore-signals" in (await demo.say("/help"))[0]


async def test_think_title_usage(demo):
    await demo.say("/think hmm ; /title Moving house ; /usage 4242")
    assert demo.client.text("agent_thought_chunk") == "hmm"
    assert demo.client.of("session_info_update")[0].title == "Moving house"
    assert demo.client.of("usage_update")[0].used == 4242


async def test_plan_goes_from_pending_to_completed(demo):
    await demo.say("/plan buy | cook")
    states = [[entry.status for entry in update.entries] for update in demo.client.of("plan")]
    assert states == [["in_progress", "pending"], ["completed", "in_progress"], ["completed", "completed"]]


@pytest.mark.parametrize(("prompt", "status"), [("/tool make", "completed"), ("/tool make fail", "failed")])
async def test_tool(demo, prompt, status):
    await demo.say(prompt)
    assert demo.client.of("tool_call")[0].title == "make"
    assert [update.status for update in demo.client.of("tool_call_update")] == ["in_progress", status]


async def test_edit_writes_the_file_and_shows_the_difference(demo, tmp_path):
    (tmp_path / "a.txt").write_text("old\n")
    await demo.say("/edit a.txt new text")
    assert (tmp_path / "a.txt").read_text() == "new text\n"
    [difference] = demo.client.of("tool_call_update")[0].content
    assert (difference.old_text, difference.new_text) == ("old\n", "new text\n")
    assert demo.client.of("tool_call")[0].kind == "edit"


@pytest.mark.parametrize(
    ("option", "status"),
    [("allow_once", "completed"), ("allow_always", "completed"), ("reject_once", "failed"), (None, "failed")],
)
async def test_permission(demo, option, status):
    demo.client.option = option
    assert await demo.say("/ask rm") == (f"Permission: {option or 'cancelled'}", "end_turn")
    assert [option.kind for option in demo.client.options] == ["allow_once", "allow_always", "reject_once"]
    assert demo.client.of("tool_call_update")[-1].status == status


async def test_cancel_while_a_permission_is_open(demo):
    demo.client.option = asyncio.Event()
    turn = demo.start("/ask rm")
    await asyncio.wait_for(demo.client.asked.wait(), WAIT)
    await demo.connection.cancel(session_id=demo.id)
    assert (await asyncio.wait_for(turn, WAIT)).stop_reason == "cancelled"
    demo.client.option.set()
    assert await demo.say("/say still here") == ("still here", "end_turn")


async def test_cancel_stops_a_slow_answer_at_once(demo):
    turn = demo.start("/slow 60 600")
    await demo.client.seen("agent_message_chunk")
    began = time.monotonic()
    await demo.connection.cancel(session_id=demo.id)
    assert (await asyncio.wait_for(turn, WAIT)).stop_reason == "cancelled"
    assert time.monotonic() - began < 0.5


async def test_a_prompt_while_busy_waits_its_turn(demo):
    first, second = demo.start("/slow 0.2 ; /say first"), demo.start("/say second ; /count")
    responses = await asyncio.wait_for(asyncio.gather(first, second), WAIT)
    assert [response.stop_reason for response in responses] == ["end_turn", "end_turn"]
    assert demo.client.text().endswith("firstsecond\n\n2")


async def test_modes_models_and_options(demo):
    await demo.connection.set_session_mode(session_id=demo.id, mode_id="plan")
    assert (await demo.client.seen("current_mode_update")).current_mode_id == "plan"
    changed = await demo.connection.set_config_option(config_id="effort", session_id=demo.id, value="high")
    assert [option.current_value for option in changed.config_options] == ["demo-fast", "high", "standard", "default"]
    raw = {"sessionId": demo.id, "modelId": "demo-slow"}
    changed = await demo.connection._conn.send_request("session/set_model", raw)
    assert changed["configOptions"][0]["currentValue"] == "demo-slow"


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("no/such", {}, -32601),
        ("session/prompt", {}, -32602),
        ("session/prompt", {"sessionId": "00", "prompt": []}, -32002),
        ("session/load", {"sessionId": "../../etc/passwd", "cwd": "/"}, -32002),
        ("session/new", {"cwd": None}, -32602),
        ("session/new", {"cwd": "here"}, -32602),
    ],
)
async def test_bad_requests_get_errors(demo, method, params, code):
    with pytest.raises(acp.RequestError) as caught:
        await demo.connection._conn.send_request(method, params)
    assert caught.value.code == code


@pytest.mark.parametrize("mode", ["plan", "nonsense"])
async def test_set_mode_knows_its_modes(demo, mode):
    request = demo.connection.set_session_mode(session_id=demo.id, mode_id=mode)
    if mode == "plan":
        await request
    else:
        with pytest.raises(acp.RequestError, match="no such mode"):
            await request


async def test_a_loaded_session_goes_on_where_it_was(tmp_path):
    env = {"HAPI_DEMO_HOME": str(tmp_path / "demo")}
    async with running(tmp_path, env) as before:
        await before.say("hello")
        await before.connection.set_session_mode(session_id=before.id, mode_id="acceptEdits")
        session = before.id
    async with running(tmp_path, env, session=False) as after:
        await after.connection.initialize(protocol_version=1)
        loaded = await after.connection.load_session(cwd=str(tmp_path), session_id=session, mcp_servers=[])
        assert loaded.modes.current_mode_id == "acceptEdits"
        await after.client.seen("available_commands_update")
        assert after.client.text("user_message_chunk") == "hello"
        assert after.client.text() == "You said: hello"
        after.id = session
        assert await after.say("/count") == ("2", "end_turn")


async def test_load_within_one_process_needs_no_home(demo, tmp_path):
    await demo.say("/say x")
    await demo.connection.load_session(cwd=str(tmp_path), session_id=demo.id, mcp_servers=[])
    assert await demo.say("/count") == ("2", "end_turn")


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("/crash", 1),
        ("/crash exit 7", 7),
        ("/crash signal KILL", -signal.SIGKILL),
        ("/crash signal segv", -signal.SIGSEGV),
    ],
)
async def test_crash(demo, prompt, code):
    turn = demo.start(prompt)
    assert await demo.gone() == code
    with pytest.raises(ConnectionError):
        await asyncio.wait_for(turn, WAIT)


async def test_ignored_signals_and_end_of_input(demo):
    await demo.say("/ignore-signals")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        demo.process.send_signal(number)
    assert await demo.say("/say alive") == ("alive", "end_turn")
    demo.process.stdin.write_eof()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(demo.process.wait(), 0.2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
async def test_signals_end_it_quietly(demo, number):
    demo.process.send_signal(number)
    assert await demo.gone() == -number
    assert await demo.process.stderr.read() == b""


async def test_spew_fills_stderr(demo):
    turn = demo.start("/spew 1000000 ; /say done")
    assert len(await asyncio.wait_for(demo.process.stderr.readexactly(1_000_000), WAIT)) == 1_000_000
    assert (await asyncio.wait_for(turn, WAIT)).stop_reason == "end_turn"
    assert demo.client.text() == "done"


async def test_hang_does_not_even_answer_a_cancel(demo):
    turn = demo.start("/hang")
    await demo.client.seen("agent_thought_chunk")
    await demo.connection.cancel(session_id=demo.id)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(turn, 0.2)


@pytest.mark.parametrize("how", ["", "setsid", "ignore", "setsid ignore"])
async def test_child(demo, how):
    answer, _ = await demo.say(f"/child {how}")
    child = psutil.Process(int(answer.split()[-1]))
    try:
        assert (child.ppid() == demo.process.pid) is ("setsid" not in how)
        assert (os.getsid(child.pid) == demo.process.pid) is ("setsid" not in how)
        if "ignore" in how:
            child.terminate()
            with pytest.raises(psutil.TimeoutExpired):
                child.wait(0.1)
    finally:
        child.kill()


def raw(env=None, **pipes):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), **(env or {})}
    return subprocess.Popen(COMMAND, stdin=-1, stdout=-1, env=environment, **pipes)


def ask(process, method, **params):
    """A request by hand; returns the lines up to its reply, which is the last."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()
    lines = [process.stdout.readline()]
    while b'"id":1' not in lines[-1]:
        lines.append(process.stdout.readline())
    return lines


def test_garbage_and_a_clean_exit_at_the_end_of_input():
    with raw() as process:
        session = json.loads(ask(process, "session/new", cwd="/")[-1])["result"]["sessionId"]
        lines = ask(process, "session/prompt", sessionId=session, prompt=[{"type": "text", "text": "/garbage"}])
        assert {b"this line is no JSON\n", b"123\n"} <= set(lines)
        process.stdin.close()
        assert process.wait(WAIT) == 0


@pytest.mark.parametrize(("line", "code"), [(b"{", -32700), (b"[]", -32600), (b"\xff", -32700)])
def test_bad_lines_are_answered_and_survived(line, code):
    with raw() as process:
        process.stdin.write(line + b"\n{}\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["error"]["code"] == code
        assert json.loads(ask(process, "initialize")[-1])["result"]["protocolVersion"] == 1


def test_a_broken_pipe_is_no_drama():
    with raw(stderr=-1) as process:
        process.stdout.close()
        process.stdin.write(b'{"id":1,"method":"initialize"}\n')
        process.stdin.flush()
        assert process.wait(WAIT) == 0
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    ("faults", "code", "stderr"),
    [("exit:3", 3, b""), ("stderr:no key,exit:9", 9, b"no key\n"), ("slow:0.05,exit:2", 2, b""), ("x", 1, b"no such")],
)
def test_faults_at_the_start(faults, code, stderr):
    with raw({"HAPI_DEMO_START": faults}, stderr=-1) as process:
        assert process.wait(WAIT) == code
        assert stderr in process.stderr.read()


def test_hang_at_the_start():
    with raw({"HAPI_DEMO_START": "stderr:here,hang"}, stderr=-1) as process:
        assert process.stderr.readline() == b"here\n"
        process.stdin.close()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()


def test_help_and_wrong_arguments():
    run = subprocess.run([*COMMAND, "--help"], capture_output=True, check=False, timeout=WAIT)
    assert run.returncode == 0
    assert b"HAPI_DEMO_START" in run.stdout
    assert subprocess.run([*COMMAND, "x"], capture_output=True, check=False, timeout=WAIT).returncode == 2


async def test_what_it_changes_by_itself(tmp_path):
    env = {"HAPI_DEMO_HOME": str(tmp_path / "demo")}
    async with running(tmp_path, env) as demo:
        await demo.say("/set mode plan ; /set model demo-slow ; /set effort high")
        assert (await demo.client.seen("current_mode_update")).current_mode_id == "plan"
        newest = demo.client.of("config_option_update")[-1].config_options
        assert [option.current_value for option in newest][:2] == ["demo-slow", "high"]
        said, _ = await demo.say("/set model opus")
        assert "no such model: opus" in said
        saved = json.loads((tmp_path / "demo" / f"{demo.id}.json").read_text())
        assert (saved["mode"], saved["model"], saved["effort"]) == ("plan", "demo-slow", "high")


async def test_a_busy_one_refuses_another_model(tmp_path):
    async with running(tmp_path, {"HAPI_DEMO_BUSY": "refuse"}) as demo:
        turn = demo.start("/slow 60 600")
        await demo.client.seen("agent_message_chunk")
        raw = {"sessionId": demo.id, "modelId": "demo-slow"}
        with pytest.raises(acp.RequestError, match="a turn is running"):
            await demo.connection._conn.send_request("session/set_model", raw)
        await demo.connection.cancel(session_id=demo.id)
        await asyncio.wait_for(turn, WAIT)
        await demo.connection._conn.send_request("session/set_model", raw)
