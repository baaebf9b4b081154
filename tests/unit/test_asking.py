"""Permission requests: who waits, who answered, and that no one waits for ever."""

import asyncio

import pytest

from hapi.errors import ErrorCode, HapiError
from hapi.wire import AnswerPermission, encode
from hapi.workers.supervisor import asking as module
from hapi.workers.supervisor.acp_events import Turn
from hapi.workers.supervisor.asking import MAX_OPEN, OUTCOMES_KEPT, Asking

OPTIONS = [{"optionId": kind, "kind": kind} for kind in ("allow_once", "allow_always", "reject_once")]


class Desk:
    """An Asking, its changes counted, and the agent's questions as tasks."""

    def __init__(self):
        self.changes = 0
        self.asking = Asking(self._changed)
        self.turn = Turn()
        self.tasks = []

    def _changed(self):
        self.changes += 1

    async def ask(self, call_id="c", **call):
        params = {"toolCall": {"toolCallId": call_id, "title": "Bash", **call}, "options": OPTIONS}
        task = asyncio.ensure_future(self.asking.ask(params, self.turn))
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task


@pytest.fixture
async def desk():
    desk = Desk()
    yield desk
    for task in desk.tasks:
        task.cancel()
    await asyncio.gather(*desk.tasks, return_exceptions=True)


def answer(request_id="c", **changes):
    return AnswerPermission(**({"request_id": request_id, "approved": True} | changes))


async def said(task):
    """What the agent is told."""
    outcome = (await asyncio.wait_for(task, 2))["outcome"]
    return outcome.get("optionId", outcome["outcome"])


@pytest.mark.parametrize(
    ("changes", "option", "status", "decision"),
    [
        ({}, "allow_once", "approved", "approved"),
        ({"approved": False}, "reject_once", "denied", "denied"),
        ({"decision": "approved_for_session"}, "allow_always", "approved", "approved_for_session"),
        ({"approved": False, "decision": "abort"}, "cancelled", "denied", "abort"),
        ({"allow_tools": ["Bash"]}, "allow_always", "approved", "approved_for_session"),
        ({"approved": False, "allow_tools": ["Bash"]}, "reject_once", "denied", "denied"),
    ],
)
async def test_answers(desk, changes, option, status, decision):
    task = await desk.ask(kind="execute", rawInput={"command": "ls"})
    (request,) = desk.asking.open
    assert (request.request_id, request.tool, request.arguments) == ("c", "Bash", {"command": "ls"})
    assert desk.changes == 1
    assert desk.asking.answer(answer(**changes)).decision == decision
    assert await said(task) == option
    (outcome,) = desk.asking.outcomes
    assert (outcome.request, outcome.status, outcome.decision) == (request, status, decision)
    assert (desk.asking.open, desk.changes) == ([], 2)


@pytest.mark.parametrize("request_id", ["c", "nobody", ""])
async def test_an_answer_that_nobody_waits_for(desk, request_id):
    task = await desk.ask()
    desk.asking.answer(answer())
    await task
    with pytest.raises(HapiError) as caught:
        desk.asking.answer(answer(request_id))
    assert caught.value.code is ErrorCode.BAD_REQUEST
    assert len(desk.asking.outcomes) == 1


@pytest.mark.parametrize(
    ("mode", "kind", "option"),
    [("yolo", "execute", "allow_always"), ("read-only", "read", "allow_once"), ("acceptEdits", "edit", "allow_once")],
)
async def test_modes_decide_by_themselves(desk, mode, kind, option):
    desk.asking.mode = mode
    assert await said(await desk.ask(kind=kind)) == option
    assert (desk.asking.open, len(desk.asking.outcomes)) == ([], 1)


async def test_allowed_for_the_session_is_not_asked_again(desk):
    task = await desk.ask("1")
    desk.asking.answer(answer("1", decision="approved_for_session"))
    await task
    assert await said(await desk.ask("2")) == "allow_once"
    other = await desk.ask("3", title="Edit")
    assert not other.done()


async def test_an_answer_may_change_the_mode(desk):
    await desk.ask("1")
    desk.asking.answer(answer("1", mode="yolo"))
    assert desk.asking.mode == "yolo"
    assert await said(await desk.ask("2")) == "allow_always"


async def test_a_mode_answers_what_is_open_and_what_it_approves(desk):
    reading, writing = await desk.ask("1", kind="read"), await desk.ask("2", title="Write", kind="edit")
    desk.asking.set_mode("read-only", plan_denies=True)
    assert await said(reading) == "allow_once"
    assert [request.request_id for request in desk.asking.open] == ["2"]
    desk.asking.set_mode("plan", plan_denies=True)
    assert not writing.done(), "a person is at it"
    desk.asking.set_mode("yolo", plan_denies=True)
    assert await said(writing) == "allow_always"
    assert [(outcome.status, outcome.mode) for outcome in desk.asking.outcomes] == [
        ("approved", "read-only"),
        ("approved", "yolo"),
    ]
    desk.asking.set_mode("plan", plan_denies=True)
    assert await said(await desk.ask("3", title="Write", kind="edit")) == "reject_once"
    assert desk.asking.outcomes[-1].status == "denied"


async def test_the_end_of_the_turn_answers_everyone(desk):
    tasks = [await desk.ask(str(number)) for number in range(3)]
    desk.asking.cancel_all("Prompt finished")
    assert [await said(task) for task in tasks] == ["cancelled"] * 3
    assert [(outcome.status, outcome.reason) for outcome in desk.asking.outcomes] == [
        ("canceled", "Prompt finished")
    ] * 3
    desk.asking.cancel_all("again")
    assert len(desk.asking.outcomes) == 3


async def test_outcomes_are_bounded_and_the_newest_stay(desk):
    desk.asking.mode = "yolo"
    for number in range(OUTCOMES_KEPT + 5):
        await (await desk.ask(str(number)))
    kept = [outcome.request.request_id for outcome in desk.asking.outcomes]
    assert kept == [str(number) for number in range(5, OUTCOMES_KEPT + 5)]


async def test_the_same_id_again_is_another_request(desk):
    first, second = await desk.ask("c"), await desk.ask("c")
    names = [request.request_id for request in desk.asking.open]
    assert (len(set(names)), names[0]) == (2, "c")
    desk.asking.answer(answer(names[1], approved=False))
    assert await said(second) == "reject_once"
    assert not first.done()


async def test_many_of_one_id_in_one_millisecond(desk, monkeypatch):
    """The third took the place of the second, whose agent then waited for ever."""
    monkeypatch.setattr(module, "now_ms", lambda: 1)
    tasks = [await desk.ask("c") for _ in range(4)]
    assert len(desk.asking.open) == 4
    desk.asking.cancel_all("over")
    assert [await said(task) for task in tasks] == ["cancelled"] * 4


@pytest.mark.parametrize("settle", ["answer", "cancel_all"])
async def test_a_question_that_the_agent_took_back(desk, settle):
    """Its entry stayed, and whoever settled it got an InvalidStateError that ended the supervisor's receiving."""
    task = await desk.ask()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    if settle == "cancel_all":
        desk.asking.cancel_all("over")
    else:
        try:
            desk.asking.answer(answer())
        except HapiError as error:
            assert error.code is ErrorCode.BAD_REQUEST
    assert desk.asking.open == []


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"toolCall": None, "options": None},
        {"toolCall": 5, "options": [5, None, {}]},
        {"toolCall": {"toolCallId": 5, "kind": []}, "options": []},
        {"options": {"a": 1}},
        {"options": 5},
        {"options": "abc", "toolCall": {"toolCallId": "x" * 9_000_000}},
        {"options": [{"optionId": 5, "kind": ["allow_once"]}]},
    ],
)
async def test_questions_that_make_no_sense(desk, params):
    """A question without a usable option is answered `cancelled`, whatever a person says; it never raises."""
    task = asyncio.ensure_future(desk.asking.ask(params, desk.turn))
    desk.tasks.append(task)
    await asyncio.sleep(0)
    (request,) = desk.asking.open
    assert len(request.request_id) <= 1_000
    desk.asking.answer(answer(request.request_id))
    assert await said(task) == "cancelled"


PLAN_OPTIONS = [
    {"optionId": "acceptEdits", "kind": "allow_always"},
    {"optionId": "default", "kind": "allow_once"},
    {"optionId": "plan", "kind": "reject_once"},
]


@pytest.mark.parametrize(
    ("changes", "option", "mode"),
    [
        ({}, "default", "default"),
        ({"decision": "approved_for_session"}, "default", "default"),
        ({"mode": "acceptEdits"}, "acceptEdits", "acceptEdits"),
        ({"approved": False}, "plan", "plan"),
    ],
)
async def test_leaving_the_planning_mode(desk, changes, option, mode):
    """A yes without a mode never takes the widest mode on offer."""
    desk.asking.mode = "plan"
    call = {"toolCallId": "c", "kind": "switch_mode", "rawInput": {"plan": "Dig."}}
    task = asyncio.ensure_future(desk.asking.ask({"toolCall": call, "options": PLAN_OPTIONS}, desk.turn))
    desk.tasks.append(task)
    await asyncio.sleep(0)
    desk.asking.answer(answer(**changes))
    assert await said(task) == option
    assert desk.asking.mode == mode


async def test_one_command_is_allowed_and_no_other(desk):
    """The agent is told "once": its own "always" might be wider than what was allowed."""
    task = await desk.ask("1", kind="execute", rawInput={"command": "git status"})
    desk.asking.answer(answer("1", allow_tools=["Bash(git status)"]))
    assert await said(task) == "allow_once"
    assert await said(await desk.ask("2", rawInput={"command": "git status"})) == "allow_once"
    other = await desk.ask("3", rawInput={"command": "git push"})
    assert not other.done()


CHOICES = [{"optionId": "a", "name": "First", "kind": "odd"}, {"optionId": "b", "name": "Second"}]


async def test_a_choice_waits_for_an_answer_that_is_one(desk):
    desk.asking.mode = "yolo"
    task = asyncio.ensure_future(desk.asking.ask({"toolCall": {"title": "Which?"}, "options": CHOICES}, desk.turn))
    desk.tasks.append(task)
    await asyncio.sleep(0)
    (request,) = desk.asking.open
    for wrong in (None, {}, {"0": []}, {"0": ["Third"]}, {"1": ["First"]}, "First"):
        with pytest.raises(HapiError) as caught:
            desk.asking.answer(answer(request.request_id, answers=wrong))
        assert "First, Second" in caught.value.message
    desk.asking.answer(answer(request.request_id, answers={"0": ["Second"]}))
    assert await said(task) == "b"
    assert desk.asking.outcomes[-1].answers == {"0": ["Second"]}


FORM = {"message": "What?", "requestedSchema": {"properties": {"n": {"type": "number"}}}}
PLAN = {
    "toolCall": {"toolCallId": "plan", "kind": "switch_mode", "rawInput": {"plan": "Dig."}},
    "options": PLAN_OPTIONS,
}
CHOICE = {"toolCall": {"toolCallId": "choice", "title": "Which?"}, "options": CHOICES}


@pytest.mark.parametrize("params", [FORM, PLAN, CHOICE], ids=["form", "plan", "choice"])
@pytest.mark.parametrize("mode", ["yolo", "safe-yolo", "bypassPermissions"])
async def test_a_change_of_mode_answers_permissions_and_nothing_that_is_to_be_read(desk, params, mode):
    desk.asking.mode = "plan"
    task = asyncio.ensure_future(desk.asking.ask(params, desk.turn))
    desk.tasks.append(task)
    permission = await desk.ask("permission", kind="execute")
    desk.asking.set_mode(mode, plan_denies=False)
    assert (await said(permission)).startswith("allow")
    assert not task.done()
    (request,) = desk.asking.open
    assert request.request_id != "permission"


async def test_a_mode_that_changes_while_a_person_answers_answers_once(desk):
    task = await desk.ask(kind="execute")
    desk.asking.set_mode("yolo", plan_denies=False)
    with pytest.raises(HapiError):
        desk.asking.answer(answer(approved=False))
    assert (await said(task), len(desk.asking.outcomes)) == ("allow_always", 1)


async def test_an_agent_that_never_stops_asking(desk):
    tasks = [await desk.ask(str(number), kind="execute") for number in range(MAX_OPEN + 5)]
    assert [await said(task) for task in tasks[MAX_OPEN:]] == ["cancelled"] * 5
    assert len(desk.asking.open) == MAX_OPEN
    desk.asking.answer(answer("0"))
    assert not (await desk.ask("again")).done()


async def test_what_runs_a_command_is_not_harmless_by_its_name(desk):
    thought = await desk.ask("1", title="think", rawInput={"thought": "hm"})
    assert await said(thought) == "allow_once"
    assert not (await desk.ask("2", title="think", rawInput={"command": "rm -r /"})).done()


async def test_megabytes_of_choices_fit_on_the_bus(desk):
    options = [{"optionId": str(number), "name": "x" * 900_000} for number in range(50)]
    task = asyncio.ensure_future(desk.asking.ask({"toolCall": {"title": "y"}, "options": options}, desk.turn))
    desk.tasks.append(task)
    await asyncio.sleep(0)
    (request,) = desk.asking.open
    assert len(encode(request)) < 1_000_000


async def test_a_command_that_looks_like_a_rule_allows_itself_only(desk):
    await desk.ask("1", rawInput={"command": "bash:*"})
    desk.asking.answer(answer("1", allow_tools=["Bash(bash:*)"]))
    assert await said(await desk.ask("2", rawInput={"command": "bash:*"})) == "allow_once"
    assert not (await desk.ask("3", rawInput={"command": "bash -c x"})).done()
