"""Names: what is one, and what is not."""

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi import ids
from hapi.errors import ErrorCode, HapiError


def test_session_ids_are_fresh_uuids():
    made = {ids.new_session_id() for _ in range(100)}
    assert len(made) == 100
    assert all(uuid.UUID(item).version == 4 and ids.session_id(item) == item for item in made)


@pytest.mark.parametrize(
    "form", [str, lambda u: str(u).upper(), lambda u: u.hex, lambda u: f"{{{u}}}", lambda u: u.urn]
)
def test_all_forms_of_a_uuid_are_one(form):
    key = uuid.UUID("1f0c22ab-0000-4000-8000-00000000000a")
    assert ids.session_id(form(key)) == str(key)


@given(st.text(max_size=40))
def test_everything_else_is_refused(text):
    try:
        assert str(uuid.UUID(ids.session_id(text))) == ids.session_id(text)
    except HapiError as error:
        assert error.code is ErrorCode.BAD_REQUEST


@pytest.mark.parametrize("name", ["default", "a", "A.b-c_d", "9", "x" * 64])
def test_namespaces(name):
    assert ids.namespace(name) == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "_a", "a/b", "a b", "a\n", "a\0", "é", "x" * 65])
def test_what_is_no_namespace(name):
    with pytest.raises(HapiError) as caught:
        ids.namespace(name)
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION


@pytest.mark.parametrize(
    ("token", "parts"),
    [("t", ("t", "default")), ("t:n", ("t", "n")), ("t:u:n", ("t:u", "n")), ("", ("", "default"))],
)
def test_tokens(token, parts):
    assert ids.split_token(token) == parts


@pytest.mark.parametrize("token", ["t:", ":n", ":", "t :n", " t:n", "t: n", "t:n ", "t:n/m"])
def test_malformed_tokens(token):
    with pytest.raises(HapiError) as caught:
        ids.split_token(token)
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION


def test_a_process_is_more_than_its_pid():
    who = ids.ProcessId(1, 2, "b")
    assert who == ids.ProcessId(1, 2, "b")
    assert {who, ids.ProcessId(1, 2, "b")} == {who}
    assert ids.ProcessId(1, 3, "b") != who != ids.ProcessId(1, 2, "c")
