"""What the nursery read ahead must never be older than the files."""

import json
import os

import pytest

from hapi import config
from hapi.errors import HapiError
from hapi.workers import settled


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HAPI_HOME", str(tmp_path))
    monkeypatch.setattr(settled, "_known", {})
    return tmp_path


def write(path, **values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def test_nothing_is_read_again_while_nothing_changes(home, monkeypatch):
    write(home / "settings.json", hostname="one")
    settled.remember("default")
    monkeypatch.setattr(config, "load", None)
    assert settled.load("default").hostname == "one"


@pytest.mark.parametrize("namespace", ["default", "other"])
@pytest.mark.parametrize("there_before", [True, False])
def test_a_change_is_seen(home, namespace, there_before):
    """Of the home's file and of the namespace's own, in place and by replacement.

    Seen to fail: without the check in `settled.load`.
    """
    own = home / "settings.json" if namespace == "default" else home / "namespaces" / namespace / "settings.json"
    if there_before:
        write(home / "settings.json", hostname="one")
    settled.remember(namespace)
    write(home / "settings.json", hostname="two")
    assert settled.load(namespace).hostname == "two"
    settled.remember(namespace)
    write(home / "new", hostname="six")
    own.parent.mkdir(parents=True, exist_ok=True)
    os.replace(home / "new", own)
    assert settled.load(namespace).hostname == "six"
    own.unlink()
    assert settled.load(namespace).hostname != "six"


def test_what_cannot_be_read_is_told_to_who_needs_it(home):
    (home / "settings.json").write_text("{")
    settled.remember("default")
    with pytest.raises(HapiError):
        settled.load("default")
    write(home / "settings.json", hostname="mended")
    assert settled.load("default").hostname == "mended"
