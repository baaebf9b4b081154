"""What a fresh interpreter loads: real processes, because only they show it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {
    "asyncio",
    "psutil",
    "rich",
    "logging",
    "socketio",
    "engineio",
    "aiohttp",
    "acp",
    "pydantic",
    "multiprocessing",
}


def python(*words, home, **environ):
    keep = {"PATH": os.environ["PATH"], "HAPI_HOME": str(home), "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *words], env=keep | environ, capture_output=True, text=True, timeout=30, check=False
    )


def loaded_by(*words, home):
    code = (
        "import sys\nfrom hapi.__main__ import main\n"
        f"status = main({list(words)!r})\nsys.stderr.write('MODULES ' + ' '.join(sys.modules))\nsys.exit(status)"
    )
    done = python("-c", code, home=home)
    return done.returncode, set(done.stderr.rpartition("MODULES ")[2].split())


@pytest.mark.parametrize(
    ("words", "code"), [(["runner", "list"], 3), (["runner", "status"], 3), (["runner", "stop"], 0)]
)
def test_a_quick_command_loads_nothing_heavy(tmp_path, words, code):
    status, modules = loaded_by(*words, home=tmp_path)
    assert status == code
    assert not (HEAVY | {"typer", "hapi.cli.app", "subprocess", "typing_extensions", "inspect"}) & modules
    assert not {name for name in modules if name.startswith(("hapi.terminal.", "hapi.agents."))}
    assert "zmq" not in modules  # nobody holds the lock: there is nobody to talk to


def test_what_the_parser_reads_loads_nothing_heavy_either(tmp_path):
    status, modules = loaded_by("runner", "logs", home=tmp_path)
    assert status == 1  # there is none yet
    assert "hapi.cli.app" in modules
    assert not HEAVY & modules


def test_the_version_needs_no_typer(tmp_path):
    status, modules = loaded_by("--version", home=tmp_path)
    assert status == 0
    assert not (HEAVY | {"typer", "msgspec", "subprocess"}) & modules


def test_the_version_is_printed(tmp_path):
    from hapi import __version__

    for word in ("--version", "-V"):
        assert python("-m", "hapi", word, home=tmp_path).stdout == f"hapi {__version__}\n"


def test_not_running_leaves_no_trace(tmp_path):
    home = tmp_path / "h"
    assert python("-m", "hapi", "runner", "list", home=home).returncode == 3
    assert not home.exists()


def test_completion_loads_no_parser(tmp_path):
    status, modules = loaded_by("__complete", "2", "hapi", "send", "", home=tmp_path)
    assert status == 0
    assert not (HEAVY | {"typer", "click", "subprocess"}) & modules


def test_a_closed_pipe_is_no_traceback(tmp_path):
    read, write = os.pipe()
    os.close(read)
    keep = {"PATH": os.environ["PATH"], "HAPI_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "hapi", "--help"],
        env=keep,
        stdout=write,
        stderr=subprocess.PIPE,
        timeout=30,
        check=False,
    )
    os.close(write)
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
