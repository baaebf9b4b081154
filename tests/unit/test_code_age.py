"""The two time stamps by which the web tells that other code is installed than runs."""

import os

from hapi.installed import Installed
from hapi.workers.hub.code_age import CodeAge


def package(path):
    path.mkdir()
    (path / "__init__.py").write_text('__version__ = "1"\n')
    return Installed(str(path))


def stamps(age):
    found = age.look()
    return found["startedCliMtimeMs"], found["installedCliMtimeMs"]


def test_equal_until_the_content_changes(tmp_path):
    installed = package(tmp_path / "p")
    file = tmp_path / "p" / "__init__.py"
    os.utime(file, (1000, 1000))
    age = CodeAge(installed.look().digest, 5_000_000, installed)
    assert stamps(age) == (1_000_000, 1_000_000)
    os.utime(file, (2000, 2000))  # touched
    assert stamps(age) == (2_000_000, 2_000_000)
    file.write_text('__version__ = "2"\n')
    os.utime(file, (3000, 3000))
    assert stamps(age) == (2_000_000, 3_000_000)


def test_they_differ_even_if_the_clock_says_otherwise(tmp_path):
    installed = package(tmp_path / "p")
    os.utime(tmp_path / "p" / "__init__.py", (1000, 1000))
    assert stamps(CodeAge("other", 1_000_000, installed)) == (999_999, 1_000_000)
    assert stamps(CodeAge("other", 9_000_000, installed)) == (9_000_000, 1_000_000)


def test_nothing_is_said_of_what_cannot_be_known(tmp_path):
    assert CodeAge("", 1, package(tmp_path / "p")).look() == {}
    assert CodeAge("x", 1, Installed(str(tmp_path / "none"))).look() == {}
