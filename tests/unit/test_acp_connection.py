"""JSON-RPC with an agent over real pipes: our requests, its requests, and what it must not be able to break."""

import asyncio
import os

import msgspec
import pytest

from hapi.workers.supervisor import acp_connection
from hapi.workers.supervisor.acp_connection import AgentConnection, RequestRefused
from tests.support.pipes import Agent
from tests.support.wait import until_async

WAIT = 10


class Talk:
    """A connection to the test's end of an agent's pipes. What the agent asks waits for `answers`."""

    async def open(self):
        self.agent = await Agent().open()
        self.answers = asyncio.Queue()
        self.asked = []
        self.connection = AgentConnection(self.agent.transport, {"ask": self._ask})
        self.heard = b""
        return self

    async def _ask(self, params):
        self.asked.append(params)
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def line(self):
        """The next message that the agent reads."""
        while b"\n" not in self.heard:
            self.heard += await asyncio.wait_for(asyncio.to_thread(os.read, self.agent.stdin, 65536), WAIT)
        line, self.heard = self.heard.split(b"\n", 1)
        return msgspec.json.decode(line)

    async def count(self, name):
        await until_async(lambda: self.agent.transport.counters[name], WAIT, "the agent's words have their effect")
        return self.agent.transport.counters[name]

    async def close(self):
        await self.connection.close()
        await self.agent.close()


@pytest.fixture
async def talk():
    talk = await Talk().open()
    yield talk
    await talk.close()


def ours(talk, method="m"):
    return asyncio.ensure_future(asyncio.wait_for(talk.connection.request(method, {"x": 1}), WAIT))


async def test_a_request_and_its_answer(talk):
    asking = ours(talk, "initialize")
    assert await talk.line() == {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {"x": 1}}
    talk.agent.says({"jsonrpc": "2.0", "id": 0, "result": {"y": 2}})
    assert await asking == {"y": 2}


async def test_answers_find_their_requests_in_any_order(talk):
    asking = [ours(talk) for _ in range(3)]
    numbers = [(await talk.line())["id"] for _ in asking]
    for number in reversed(numbers):
        talk.agent.says({"id": number, "result": number * 10})
    assert await asyncio.gather(*asking) == [number * 10 for number in numbers]


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (
            {"code": -32000, "message": "Log in", "data": {"details": "no key"}},
            (-32000, "Log in", {"details": "no key"}),
        ),
        ({"code": "x", "message": None}, (-32603, "Error", None)),
        ({"code": -32601.0, "message": "none"}, (-32601, "none", None)),
        ({}, (-32603, "Error", None)),
        ("out of order", (-32603, "out of order", None)),
    ],
)
async def test_a_refusal_comes_in_the_agents_words(talk, error, seen):
    asking = ours(talk)
    await talk.line()
    talk.agent.says({"id": 0, "result": None, "error": error})
    with pytest.raises(RequestRefused) as refused:
        await asking
    assert (refused.value.code, str(refused.value), refused.value.data) == seen


async def test_an_agent_whose_numbers_are_all_floats_is_understood(talk):
    """JSON has one kind of number; what the SDK's connection took, ours takes.

    Seen to fail: without `_whole`.
    """
    asking = ours(talk)
    await talk.line()
    talk.agent.says(b'{"id":0.0,"result":"heard"}\n')
    assert await asking == "heard"


@pytest.mark.parametrize(
    "stray",
    [{"id": id_, "result": 1} for id_ in (5, "0", [0], False, 0.5)] + [{}],
)
async def test_answers_to_nothing_are_counted(talk, stray):
    """An id that cannot be looked up ended the reading, and with it every later word of the agent."""
    asking = ours(talk)
    await talk.line()
    talk.agent.says(stray, {"id": 0, "result": "right"})
    assert await asking == "right"
    assert await talk.count("answers_to_nothing") == 1


async def test_who_stops_waiting_does_not_disturb_the_others(talk):
    given_up, asking = ours(talk), ours(talk)
    await talk.line()
    await talk.line()
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    talk.agent.says({"id": 0, "result": "late"}, {"id": 1, "result": "right"})
    assert await asking == "right"
    assert await talk.count("answers_to_nothing") == 1


async def test_the_end_of_the_stream_fails_all_who_wait_and_all_who_come(talk):
    asking = [ours(talk), ours(talk)]
    await talk.line()
    talk.agent.hangs_up()
    for one in asking:
        with pytest.raises(ConnectionError):
            await one
    with pytest.raises(ConnectionError):
        await talk.connection.request("m", {})
    with pytest.raises(ConnectionError):
        await talk.connection.notify("m", {})


async def test_closing_fails_all_who_wait_and_ends_what_is_being_answered(talk):
    asking = ours(talk)
    await talk.line()
    talk.agent.says({"id": 1, "method": "ask", "params": {}})
    await until_async(lambda: talk.asked, WAIT, "the agent's words have their effect")
    await asyncio.wait_for(talk.connection.close(), WAIT)
    with pytest.raises(ConnectionError):
        await asking
    await talk.connection.close()


async def test_questions_are_answered_one_beside_the_other(talk):
    talk.agent.says({"id": "a", "method": "ask", "params": {"n": 1}}, {"id": None, "method": "ask", "params": {"n": 2}})
    await until_async(lambda: len(talk.asked) == 2, WAIT, "the agent's words have their effect")
    talk.answers.put_nowait({"said": 1})
    assert await talk.line() == {"jsonrpc": "2.0", "id": "a", "result": {"said": 1}}
    talk.answers.put_nowait(RuntimeError("a bug of ours"))
    answer = await talk.line()
    assert (answer["id"], answer["error"]["code"], answer["error"]["data"]["details"]) == (
        None,
        -32603,
        "a bug of ours",
    )


@pytest.mark.parametrize("method", ["fs/read_text_file", "ask", 5, ["ask"]])
async def test_what_nobody_answers_is_refused(talk, method):
    talk.agent.says({"id": 9, "method": method, "params": [] if method == "ask" else {}})
    answer = await talk.line()
    assert (answer["id"], answer["error"]["code"]) == (9, -32601)
    assert not talk.asked


async def test_unknown_notifications_are_counted_under_one_name(talk):
    """Under names of the agent's own, it could have filled our memory."""
    talk.agent.says(*({"method": f"_x/{n}", "params": {}} for n in range(5)), {"method": "ask", "params": {}})
    await until_async(
        lambda: talk.agent.transport.counters["unknown_notifications"] == 6, WAIT, "the agent's words have their effect"
    )
    assert len(talk.agent.transport.counters) == 1
    assert not talk.asked


async def test_more_questions_than_can_be_answered_at_once(talk, monkeypatch):
    """They are not read until one is answered; nothing is lost, and no more than so many are in memory."""
    monkeypatch.setattr(talk.connection, "_slots", asyncio.Semaphore(2))
    talk.agent.says(*({"id": n, "method": "ask", "params": {"n": n}} for n in range(6)))
    for n in range(6):
        await until_async(lambda: len(talk.asked) >= min(n + 2, 6), WAIT, "the agent's words have their effect")  # noqa: B023 - it is asked at once
        assert len(talk.asked) == min(n + 2, 6)
        talk.answers.put_nowait({})
        await talk.line()
    assert not talk.agent.transport.counters


async def test_an_agent_that_asks_for_ever_without_an_answer_does_not_deafen_us(talk, monkeypatch):
    """What is too much for us is refused: an agent whose request is dropped would wait for its answer for ever.

    Seen to fail: without `_refuse`.
    """
    monkeypatch.setattr(acp_connection, "ANSWERING_PATIENCE_S", 0.01)
    monkeypatch.setattr(talk.connection, "_slots", asyncio.Semaphore(1))
    asking = ours(talk)
    await talk.line()
    talk.agent.says(*({"id": n, "method": "ask", "params": {}} for n in range(3)), {"id": 0, "result": "heard"})
    assert await asking == "heard"
    assert await talk.count("requests_refused") == 2
    refused = [await talk.line() for _ in range(2)]
    assert [(answer["id"], answer["error"]["code"]) for answer in refused] == [(1, -32603), (2, -32603)]


async def test_refusals_that_are_not_read_do_not_pile_up(talk, monkeypatch):
    """Seen to fail: with a task for every refusal."""
    monkeypatch.setattr(acp_connection, "ANSWERING_PATIENCE_S", 0.01)
    monkeypatch.setattr(talk.connection, "_slots", asyncio.Semaphore(1))
    said = []
    monkeypatch.setattr(talk.agent.transport, "send", lambda message: said.append(message) or asyncio.Event().wait())
    talk.agent.says(*({"id": n, "method": "ask", "params": {}} for n in range(4)))
    await until_async(
        lambda: talk.agent.transport.counters["requests_refused"] == 3, WAIT, "the agent's words have their effect"
    )
    assert len(said) == 1
    await asyncio.wait_for(talk.connection.close(), WAIT)
