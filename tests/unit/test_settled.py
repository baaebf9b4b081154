"""What the nursery read ahead must never be older than the files."""

import json
import os

import pytest

from hapi import config
from hapi.errors import HapiError
from hapi.workers import settled
from tests.support.wait import until


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HAPI_HOME", str(tmp_path))
    monkeypatch.setattr(settled, "_known", {})
    monkeypatch.setattr(settled, "_GRAIN_NS", 0)
    return tmp_path


def write(path, **values):
    """Write, and let the file system's clock go on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))
    written, probe = path.stat().st_ctime_ns, path.with_name("probe")
    until(lambda: (probe.touch(), probe.stat().st_ctime_ns > written)[1], 10, "the clock goes on")


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


def test_a_change_that_keeps_size_and_time_is_seen(home):
    """As `cp -p` of an edited file, or a restored backup, makes it.

    Seen to fail: with st_mtime_ns in `_stamp`.
    """
    file = home / "settings.json"
    write(file, hostname="one")
    before = file.stat()
    settled.remember("default")
    write(file, hostname="two")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert settled.load("default").hostname == "two"


def test_a_file_that_was_just_written_is_read_again(home, monkeypatch):
    """The next change may get the same time.

    Seen to fail: without `_trusted`.
    """
    write(home / "settings.json", hostname="one")
    monkeypatch.setattr(settled, "_GRAIN_NS", 60_000_000_000)
    settled.remember("default")
    stamps = settled._known["default"]._look()
    monkeypatch.setattr(settled._Known, "_look", lambda _: stamps)
    write(home / "settings.json", hostname="two")
    assert settled.load("default").hostname == "two"


def test_what_cannot_be_read_is_told_to_who_needs_it(home):
    (home / "settings.json").write_text("{")
    settled.remember("default")
    with pytest.raises(HapiError):
        settled.load("default")
    write(home / "settings.json", hostname="mended")
    assert settled.load("default").hostname == "mended"
