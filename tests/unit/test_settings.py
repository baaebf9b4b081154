"""settings.json is written by people and hubs too: nothing of theirs is lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hapi import settings
from hapi.errors import ErrorCode, HapiError

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def path(tmp_path):
    return tmp_path / "sub" / "settings.json"


def test_no_file_is_no_settings(path):
    assert settings.read(path) == {}
    assert not path.parent.exists()


def test_unknown_keys_survive(path):
    settings.update(path, {"machineId": "m"})
    path.write_text(json.dumps({"theirs": {"deep": [1, None]}, "nothing": None, "machineId": "m"}))
    assert settings.update(path, {"apiUrl": "http://x", "machineId": None, "absent": None}) == settings.read(path)
    assert settings.read(path) == {"theirs": {"deep": [1, None]}, "nothing": None, "apiUrl": "http://x"}


def test_the_file_is_private_and_for_people(path):
    settings.update(path, {"a": 1})
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o077 == 0
    assert path.read_bytes() == b'{\n  "a": 1\n}\n'


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"1 2"])
def test_a_damaged_file_is_neither_read_nor_overwritten(path, content):
    path.parent.mkdir()
    path.write_bytes(content)
    for call in (settings.read, lambda where: settings.update(where, {"a": 1})):
        with pytest.raises(HapiError) as caught:
            call(path)
        assert caught.value.code is ErrorCode.BAD_CONFIGURATION
        assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["directory", "file above"])
def test_what_cannot_be_a_file(path, kind):
    if kind == "directory":
        path.mkdir(parents=True)
    else:
        path.parent.write_text("x")
    with pytest.raises(HapiError) as caught:
        settings.update(path, {"a": 1})
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION


WRITER = """
import sys
from pathlib import Path
from hapi import settings
for number in range(10):
    settings.update(Path(sys.argv[1]), {f"{sys.argv[2]}-{number}": number})
"""


def test_writers_at_the_same_time_lose_nothing(path):
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, str(number)], env={"PYTHONPATH": str(ROOT)})
        for number in range(4)
    ]
    assert [writer.wait(20) for writer in writers] == [0] * 4
    assert len(settings.read(path)) == 40
