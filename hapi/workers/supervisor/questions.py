"""An agent's question with answers of its own, as the web asks it and as the agent wants it answered. Pure.

Two ways lead here: a permission request whose options are no yes or no, and ACP's elicitation (a form). The web draws
both as the tool AskUserQuestion and answers `{"0": ["Label"], …}` by the number of the question (its protocol, §5.12).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hapi.errors import ErrorCode, HapiError

TOOL = "AskUserQuestion"
ELICITATION = "elicitation/create"
MAX_QUESTIONS = 20
MAX_OPTIONS = 50
_YES_OR_NO = {"allow_once", "allow_always", "reject_once", "reject_always"}
_HEADER_LIMIT = 30
_LARGEST = 2**53  # of what JSON's readers agree about
_NUMBERS: dict[str, Callable[[str], float]] = {"integer": int, "number": float}

Json = dict[str, Any]


def is_form(params: Json) -> bool:
    """Whether the agent asks by a form and not for a permission."""
    return "requestedSchema" in params or ("mode" in params and "options" not in params)


def is_choice(options: list[Json]) -> bool:
    """Whether the options of a permission request are answers of their own and none says yes or no."""
    usable = [option for option in options if isinstance(option.get("optionId"), str)]
    return bool(usable) and not any(str(option.get("kind")) in _YES_OR_NO for option in options)


def cancelled(params: Json) -> Json:
    """The answer to a request that nobody will answer."""
    return {"action": "cancel"} if is_form(params) else {"outcome": {"outcome": "cancelled"}}


def of_options(title: str, options: list[Json]) -> Json:
    """The arguments of AskUserQuestion for a request with such options."""
    labels = [{"label": _label(option), "description": ""} for option in options[:MAX_OPTIONS]]
    return _questions([{"question": title, "header": title[:_HEADER_LIMIT], "options": labels, "multiSelect": False}])


def option(options: list[Json], answers: Any) -> str:
    """The id of the option that was chosen. Raises HapiError(bad_request) for an answer that is none of them."""
    said = (_said(answers, 0, "0") or [""])[0].strip()
    for candidate in options:
        if isinstance(candidate.get("optionId"), str) and said in {_label(candidate), candidate["optionId"]}:
            found: str = candidate["optionId"]
            return found
    known = ", ".join(_label(candidate) for candidate in options[:MAX_OPTIONS])
    raise HapiError(ErrorCode.BAD_REQUEST, f"The agent takes one of these answers: {known}.")


def of_form(params: Json) -> Json:
    """The arguments of AskUserQuestion for a form: a question a field."""
    message = str(params.get("message") or "")
    asked = [
        {
            "question": str(field.get("description") or field.get("title") or message or key),
            "header": str(field.get("title") or key)[:_HEADER_LIMIT],
            "options": [{"label": label, "description": words} for label, _, words in _choices(field)[:MAX_OPTIONS]],
            "multiSelect": field.get("type") == "array",
        }
        for key, field in _fields(params)
    ]
    if asked and message and all(one["question"] != message for one in asked):
        asked[0]["question"] = f"{message}\n\n{asked[0]['question']}"  # the web has no other place for it
    if not asked:
        asked = [{"question": message, "header": message[:_HEADER_LIMIT], "options": [], "multiSelect": False}]
    return {**_questions(asked), **({"message": message} if message else {})}


def content(params: Json, answers: Any) -> Json:
    """The form filled in; a field without an answer is left out. Raises HapiError(bad_request)."""
    filled: Json = {}
    for number, (key, field) in enumerate(_fields(params)):
        said = _said(answers, number, key)
        if said:
            filled[key] = _value(key, field, said)
    missing = [str(key) for key in _list(_schema(params).get("required")) if str(key) not in filled]
    if missing:
        raise HapiError(ErrorCode.BAD_REQUEST, f"The agent needs an answer to: {', '.join(missing)}.")
    return filled


def _questions(asked: list[Json]) -> Json:
    return {"questions": asked}


def _schema(params: Json) -> Json:
    found = params.get("requestedSchema")
    return found if isinstance(found, dict) else {}


def _fields(params: Json) -> list[tuple[str, Json]]:
    found = _schema(params).get("properties")
    fields = found.items() if isinstance(found, dict) else ()
    return [(key, field) for key, field in fields if isinstance(field, dict)][:MAX_QUESTIONS]


def _choices(field: Json) -> list[tuple[str, Any, str]]:
    """(label, value, description) of what can be chosen; [] for a field that takes any words."""
    if field.get("type") == "boolean":
        return [("Yes", True, ""), ("No", False, "")]
    inner = field.get("items") if field.get("type") == "array" else field
    source = inner if isinstance(inner, dict) else {}
    titled = [item for item in _list(source.get("oneOf")) + _list(source.get("anyOf")) if isinstance(item, dict)]
    if titled:
        return [
            (str(i.get("title") or i.get("const")), i.get("const"), str(i.get("description") or "")) for i in titled
        ]
    return [(str(value), value, "") for value in _list(source.get("enum"))]


def _value(key: str, field: Json, said: list[str]) -> Any:
    values = {label: value for label, value, _ in _choices(field)}
    chosen = [values.get(word, word) for word in said]
    kind = str(field.get("type"))
    if kind == "array":
        return chosen
    if kind not in _NUMBERS:
        return chosen[0]
    try:
        number = _NUMBERS[kind](said[0])
    except ValueError:
        number = math.nan
    if not abs(number) <= _LARGEST:
        raise HapiError(ErrorCode.BAD_REQUEST, f"The answer to {key} must be a number.")
    return number


def _said(answers: Any, number: int, key: str) -> list[str]:
    """A question's answers, by its number or its key; `{"answers": […]}` is the other form that the web has."""
    found = (answers.get(str(number)) or answers.get(key)) if isinstance(answers, dict) else None
    if isinstance(found, dict):
        found = found.get("answers")
    if isinstance(found, str):
        found = [found]
    return [word for word in found if isinstance(word, str) and word] if isinstance(found, list) else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _label(candidate: Json) -> str:
    return str(candidate.get("name") or candidate.get("optionId"))
