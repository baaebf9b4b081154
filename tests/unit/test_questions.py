"""Questions of agents as the web asks them, and the answers on their way back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi.errors import HapiError
from hapi.workers.supervisor import questions

SCHEMA = {
    "properties": {
        "color": {"type": "string", "title": "Color", "oneOf": [{"const": "r", "title": "Red"}, {"const": "b"}]},
        "sizes": {"type": "array", "items": {"anyOf": [{"const": 1, "title": "One"}, {"const": 2, "title": "Two"}]}},
        "sure": {"type": "boolean"},
        "count": {"type": "integer", "description": "How many?"},
        "why": {"type": "string"},
    },
    "required": ["color"],
}
FORM = {"mode": "form", "message": "Tell me.", "requestedSchema": SCHEMA}


def test_a_form_becomes_questions():
    asked = questions.of_form(FORM)["questions"]
    assert [q["question"] for q in asked] == ["Color", "Tell me.", "Tell me.", "How many?", "Tell me."]
    assert [[o["label"] for o in q["options"]] for q in asked] == [["Red", "b"], ["One", "Two"], ["Yes", "No"], [], []]
    assert [q["multiSelect"] for q in asked] == [False, True, False, False, False]


def test_the_words_of_a_form_stand_before_its_first_question_when_no_question_says_them():
    form = {**FORM, "requestedSchema": {"properties": {"count": SCHEMA["properties"]["count"]}}}
    assert [q["question"] for q in questions.of_form(form)["questions"]] == ["Tell me.\n\nHow many?"]


@pytest.mark.parametrize(
    ("answers", "filled"),
    [
        ({"0": ["Red"]}, {"color": "r"}),
        ({"0": ["b"], "1": ["One", "Two"], "2": ["No"], "3": ["4"], "4": ["because"]},
         {"color": "b", "sizes": [1, 2], "sure": False, "count": 4, "why": "because"}),
        ({"color": {"answers": ["Red"]}, "why": {"answers": ["so"]}}, {"color": "r", "why": "so"}),
        ({"0": ["a word of mine"]}, {"color": "a word of mine"}),
        ({"0": "Red"}, {"color": "r"}),
    ],
)  # fmt: skip
def test_answers_fill_the_form(answers, filled):
    assert questions.content(FORM, answers) == filled


@pytest.mark.parametrize("answers", [None, {}, [], {"1": ["One"]}, {"0": []}, {"0": ["Red"], "3": ["many"]}])
def test_answers_that_do_not_fill_it(answers):
    with pytest.raises(HapiError):
        questions.content(FORM, answers)


@pytest.mark.parametrize("kind", ["integer", "number"])
@pytest.mark.parametrize("said", ["nan", "inf", "1e999", "9" * 30, "9" * 5_000, "many"])
def test_numbers_that_no_message_holds(kind, said):
    """The agent never got its answer, and its turn never ended."""
    form = {"requestedSchema": {"properties": {"n": {"type": kind}}}}
    assert questions.content(form, {"0": ["7"]}) == {"n": 7}
    with pytest.raises(HapiError):
        questions.content(form, {"0": [said]})


@pytest.mark.parametrize(
    ("kinds", "choice"),
    [((), False), (("allow_once",), False), (("odd", "reject_once"), False), (("odd",), True), ((None, None), True)],
)
def test_which_options_are_a_choice(kinds, choice):
    assert questions.is_choice([{"optionId": "x", "kind": kind} for kind in kinds]) is choice


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["", "type", "array", "string"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "items", "enum", "oneOf", "anyOf", "title", "0"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(json_values, json_values, json_values)
def test_whatever_a_form_is(fields, required, answers):
    form = {"requestedSchema": {"properties": fields, "required": required}, "message": answers}
    assert questions.of_form(form)["questions"]
    try:
        questions.content(form, answers)
    except HapiError:
        pass
