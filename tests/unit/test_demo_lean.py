"""The demo agent's short cuts, beside the modules that they stand for."""

import json
import math
import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hapi.agents import demo_lean

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_json_is_json(value):
    text = demo_lean.dumps(value)
    assert text == json.dumps(value, separators=(",", ":"))
    assert demo_lean.loads(f" \r\n{text}\t") == value
    assert demo_lean.loads(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")) == value


@pytest.mark.parametrize("text", ["", " ", "{", "[1", '{"a"}', "nope", "1 2", "{}{}", '"\n"', b"\xff", "\ufeff1"])
def test_what_is_no_json_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011 - json's errors are ValueErrors, whatever they say
        demo_lean.loads(text)


def test_numbers_that_json_has_not():
    assert math.isinf(demo_lean.loads("-Infinity"))
    assert math.isnan(demo_lean.loads("NaN"))


def test_what_cannot_be_said():
    with pytest.raises(TypeError):
        demo_lean.dumps({"a": object()})


@pytest.mark.parametrize(
    "halves",
    [
        {"_json": None},
        {"make_scanner": "lambda reading: reading.memo"},
        {"make_encoder": "lambda one: real.make_encoder"},
    ],
    ids=["none", "scanner", "encoder"],
)
def test_where_the_c_half_is_none_or_another_json_does_it(halves):
    """Seen to fail: with ImportError alone caught in `_codec`."""
    changed = [f"real.{name} = {value}" for name, value in halves.items() if value]
    code = [
        "import json, sys, _json as real",
        *(changed or ["sys.modules['_json'] = None"]),
        "from hapi.agents import demo_lean",
        """print(demo_lean.dumps(demo_lean.loads('{ "a": [1] }')), demo_lean._load is json.loads)""",
    ]
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ['{"a":[1]}', "True"]


def test_a_flag_wakes_all_who_wait():
    flag = demo_lean.Flag()
    assert not flag.wait(0)
    assert not flag.wait(0.01)
    seen = demo_lean.SimpleQueue()
    for _ in range(3):
        demo_lean.start_thread(lambda: seen.put(flag.wait()), stack_bytes=256 * 1024)
    setters = [threading.Thread(target=flag.set) for _ in range(2)]
    for setter in setters:
        setter.start()
    for setter in setters:
        setter.join(10)
    assert [seen.get(timeout=10) for _ in range(3)] == [True] * 3
    assert flag.wait(0)
