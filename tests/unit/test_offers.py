"""What an agent offers, read from what real agents say."""

import pytest

from hapi.agents.offers import MAX_CHOICES, MAX_OPTIONS, Offers, names
from hapi.wire import Choice


def select(key, value, *values, category=None):
    options = [{"value": each, "name": each.upper()} for each in values]
    return {"id": key, "category": category, "type": "select", "currentValue": value, "options": options}


def values(choices):
    return [choice.value for choice in choices]


CODEX = {
    "sessionId": "s",
    "configOptions": [
        select("model", "gpt-5.5", "gpt-5.5", "gpt-5.4", category="model"),
        select("reasoning_effort", "medium", "low", "medium", "high", category="thought_level"),
    ],
}


def test_all_by_config_options():
    offers = Offers(CODEX)
    assert (offers.model, values(offers.models())) == ("gpt-5.5", ["gpt-5.5", "gpt-5.4"])
    assert (offers.effort(), values(offers.efforts())) == ("medium", ["low", "medium", "high"])
    assert (offers.mode, offers.all_modes()) == (None, [])
    assert offers.models()[0] == Choice("gpt-5.5", "GPT-5.5")


def test_modes_and_models_of_their_own():
    offers = Offers(
        {
            "modes": {"currentModeId": "plan", "availableModes": [{"id": "default", "name": "Ask"}, {"id": "plan"}]},
            "models": {"currentModelId": "opus", "availableModels": [{"modelId": "opus", "name": "Opus"}]},
        }
    )
    assert (offers.mode, values(offers.all_modes()), offers.model) == ("plan", ["default", "plan"], "opus")
    assert offers.all_modes()[1].name == "plan"
    assert (offers.efforts(), offers.effort()) == ([], None)


def test_updates_replace_what_was_said():
    offers = Offers(CODEX)
    new = [select("model", "gpt-5.4", "gpt-5.4", category="model"), select("mode", "auto", "auto", category="mode")]
    assert offers.take_update({"sessionUpdate": "config_option_update", "configOptions": new})
    assert (offers.model, offers.mode, offers.efforts()) == ("gpt-5.4", "auto", [])
    assert offers.take_update({"sessionUpdate": "current_mode_update", "currentModeId": "full-access"})
    assert offers.mode == "full-access"
    assert not offers.take_update({"sessionUpdate": "plan", "entries": []})


@pytest.mark.parametrize(
    ("wanted", "found"),
    [("plan", "https://agents.example/modes#plan"), ("build", "build"), ("nothing", None), ("", None)],
)
def test_an_own_mode_may_be_an_address(wanted, found):
    modes = [{"id": "https://agents.example/modes#plan"}, {"id": "build"}]
    assert Offers({"modes": {"availableModes": modes}}).own_mode(wanted) == found


def test_groups_are_flattened_and_lists_are_bounded():
    groups = [{"group": "a", "name": "A", "options": [{"value": "1"}, {"value": "2"}]}, {"value": "3"}]
    option = {"id": "model", "currentValue": "1", "options": groups}
    assert values(Offers({"configOptions": [option]}).models()) == ["1", "2", "3"]
    many = [{"modelId": str(number)} for number in range(MAX_CHOICES + 9)]
    assert len(Offers({"models": {"availableModels": many}}).models()) == MAX_CHOICES


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"modes": [], "models": "x", "configOptions": {}},
        {"modes": {"currentModeId": 5, "availableModes": [None, 1, {}, {"id": 7}]}},
        {"configOptions": [None, {}, {"id": 3}, {"id": "", "options": []}, {"id": "boolean", "currentValue": True}]},
        {"configOptions": [{"id": "model", "options": "none", "currentValue": []}]},
    ],
)
def test_nonsense_offers_nothing(answer):
    offers = Offers(answer)
    assert (offers.mode, offers.model, offers.models(), offers.efforts(), offers.all_modes()) == (
        None,
        None,
        [],
        [],
        [],
    )
    offers.take_update({"sessionUpdate": "config_option_update", "configOptions": 3})
    offers.take_update({"sessionUpdate": "current_mode_update"})
    assert offers.mode is None


def test_long_lists_are_cut_for_people():
    choices = [Choice(str(number), "") for number in range(5)]
    assert (names(choices), names(choices, 2), names([])) == ("0, 1, 2, 3, 4", "0, 1, …", "")


def test_megabytes_of_choices_are_cut():
    """They made the session's state too large for the bus: the hub heard of no change any more."""
    long = "x" * 100_000
    choices = [{"value": "a", "name": long, "description": long}, {"value": long}] * 900
    found = Offers({"configOptions": [{"id": "model", "currentValue": long, "options": choices}] * 900})
    assert len(found.options) == MAX_OPTIONS
    assert found.model is None
    assert 0 < sum(len(choice.name) + len(choice.description) for choice in found.models()) < 1_000_000
