"""Where things lie, that sockets' paths fit, and that all of it is private."""

import os
import stat
from pathlib import Path

import pytest

from hapi.errors import ErrorCode, HapiError
from hapi.paths import SUN_PATH_BYTES, Paths, all_namespaces


def test_the_layout():
    paths = Paths(Path("/h"))
    assert [str(p) for p in (paths.settings, paths.state, paths.lock, paths.sessions, paths.log("hub"), paths.run)] == [
        "/h/settings.json",
        "/h/runner.state.json",
        "/h/runner.state.json.lock",
        "/h/sessions",
        "/h/logs/hub.log",
        "/h/run",
    ]
    assert (paths.control_endpoint, paths.bus_endpoint) == ("ipc:///h/run/broker.sock", "ipc:///h/run/bus.sock")


def test_a_namespace_has_its_own_of_everything():
    one, other = Paths(Path("/h")), Paths(Path("/h"), "work")
    assert other.root == Path("/h/namespaces/work")
    assert other.home_settings == one.settings
    for name in ("settings", "state", "lock", "sessions", "logs", "run", "control_endpoint", "bus_endpoint"):
        assert getattr(one, name) != getattr(other, name)


@pytest.mark.parametrize("length", [10, 80, 90, 91, 92, 93, 94, 95, 96, 97, 100, 200, 3000])
@pytest.mark.parametrize("runtime", [None, "/run/user/0", "/" + "r" * 66, "/" + "r" * 67, "/" + "r" * 200])
@pytest.mark.parametrize("letter", ["x", "é"])
def test_sockets_always_fit(monkeypatch, length, runtime, letter):
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    if runtime:
        monkeypatch.setenv("XDG_RUNTIME_DIR", runtime)
    paths = Paths(Path("/" + letter * length))
    for endpoint in (paths.control_endpoint, paths.bus_endpoint):
        assert len(os.fsencode(endpoint.removeprefix("ipc://"))) <= SUN_PATH_BYTES
    assert Paths(Path("/" + letter * length)).run == paths.run
    natural = len(os.fsencode("/" + letter * length)) + len("/run/broker.sock") <= SUN_PATH_BYTES
    assert (paths.run == paths.root / "run") is natural


def test_two_long_homes_do_not_share_a_socket():
    assert Paths(Path("/" + "x" * 200)).run != Paths(Path("/" + "x" * 201)).run
    assert Paths(Path("/" + "x" * 200)).run != Paths(Path("/" + "x" * 200), "work").run


@pytest.mark.parametrize("namespace", ["default", "work"])
def test_trap_16_all_is_private_under_any_umask(tmp_path, namespace):
    paths = Paths(tmp_path / "h", namespace)
    before = os.umask(0)
    try:
        paths.make_private()
    finally:
        os.umask(before)
    for directory in (paths.home, paths.root, paths.sessions, paths.logs, paths.run):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_what_was_open_is_closed(tmp_path):
    (tmp_path / "h" / "run").mkdir(parents=True)
    (tmp_path / "h" / "run").chmod(0o777)
    (tmp_path / "h").chmod(0o755)
    Paths(tmp_path / "h").make_private()
    assert stat.S_IMODE((tmp_path / "h" / "run").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "h").stat().st_mode) == 0o700


def test_a_link_in_place_of_the_short_socket_directory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    home = tmp_path / ("x" * 120)
    paths = Paths(home)
    if paths.run.parent != tmp_path:
        monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp")
        paths = Paths(home)
    (tmp_path / "theirs").mkdir()
    paths.run.symlink_to(tmp_path / "theirs")
    try:
        with pytest.raises(HapiError, match="symbolic link"):
            paths.make_private()
    finally:
        paths.run.unlink()


def test_a_home_that_is_a_link_may_be_called_anything(tmp_path):
    """One whose name began with `hapi-` was taken for a forged socket directory."""
    (tmp_path / "real").mkdir()
    (tmp_path / "hapi-home").symlink_to(tmp_path / "real")
    Paths(tmp_path / "hapi-home").make_private()
    assert (tmp_path / "real" / "run").is_dir()


@pytest.mark.parametrize("blocked", ["h", "h/logs", "h/run"])
def test_a_file_in_the_way(tmp_path, blocked):
    (tmp_path / blocked).parent.mkdir(exist_ok=True)
    (tmp_path / blocked).write_text("x")
    with pytest.raises(HapiError) as caught:
        Paths(tmp_path / "h").make_private()
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION
    assert (tmp_path / blocked).read_text() == "x"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else(tmp_path):
    (tmp_path / "h").mkdir()
    os.chown(tmp_path / "h", 12345, 12345)
    with pytest.raises(HapiError, match="another user"):
        Paths(tmp_path / "h").make_private()


def test_namespaces(tmp_path):
    assert all_namespaces(tmp_path) == ["default"]
    for name in ("b", "a"):
        (tmp_path / "namespaces" / name).mkdir(parents=True)
    (tmp_path / "namespaces" / "file").write_text("")
    assert all_namespaces(tmp_path) == ["default", "a", "b"]
