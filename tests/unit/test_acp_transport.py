"""ACP's lines over real pipes: nothing an agent prints can break them."""

import asyncio
import os

import msgspec
import pytest

from hapi.workers.supervisor.acp_transport import AgentTransport
from tests.support.pipes import LIMIT, Agent

REPLY = {"jsonrpc": "2.0", "id": 1, "result": {}}


@pytest.fixture
async def agent():
    agent = await Agent().open()
    yield agent
    await agent.close()


def update(number):
    return {"jsonrpc": "2.0", "method": "session/update", "params": {"sessionId": "s", "update": {"n": number}}}


async def test_updates_come_before_the_answer_that_follows_them(agent):
    agent.says(update(1), update(2), REPLY)
    assert await agent.receive() == REPLY
    assert agent.updates == [{"n": 1}, {"n": 2}]


@pytest.mark.parametrize(
    ("line", "counter"),
    [
        (b"Welcome to the agent!\n", "lines_not_json"),
        (b"\xff\xfe\n", "lines_not_json"),
        (b'{"half": \n', "lines_not_json"),
        (b'"text"\n', "lines_not_object"),
        (b"[1, 2]\n", "lines_not_object"),
        (b"null\n", "lines_not_object"),
        (b"\n", None),
        (b"   \n", None),
        (b'{"method":"session/update"}\n', "updates_malformed"),
        (b'{"method":"session/update","params":5}\n', "updates_malformed"),
        (b'{"method":"session/update","params":{"update":"x"}}\n', "updates_malformed"),
        (b"[" * 3000 + b"\n", "lines_not_json"),
        (b'{"x":' * 800 + b"\n", "lines_not_json"),
        (b"x" * (LIMIT * 3) + b"\n", "oversized_lines"),
    ],
    ids=["words", "binary", "half", "text", "list", "null", "empty", "blanks", "bare", "number", "no update",
         "nested lists", "nested objects", "long"],
)  # fmt: skip
async def test_noise_is_counted_and_passed_over(agent, line, counter):
    agent.says(line, REPLY)
    assert await agent.receive() == REPLY
    assert agent.updates == []
    if counter is None:
        assert not agent.transport.counters
    else:
        assert agent.transport.counters[counter] >= 1


async def test_requests_of_the_agent_are_passed_on(agent):
    asked = {"jsonrpc": "2.0", "id": 7, "method": "session/request_permission", "params": {}}
    agent.says(asked, {"jsonrpc": "2.0", "method": "other/notice"})
    assert await agent.receive() == asked
    assert (await agent.receive())["method"] == "other/notice"


async def test_lines_in_pieces(agent):
    data = msgspec.json.encode(REPLY) + b"\n"
    for at in range(len(data)):
        agent.says(data[at : at + 1])
    assert await agent.receive() == REPLY


async def test_the_end(agent):
    agent.says(b"last words")
    agent.hangs_up()
    assert await agent.receive() is None
    assert await agent.receive() is None


async def test_what_we_send_is_one_line_each(agent):
    await asyncio.gather(*(agent.transport.send({"n": number, "text": "a\nb"}) for number in range(50)))
    data = os.read(agent.stdin, 100_000)
    assert sorted(msgspec.json.decode(line)["n"] for line in data.splitlines()) == list(range(50))
    assert data.endswith(b"\n")


async def test_an_agent_that_does_not_read_holds_us_back_without_a_mix_up(agent):
    sending = [asyncio.ensure_future(agent.transport.send({"n": n, "x": "x" * 300_000})) for n in range(3)]
    done, _ = await asyncio.wait(sending, timeout=0.05)
    assert len(done) < 3
    data = b""
    while not all(task.done() for task in sending) or data.count(b"\n") < 3:
        data += await asyncio.to_thread(os.read, agent.stdin, 65536)
        await asyncio.sleep(0)
    assert [msgspec.json.decode(line)["n"] for line in data.splitlines()] == [0, 1, 2]


async def test_sending_to_an_agent_that_is_gone_is_an_oserror(agent):
    os.close(agent.stdin)
    agent.stdin = None

    async def send_much():
        for _ in range(20):
            await agent.transport.send({"x": "y" * 100_000})

    with pytest.raises(OSError, match=r"Broken pipe|Connection lost|closed"):
        await send_much()


async def test_a_bug_that_an_update_brings_to_light_does_not_end_the_conversation():
    """It ended the connection's reading, and with it the session's every later word."""
    seen = []

    def take(update):
        seen.append(update)
        raise RuntimeError("a bug of ours")

    reader = asyncio.StreamReader()
    transport = AgentTransport(reader, None, take)
    reader.feed_data(b'{"method":"session/update","params":{"update":{"sessionUpdate":"x"}}}\n{"id":1,"result":{}}\n')
    assert await transport.receive() == {"id": 1, "result": {}}
    assert (len(seen), transport.counters["updates_failed"]) == (1, 1)


async def test_what_is_said_in_a_copy_of_the_conversation_is_not_said_here(agent):
    agent.transport.only = "mine"
    for session in ("mine", "copy", None):
        told = {} if session is None else {"sessionId": session}
        agent.says({"method": "session/update", "params": told | {"update": {"n": session}}})
    agent.says(REPLY)
    assert await agent.receive() == REPLY
    assert [found["n"] for found in agent.updates] == ["mine", None]
    assert agent.transport.counters["updates_of_copies"] == 1
