"""Model lists before a session: what is asked when, how much at once, and in which words it is answered."""

import asyncio
from collections import Counter
from types import SimpleNamespace

import pytest

from hapi.wire import Choice
from hapi.workers.hub import model_lists, models
from hapi.workers.hub.model_lists import AT_ONCE, CACHED, ModelLists, _Found
from tests.support.wait import until_async

WAIT = 10


class Lists(ModelLists):
    """Model lists whose agents answer when `open` is set, or at once; `found` is what they answer."""

    def __init__(self, roots):
        runner = SimpleNamespace(workspace_roots=roots)
        super().__init__(SimpleNamespace(runner=runner, counters=Counter()))
        self.asked = []
        self.running = self.most = 0
        self.open = asyncio.Event()
        self.open.set()
        self.found = _Found(models=[Choice("a", "A")], model="a")

    async def _probe(self, key):
        self.asked.append(key)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.open.wait()
        finally:
            self.running -= 1
        return self.found

    async def call(self, name, **params):
        return await asyncio.wait_for(self.methods()[name](params), WAIT)


@pytest.fixture
async def lists(tmp_path):
    return Lists([str(tmp_path)])


def directories(tmp_path, count):
    made = [tmp_path / str(number) for number in range(count)]
    for each in made:
        each.mkdir()
    return made


async def test_known_for_a_while_and_by_directory(lists, tmp_path, monkeypatch):
    one, two = directories(tmp_path, 2)
    for cwd in (one, one, two):
        assert (await lists.call("listOpencodeModelsForCwd", cwd=str(cwd)))["success"]
    assert lists.asked == [("opencode", str(one)), ("opencode", str(two))]
    monkeypatch.setattr(model_lists, "FRESH_S", 0)
    await lists.call("listOpencodeModelsForCwd", cwd=str(one))
    assert len(lists.asked) == 3


async def test_refresh_asks_again_and_variants_share_the_answer(lists):
    await lists.call("listAgyModels")
    await lists.call("listAgyModels", refresh=True)
    await lists.call("listOpencodeModelVariants", cwd=None)
    assert lists.asked == [("agy", ""), ("agy", ""), ("opencode", "")]


async def test_a_failure_is_told_and_not_remembered(lists):
    lists.found = _Found(error="codex is not installed")
    assert await lists.call("listCodexModels") == {"success": False, "error": "codex is not installed"}
    lists.found = _Found(models=[Choice("a", "A")])
    assert (await lists.call("listCodexModels"))["success"]


async def test_two_at_once_and_each_once(lists, tmp_path):
    lists.open.clear()
    made = directories(tmp_path, 5)
    calls = [asyncio.create_task(lists.call("listGrokModelsForCwd", cwd=str(each))) for each in made for _ in range(3)]
    await until_async(lambda: lists.running == AT_ONCE, WAIT, "as many as may")
    lists.open.set()
    assert all(answer["success"] for answer in await asyncio.gather(*calls))
    assert (lists.most, len(lists.asked)) == (AT_ONCE, 5)


async def test_one_who_gives_up_does_not_take_the_answer_from_the_others(lists):
    lists.open.clear()
    first, second = (asyncio.create_task(lists.call("listCursorModels")) for _ in range(2))
    await until_async(lambda: lists.running, WAIT, "the agent is asked")
    first.cancel()
    lists.open.set()
    assert (await second)["success"]


async def test_silence_has_an_end(lists, monkeypatch):
    monkeypatch.setattr(model_lists, "DEADLINE_S", 0.05)
    lists.open.clear()
    answer = await lists.call("listPiModelsForMachine")
    assert answer == {"success": False, "error": "pi did not tell its models within 0.05 s."}
    assert lists.running == 0


async def test_the_memory_is_bounded(lists, tmp_path):
    made = directories(tmp_path, CACHED + 3)
    for each in made:
        await lists.call("listCopilotModelsForCwd", cwd=str(each))
    await lists.call("listCopilotModelsForCwd", cwd=str(made[-1]))
    assert len(lists.asked) == CACHED + 3
    await lists.call("listCopilotModelsForCwd", cwd=str(made[0]))
    assert len(lists.asked) == CACHED + 4


@pytest.mark.parametrize("cwd", ["/etc", "/", "here", "\0", "../.."])
async def test_no_other_place(lists, cwd):
    answer = await lists.call("listOpencodeModelsForCwd", cwd=cwd)
    assert (answer["success"], lists.asked) == (False, [])
    assert answer["error"]


def offer(agent, **more):
    levels = [Choice("low", "Low"), Choice("high", "High")]
    basis = {"models": [Choice("a", "A"), Choice("x/b", "B")], "model": "a", "efforts": levels, "effort": "low"}
    return models.Choosable(agent, **{**basis, **more})


def test_the_words_of_each_list():
    levels = [
        {"value": "low", "name": "Low", "isDefault": True},
        {"value": "high", "name": "High", "isDefault": False},
    ]
    plain = [{"modelId": "a", "name": "A"}, {"modelId": "x/b", "name": "B"}]
    assert models.listing(offer("opencode")) == {"success": True, "availableModels": plain, "currentModelId": "a"}
    grok = models.listing(offer("grok"))
    assert (grok["reasoningEfforts"], grok["availableModels"][0]["reasoningEfforts"]) == (levels, levels)
    assert models.variants(offer("opencode"))["variants"] == {"a": ["low", "high"]}
    assert models.listing(offer("kimi", model=None, efforts=[])) == {"success": True, "availableModels": plain}
    pi = models.listing(offer("pi", model="x/b"))
    assert (pi["currentModelId"], pi["availableModels"][1]) == ("b", {"modelId": "b", "name": "B", "provider": "x"})


def test_codex_and_efforts():
    (first, second) = models.codex(offer("codex"))["models"]
    assert first == {
        "id": "a",
        "displayName": "A",
        "isDefault": True,
        "supportedReasoningEfforts": ["low", "high"],
        "defaultReasoningEffort": "low",
    }
    assert not second["isDefault"]
    assert models.codex(offer("codex", efforts=[], effort=None))["models"][0].keys() == {
        "id",
        "displayName",
        "isDefault",
    }
    assert models.efforts(offer("grok")) == {
        "success": True,
        "options": [{"value": "low", "name": "Low"}, {"value": "high", "name": "High"}],
        "currentValue": "low",
        "currentModelId": "a",
        "targetModelId": "a",
    }
