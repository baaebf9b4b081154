"""Starting and stopping: real processes, with a stand-in for the broker that does what the test says."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hapi import __version__, config, control, detached, files, launch, procs
from hapi.cli import app
from hapi.errors import ErrorCode, HapiError
from hapi.files import FileLock

ROOT = Path(__file__).resolve().parents[2]
COMMAND = launch.command
STAND_IN = f"""
import json, os, signal, sys
sys.path.insert(0, {str(ROOT)!r})
import zmq
from hapi import config, wire
from hapi.files import FileLock
behaviour, version, fd = sys.argv[1], sys.argv[2], int(sys.argv[sys.argv.index("--ready-fd") + 1])
roots = [sys.argv[i + 1] for i, word in enumerate(sys.argv) if word == "--workspace-root"]
def tell(value):
    os.write(fd, json.dumps(value).encode() + b"\\n")
    os.close(fd)
paths = config.load(sys.argv[sys.argv.index("--namespace") + 1]).paths
if behaviour == "dies":
    paths.log("runner").write_text("an old line\\nthe disk is on fire\\n")
    sys.exit(7)
if behaviour == "refuses":
    tell({{"error": {{"code": "bad_configuration", "message": "No.", "hint": "Yes."}}}})
    sys.exit(1)
if behaviour == "hangs":
    print(os.getpid(), file=open(paths.home / "hung", "w"))
    signal.pause()
lock = FileLock(paths.lock)
if not lock.acquire(str(os.getpid())):
    tell({{"error": {{"code": "already_running", "message": "Running already.", "hint": ""}}}})
    sys.exit(1)
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
socket = zmq.Context().socket(zmq.ROUTER)
socket.linger = 0
socket.bind(paths.control_endpoint)
tell({{"pid": os.getpid(), "endpoint": paths.control_endpoint, "log": str(paths.log("runner"))}})
while behaviour in ("deaf", "mute"):
    signal.pause()
while True:
    peer, empty, head, body = socket.recv_multipart()
    request = wire.decode_header(head)
    stop = isinstance(wire.decode(wire.FOR_CONTROL, body), wire.StopRunner)
    answer = wire.RunnerStopping(1) if stop else wire.Status(
        pid=os.getpid(), version=version, namespace=paths.namespace, endpoint=paths.control_endpoint, started_at=0,
        log_path="log", workspace_roots=roots, hub=wire.HubStatus(), workers={{}}, sessions={{}}, verdicts={{}},
        counters={{}}, supervised=behaviour == "supervised")
    header = wire.Header("cli", "broker", request.request, True)
    socket.send_multipart([peer, empty, wire.encode(header), wire.encode(answer)])
    if stop:
        socket.context.destroy(linger=1000)
        sys.exit(0)
"""


@pytest.fixture
def hapi(tmp_path, monkeypatch):
    """The configuration, and `behave` to say what the stand-in does; whatever runs at the end is ended."""
    monkeypatch.setenv("HAPI_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("HAPI_RUNNER_HTTP_TIMEOUT", "1000")
    for name in ("CLI_API_TOKEN", "HAPI_NAMESPACE", "HAPI_DISABLE_VERSION_HANDOFF"):
        monkeypatch.delenv(name, raising=False)
    script = tmp_path / "hapi.broker"  # its command line looks like a broker's
    script.write_text(STAND_IN)
    real = launch.command
    paths = config.load().paths

    def behave(behaviour, version=__version__):
        def command(*words):
            return [sys.executable, str(script), behaviour, version, *real(*words)[3:]]

        monkeypatch.setattr(launch, "command", command)
        return config.load()

    yield behave
    left = control.lock_holder(paths)
    if left:
        control.force(left)
        os.waitpid(left.pid, os.WNOHANG)


def test_start_find_and_stop(hapi):
    settings = hapi("answers")
    started = launch.start(settings)
    assert not started.already
    assert started.endpoint == settings.paths.control_endpoint
    again = launch.start(settings)
    assert again.already
    assert again.pid == started.pid
    stopped = control.stop(settings)
    assert (stopped.pid, stopped.sessions, stopped.how) == (started.pid, 1, "asked")
    assert not files.is_locked(settings.paths.lock)
    assert not control.stop(settings).running


def test_the_runner_is_detached(hapi):
    started = launch.start(hapi("answers"))
    assert os.getsid(started.pid) == started.pid
    fds = {os.readlink(f"/proc/{started.pid}/fd/{number}") for number in (0, 1, 2)}
    assert fds == {"/dev/null"}
    assert os.readlink(f"/proc/{started.pid}/cwd") == "/"


def test_a_runner_of_another_version_is_replaced_and_keeps_its_roots(hapi, tmp_path):
    settings = hapi("answers", "0.0.1")
    old = launch.start(settings, [str(tmp_path)])
    hapi("answers")
    new = launch.start(settings)
    assert new.replaced == "0.0.1"
    assert new.pid != old.pid
    assert launch.probe(settings).workspace_roots == [str(tmp_path)]


def test_another_version_is_left_alone_when_that_is_wanted(hapi, monkeypatch):
    old = launch.start(hapi("answers", "0.0.1"))
    monkeypatch.setenv("HAPI_DISABLE_VERSION_HANDOFF", "1")
    assert launch.start(hapi("answers")).pid == old.pid


def test_a_service_manager_that_does_not_bring_it_back_is_not_waited_for_for_ever(hapi, monkeypatch):
    settings = hapi("supervised", "0.0.1")
    old = launch.start(settings)
    assert launch.ensure_running(settings).pid == old.pid
    monkeypatch.setattr(launch, "MANAGER_TIMEOUT_S", 1.0)
    with pytest.raises(HapiError, match="service manager has not started") as caught:
        launch.start(settings)
    assert caught.value.code is ErrorCode.TIMEOUT


def test_restart_keeps_the_roots(hapi, tmp_path):
    settings = hapi("answers")
    old = launch.start(settings, [str(tmp_path)])
    stopped, new = launch.restart(settings)
    assert stopped.pid == old.pid != new.pid
    assert launch.probe(settings).workspace_roots == [str(tmp_path)]


def test_a_runner_started_on_demand_has_the_roots_of_the_last_one(hapi, tmp_path):
    settings = hapi("answers")
    settings.paths.make_private()
    settings.paths.state.write_text(json.dumps({"workspaceRoots": [str(tmp_path)]}))
    assert not launch.ensure_running(settings).already
    assert launch.probe(settings).workspace_roots == [str(tmp_path)]


def test_restart_without_a_runner_starts_one(hapi):
    stopped, started = launch.restart(hapi("answers"))
    assert not stopped.running
    assert started.pid


def test_starts_at_once_make_one_runner(hapi):
    settings = hapi("answers")
    found = []
    threads = [threading.Thread(target=lambda: found.append(launch.start(settings))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len({started.pid for started in found}) == 1
    assert [started.already for started in found].count(False) == 1
    assert len(found) == 4


def test_a_runner_that_dies_says_why(hapi):
    settings = hapi("dies")
    with pytest.raises(HapiError) as caught:
        launch.start(settings)
    assert caught.value.code is ErrorCode.START_FAILED
    assert "exit status 7" in caught.value.message
    assert "the disk is on fire" in caught.value.message
    assert str(settings.paths.log("runner")) in caught.value.message


def test_a_runner_that_refuses_is_quoted(hapi):
    with pytest.raises(HapiError) as caught:
        launch.start(hapi("refuses"))
    assert (caught.value.code, caught.value.message, caught.value.hint) == (ErrorCode.BAD_CONFIGURATION, "No.", "Yes.")


def test_a_runner_that_hangs_is_ended(hapi, monkeypatch):
    monkeypatch.setattr(launch, "START_TIMEOUT_S", 1.5)
    settings = hapi("hangs")
    with pytest.raises(HapiError, match="did not answer within"):
        launch.start(settings)
    hung = int((settings.home / "hung").read_text())
    assert procs.identity(hung) is None


@pytest.mark.parametrize(("behaviour", "how"), [("mute", "SIGTERM"), ("deaf", "SIGKILL")])
def test_a_runner_that_does_not_answer_is_ended_by_signal(hapi, monkeypatch, behaviour, how):
    monkeypatch.setattr(control, "STOP_TIMEOUT_S", 1.0)
    settings = hapi(behaviour)
    started = launch.start(settings)
    with pytest.raises(HapiError) as caught:
        launch.start(settings)
    assert caught.value.code is ErrorCode.TIMEOUT
    stopped = control.stop(settings)
    assert (stopped.pid, stopped.how, stopped.sessions) == (started.pid, how, None)


def test_a_stranger_with_the_lock_is_not_signalled(hapi):
    settings = hapi("answers")
    settings.paths.make_private()
    lock = FileLock(settings.paths.lock)
    with subprocess.Popen(["sleep", "60"]) as stranger:
        assert lock.acquire(str(stranger.pid))
        with pytest.raises(HapiError, match="nothing was done"):
            control.stop(settings)
        assert stranger.poll() is None
        stranger.kill()
    lock.release()


def test_the_command_line(hapi, capsys):
    hapi("answers")
    assert app.run(["runner", "start", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["alreadyRunning"] is False
    assert app.run(["runner", "start"]) == 0
    assert f"already running (pid {first['pid']})" in capsys.readouterr().out
    assert app.run(["runner", "restart"]) == 0
    assert f"Stopped the runner (pid {first['pid']})." in capsys.readouterr().out
    assert app.run(["runner", "stop"]) == 0
    assert "1 session lives on; the hub shows it offline" in capsys.readouterr().out
    assert app.run(["runner", "start", "--workspace-root", "/nowhere/at/all"]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_start_sync_refuses_a_second_runner(hapi, capsys):
    launch.start(hapi("answers"))
    assert app.run(["runner", "start-sync"]) == 1
    assert "running already" in capsys.readouterr().err


def test_start_sync_becomes_the_runner(hapi, monkeypatch):
    settings = hapi("answers")
    monkeypatch.setattr(launch, "command", COMMAND)
    seen = []
    monkeypatch.setattr(os, "execve", lambda *words: seen.append(words))
    launch.run_in_foreground(settings, ["/tmp"])
    ((program, words, _),) = seen
    assert program == sys.executable
    assert words[1:] == ["-m", "hapi.broker", "--namespace", "default", "--workspace-root", "/tmp"]


def test_a_checkout_finds_its_way_back(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT), "/usr/lib/python3"])
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert detached.environment()["PYTHONPATH"] == f"{ROOT}:/elsewhere"
    monkeypatch.setattr(sys, "path", ["/venv/bin", str(ROOT)])
    assert detached.environment()["PYTHONPATH"] == "/elsewhere"
