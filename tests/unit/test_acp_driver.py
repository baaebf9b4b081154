"""The driver before an agent made with the official ACP SDK, whose models are the judge of every message of ours."""

import asyncio
import json
import os
import sys

import acp
import pytest
from acp import schema

from hapi import wire
from hapi.workers.supervisor.acp_driver import AcpDriver
from hapi.workers.supervisor.acp_events import Turn
from hapi.workers.supervisor.agent_process import Launch
from hapi.workers.supervisor.asking import Asking
from hapi.workers.supervisor.piped_agent import PipedAgent
from tests.support import sdk_agent
from tests.support.wait import until_async

WAIT = 30  # the SDK takes its time to start
MODELS = {
    "initialize": acp.InitializeRequest,
    "session/new": acp.NewSessionRequest,
    "session/load": acp.LoadSessionRequest,
    "session/prompt": acp.PromptRequest,
    "session/cancel": acp.CancelNotification,
    "session/set_mode": acp.SetSessionModeRequest,
    "session/set_config_option": schema.SetSessionConfigOptionSelectRequest,
    "session/fork": schema.ForkSessionRequest,
}


def judged(message):
    """What the SDK's model understands of a message's parameters, as JSON."""
    model = MODELS[message["method"]].model_validate(message["params"])
    return model.model_dump(mode="json", by_alias=True, exclude_unset=True)


async def talk(place):
    """One conversation with all that the driver can say; every message that the agent got, and what it made of it."""
    record, updates = place / "record", []
    turn, asking = Turn(), Asking(lambda: None)
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    launch = Launch([sys.executable, sdk_agent.__file__, str(record)], str(place), environment)
    agent = await PipedAgent.start(launch, place / "log", lambda _: False)
    driver = AcpDriver(agent, updates.append, lambda params: asking.ask(params, turn))
    try:
        await driver.open(str(place), "old", WAIT)
        await driver.open(str(place), None, WAIT)
        assert await driver.set_mode("plan", WAIT)
        assert await driver.set_model("m2", "model", WAIT)
        prompting = asyncio.ensure_future(driver.prompt([{"type": "text", "text": "ask"}], lambda: None))
        for said in ({}, {"answers": {"0": ["because"]}}):
            await until_async(lambda: asking.open or prompting.done(), WAIT, "the agent asks")
            (request,) = asking.open
            asking.answer(wire.AnswerPermission(request_id=request.request_id, approved=True, **said))
        answer = await asyncio.wait_for(prompting, WAIT)
        await driver.cancel()
        copy = await driver.fork(str(place))
    finally:
        agent.take_leave()  # not `stop`: that ends all descendants of ours, and this process is pytest's
        await asyncio.to_thread(agent._process.wait, WAIT)
        await driver.close()
    messages = [json.loads(line) for line in record.read_text().splitlines()]
    return messages, updates, answer, copy


@pytest.fixture(scope="module")
def conversation(tmp_path_factory):
    return asyncio.run(talk(tmp_path_factory.mktemp("sdk")))


def test_the_models_know_every_word_that_we_send(conversation):
    """Nothing misspelt, nothing missing, nothing that the protocol does not have."""
    asked = [message for message in conversation[0] if "method" in message]
    assert {message["method"] for message in asked} == set(MODELS)
    for message in asked:
        assert message["jsonrpc"] == "2.0"
        assert judged(message) == message["params"], message["method"]


def test_the_sdks_agent_understands_our_answers(conversation):
    _, updates, answer, copy = conversation
    assert (answer["stopReason"], copy) == ("end_turn", "copy")
    allowed, form = json.loads(updates[-1]["content"]["text"])
    assert allowed == {"outcome": "selected", "optionId": "allow_once"}
    assert form == {"action": "accept", "content": {"why": "because"}}


@pytest.mark.parametrize(
    ("kind", "answer"),
    [
        (acp.RequestPermissionResponse, {"outcome": {"outcome": "cancelled"}}),
        (schema.CancelElicitationResponse, {"action": "cancel"}),
        (schema.DeclineElicitationResponse, {"action": "decline"}),
    ],
)
def test_the_models_know_our_other_answers(kind, answer):
    assert kind.model_validate(answer).model_dump(mode="json", by_alias=True, exclude_none=True) == answer


async def test_what_was_passed_over_is_in_the_log_at_the_end(tmp_path, caplog):
    """Seen to fail: without the line in `close`."""
    launch = Launch(["/bin/sh", "-c", "echo nope; echo []; exec cat > /dev/null"], str(tmp_path), dict(os.environ))
    agent = await PipedAgent.start(launch, tmp_path / "log", lambda _: False)
    driver = AcpDriver(agent, lambda _: None, lambda _: asyncio.sleep(0))
    await until_async(lambda: driver.transport.counters["lines_not_object"], WAIT, "it has been heard")
    agent.take_leave()
    await asyncio.to_thread(agent._process.wait, WAIT)
    with caplog.at_level("INFO"):
        await driver.close()
    assert "lines_not_json 1, lines_not_object 1" in caplog.text
