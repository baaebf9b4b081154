"""The documents keep up with the code: every message, field, variable, key and command has its line."""

from __future__ import annotations

import inspect
import re
import subprocess
import typing
from pathlib import Path

import msgspec
import pytest

from hapi import errors, footprint, journal, wire
from hapi.agents import demo
from hapi.cli import loadtest
from hapi.loadtest import report, stats
from hapi.loadtest.ledger import Totals
from hapi.loadtest.report import Report, Sessions
from hapi.loadtest.stats import Summary
from hapi.terminal import protocol
from hapi.workers import orders

ROOT = Path(__file__).parents[2]
UNIONS = (
    wire.ControlRequest,
    wire.ControlReply,
    wire.ToBroker,
    wire.ToSession,
    wire.ToHub,
    wire.ToReaper,
    wire.Event,
    orders.FromNursery,
    journal.Entry,
    protocol.FromViewer,
    protocol.ToViewer,
)
MESSAGES = sorted({struct for union in UNIONS for struct in typing.get_args(union)} | {orders.Fork}, key=str)


def words(document: str) -> set[str]:
    """What stands in backquotes or braces in a document."""
    return set(re.findall(r"[A-Za-z_][A-Za-z0-9_.-]*", (ROOT / document).read_text()))


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.__name__)
def test_every_message_is_in_the_protocol(message):
    known = words("docs/protocol.md")
    info = msgspec.inspect.type_info(message)
    assert info.tag in known
    assert [field.name for field in info.fields if field.name not in known] == []


def test_every_variable_and_key_is_in_the_configuration():
    source = "".join((ROOT / "hapi" / name).read_text() for name in ("config.py", "crashpoints.py"))
    asked = set(re.findall(r'"((?:HAPI_|CLI_API_)[A-Z_]+)"', source)) | set(
        re.findall(r'"[a-z_]+", "([a-z]+[A-Z][A-Za-z]*)"', source)
    )
    assert len(asked) > 10
    assert asked - words("docs/configuration.md") == set()


def test_every_error_code_is_in_the_commands():
    assert {code.value for code in errors.ErrorCode} - words("docs/cli.md") == set()


def test_every_word_of_the_demo_agent_is_explained():
    text = (ROOT / "docs/agents.md").read_text()
    source = Path(demo.__file__).read_text()
    commands = set(re.findall(r"^\s*/([a-z-]+)", source, re.MULTILINE))
    assert [command for command in commands if f"/{command}" not in text] == []


def test_nothing_in_the_repository_needs_what_is_outside():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    texts = {name: (ROOT / name).read_bytes() for name in tracked if (ROOT / name).is_file()}
    outside = re.compile(rb"\.\./shared/|(?<![\w/])/wor" + rb"k/main")
    assert [name for name, text in texts.items() if outside.search(text)] == []


def test_every_key_of_a_load_tests_report_is_in_the_commands():
    structs = (Report, Sessions, Totals, Summary, stats.Bin, report.Moment, report.Sample, report.Burn, footprint.Use)
    keys = {field.encode_name for struct in structs for field in msgspec.structs.fields(struct)}
    assert len(keys) > 50
    assert keys - words("docs/cli.md") == set()


def test_every_option_of_the_load_test_is_in_the_commands():
    names = {f"--{name.replace('_', '-')}" for name in inspect.signature(loadtest.loadtest).parameters}
    names ^= {"--as-json", "--json"}
    assert len(names) > 15
    text = (ROOT / "docs" / "cli.md").read_text().partition("## Load test")[2]
    assert {name for name in names if f"`{name}" not in text and name != "--json"} == set()
