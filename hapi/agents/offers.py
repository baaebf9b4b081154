"""What an agent lets one choose: its models, modes and config options, read from ACP's answers and updates. Pure.

Agents say it in three ways, some in two of them at once: `modes`, `models`, and `configOptions` told apart by category
or id. Foreign JSON is read tolerantly; what is not understood is not offered.
"""

from __future__ import annotations

from typing import Any

import msgspec

from hapi.wire import Choice

MODEL, EFFORT, MODE = "model", "thought_level", "mode"
MAX_CHOICES = 500
MAX_OPTIONS = 100
MAX_ID = 1_000  # characters: what is named longer is not offered
_NAME_LIMIT, _WORDS_LIMIT = 300, 1_000


class Option(msgspec.Struct, frozen=True):
    """One config option: a picker with its value now."""

    id: str
    category: str | None
    value: str | None
    choices: list[Choice]


class Offers:
    """What can be chosen, and what the agent says is chosen now (None: it does not say)."""

    def __init__(self, answer: dict[str, Any] | None = None) -> None:
        """`answer`: the result of session/new or session/load."""
        found = answer or {}
        modes, models = _object(found.get("modes")), _object(found.get("models"))
        self.modes = _choices(modes.get("availableModes"), "id")
        self.mode = _text(modes.get("currentModeId"))
        self.model = _text(models.get("currentModelId"))
        self.own_models = _choices(models.get("availableModels"), "modelId")
        self.options: list[Option] = []
        self.take_options(found.get("configOptions"))

    def find(self, *names: str) -> Option | None:
        """The option whose category or id is one of the names; the first name that fits wins."""
        for name in names:
            for option in self.options:
                if name in {option.category, option.id}:
                    return option
        return None

    def models(self, name: str = MODEL) -> list[Choice]:
        """The models to choose from; `name` is that of the config option that lists them."""
        option = self.find(name)
        return self.own_models or (option.choices if option is not None else [])

    def efforts(self, name: str = EFFORT) -> list[Choice]:
        """The levels of thought to choose from, of the model that is chosen now."""
        option = self.find(name)
        return option.choices if option is not None else []

    def effort(self, name: str = EFFORT) -> str | None:
        """The level of thought now."""
        option = self.find(name)
        return option.value if option is not None else None

    def all_modes(self) -> list[Choice]:
        """The agent's own modes, however it lists them."""
        option = self.find(MODE)
        return self.modes or (option.choices if option is not None else [])

    def own_mode(self, wanted: str) -> str | None:
        """The agent's id for a mode: itself, or what stands behind the `#` of an id that is an address."""
        ids = [choice.value for choice in self.all_modes()]
        return next((value for value in ids if wanted in {value, value.rpartition("#")[2]}), None)

    def take_options(self, raw: Any) -> None:
        """The agent's whole list of options, new."""
        if not isinstance(raw, list):
            return
        options = [_option(item) for item in raw[:MAX_OPTIONS] if isinstance(item, dict)]
        self.options = [option for option in options if option is not None]
        for name in (MODEL, MODE):
            option = self.find(name)
            if option is not None and option.value is not None:
                setattr(self, name, option.value)

    def take_update(self, update: dict[str, Any]) -> bool:
        """An ACP session update; whether it was about what this holds."""
        match update.get("sessionUpdate"):
            case "current_mode_update":
                self.mode = _text(update.get("currentModeId")) or self.mode
            case "config_option_update":
                self.take_options(update.get("configOptions"))
            case _:
                return False
        return True


def names(choices: list[Choice], most: int = 20) -> str:
    """The values for people, cut after `most`."""
    shown = ", ".join(choice.value for choice in choices[:most])
    return f"{shown}, …" if len(choices) > most else shown


def _option(raw: dict[str, Any]) -> Option | None:
    key = _text(raw.get("id"))
    if not key:
        return None
    return Option(
        key, _text(raw.get("category")), _text(raw.get("currentValue")), _choices(raw.get("options"), "value")
    )


def _choices(found: Any, key: str) -> list[Choice]:
    """A list of choices, or of groups of them under `options`."""
    result: list[Choice] = []
    for item in found[:MAX_CHOICES] if isinstance(found, list) else ():
        if not isinstance(item, dict):
            continue
        if isinstance(item.get("options"), list) and not item.get(key):
            result += _choices(item["options"], key)
        elif _text(item.get(key)):
            name, words = (_cut(item.get("name"), _NAME_LIMIT), _cut(item.get("description"), _WORDS_LIMIT))
            result.append(Choice(item[key], name or item[key], words))
    return result[:MAX_CHOICES]


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_ID else None


def _cut(value: Any, limit: int) -> str | None:
    return value[:limit] if isinstance(value, str) and value else None
