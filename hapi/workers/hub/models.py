"""What an agent offers to choose from, in the words of the hub's model lists (§4.6, §5.10). Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from hapi.wire import Choice

Json = dict[str, Any]


class Choosable(msgspec.Struct):
    """The models of an agent, and the levels of thought of the one that is chosen."""

    agent: str
    models: list[Choice] = []
    model: str | None = None
    efforts: list[Choice] = []
    effort: str | None = None


def listing(offer: Choosable) -> Json:
    """The list for all flavors but codex; with efforts where the flavor's page reads them there (grok)."""
    entries = [_entry(offer, choice) for choice in offer.models]
    answer: Json = {"success": True, "availableModels": entries}
    if offer.model:
        answer["currentModelId"] = offer.model.partition("/")[2] if _of_provider(offer, offer.model) else offer.model
    if offer.agent == "grok" and offer.efforts:
        answer["reasoningEfforts"] = _efforts(offer)
    return answer


def codex(offer: Choosable) -> Json:
    """The list for codex. An agent tells only the levels of the model that is chosen: they are given for all."""
    levels: Json = {"supportedReasoningEfforts": [choice.value for choice in offer.efforts]} if offer.efforts else {}
    if offer.effort:
        levels["defaultReasoningEffort"] = offer.effort
    return {
        "success": True,
        "models": [
            {"id": choice.value, "displayName": choice.name, "isDefault": choice.value == offer.model, **levels}
            for choice in offer.models
        ],
    }


def efforts(offer: Choosable) -> Json:
    """The levels of thought of a running session."""
    model: Json = {"currentModelId": offer.model, "targetModelId": offer.model} if offer.model else {}
    options = [{"value": choice.value, "name": choice.name} for choice in offer.efforts]
    return {"success": True, "options": options, "currentValue": offer.effort, **model}


def variants(offer: Choosable) -> Json:
    """Opencode's levels by model, as far as the agent tells them: those of the model that is chosen."""
    known = {offer.model: [choice.value for choice in offer.efforts]} if offer.model else {}
    return {**listing(offer), "variants": known}


def _entry(offer: Choosable, choice: Choice) -> Json:
    entry: Json = {"modelId": choice.value, "name": choice.name}
    if offer.agent == "grok" and choice.value == offer.model and offer.efforts:
        entry["reasoningEfforts"] = _efforts(offer)
    if _of_provider(offer, choice.value):
        entry["provider"], _, entry["modelId"] = choice.value.partition("/")
    return entry


def _of_provider(offer: Choosable, model: str) -> bool:
    """Pi's models are named by provider and id; the hub wants them apart."""
    return offer.agent == "pi" and "/" in model


def _efforts(offer: Choosable) -> list[Json]:
    return [
        {"value": choice.value, "name": choice.name, "isDefault": choice.value == offer.effort}
        for choice in offer.efforts
    ]
