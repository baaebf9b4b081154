"""Installing: the facts that go into the file, what is refused, and launchd, played by a program that starts jobs."""

import json
import os
import sys
from pathlib import Path

import pytest

from hapi import config, files, launch, managers, service
from hapi.cli import app
from hapi.errors import ErrorCode, HapiError
from hapi.managers import Launchd, Systemd, manager_for
from tests.support.runner import Runner

LAUNCHCTL = f"""#!{sys.executable}
'''A stand-in for launchctl: it starts and ends jobs as their property lists say, and writes down what it was told.'''
import json, os, pathlib, plistlib, signal, subprocess, sys
place = pathlib.Path(__file__).parent
with (place / "words").open("a") as words:
    print(json.dumps(sys.argv[1:]), file=words)
verb, target = sys.argv[1:3]
record = place / "job"
def pid():
    return int(record.read_text()) if record.exists() and pathlib.Path("/proc", record.read_text()).exists() else None
if verb == "bootstrap":
    job = plistlib.loads(pathlib.Path(sys.argv[3]).read_bytes())
    environment = dict(HOME=os.environ["HOME"]) | job["EnvironmentVariables"]
    null = subprocess.DEVNULL
    started = subprocess.Popen(job["ProgramArguments"], env=environment, cwd="/", stdin=null, stdout=null, stderr=null)
    record.write_text(str(started.pid))
elif verb == "bootout":
    os.kill(pid(), signal.SIGTERM)
elif verb == "print" and target.count("/") > 1:
    if pid() is None:
        sys.exit("Could not find service")
    print("state = running\\n\\tpid = %d" % pid())
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A user's home with HAPI_HOME in it, and no user manager."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HAPI_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    for name in ("XDG_CONFIG_HOME", "CLI_API_TOKEN", "HAPI_NAMESPACE", "HAPI_API_URL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def unit(home):
    return Systemd("default")


def installed(unit, roots=(), **more):
    return service.install(config.load(), unit, roots, **more)


# ------------------------------------------------------------------------------------------------------------ facts


def test_the_program_is_the_script_that_was_called(home, monkeypatch):
    script = home / "bin" / "hapi"
    script.parent.mkdir()
    script.write_text("#!/bin/sh\n")
    monkeypatch.setattr(sys, "argv", [str(script), "runner", "install"])
    assert service.program() == [sys.executable, "-m", "hapi"]  # not executable
    script.chmod(0o755)
    assert service.program() == [str(script)]
    link = home / "hapi"
    link.symlink_to(script)
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "argv", ["./hapi"])
    assert service.program() == [str(link)]  # the link outlives what an upgrade puts behind it
    monkeypatch.setattr(sys, "argv", [str(home / "hapi" / "__main__.py")])
    assert service.program() == [sys.executable, "-m", "hapi"]


def test_the_environment_is_the_installers_path_and_an_unusual_home(home, monkeypatch):
    monkeypatch.setenv("PATH", "/a::relative:/b c:/a:/c")
    monkeypatch.setenv("PYTHONPATH", "/src")
    found = service.facts(config.load(), ["/r"])
    assert found.environment["PATH"] == "/a:/b c:/c"
    assert found.environment["HAPI_HOME"] == str(home / "h")
    assert "/src" in found.environment["PYTHONPATH"].split(":")
    assert found.roots == ["/r"]
    assert found.umask == files.own_umask()


def test_the_usual_home_is_not_named(home, monkeypatch):
    monkeypatch.delenv("HAPI_HOME")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.setattr(service, "_service_home", lambda: home)
    monkeypatch.setattr(sys, "path", ["/venv/bin"])
    monkeypatch.setenv("PATH", "relative")
    assert service.facts(config.load(), []).environment == {"PATH": os.defpath}


def test_what_the_service_will_not_see_is_said(unit, monkeypatch):
    monkeypatch.setenv("CLI_API_TOKEN", "canary:work")
    monkeypatch.setenv("HAPI_API_URL", "http://hub.example")
    found = installed(unit)
    assert [note.split()[0] for note in found.notes] == ["CLI_API_TOKEN", "HAPI_API_URL"]
    assert "canary" not in unit.path.read_text() + "".join(found.notes)
    assert "--namespace work" in unit.path.read_text()


# --------------------------------------------------------------------------------------------------------- the file


def test_where_the_file_goes(home, monkeypatch):
    assert Systemd("default").path == home / ".config/systemd/user/hapi-runner.service"
    assert Launchd("work").path == home / "Library/LaunchAgents/com.hapi.runner.work.plist"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    assert Systemd("work").path == home / ".config/systemd/user/hapi-runner-work.service"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "c"))
    assert Systemd("work").path == home / "c/systemd/user/hapi-runner-work.service"


def test_the_same_again_changes_nothing(unit):
    assert installed(unit, ["/r"]).outcome == "installed"
    before = unit.path.stat().st_mtime_ns
    assert installed(unit, ["/r"]).outcome == "already_installed"
    assert unit.path.stat().st_mtime_ns == before
    assert installed(unit, ["/other"]).outcome == "updated"


def test_a_file_of_somebody_else_is_left_alone(unit):
    unit.path.parent.mkdir(parents=True)
    unit.path.write_text("[Service]\nExecStart=/bin/mine\n")
    for attempt in (lambda: installed(unit), lambda: service.uninstall(unit)):
        with pytest.raises(HapiError) as caught:
            attempt()
        assert caught.value.code is ErrorCode.NOT_OURS
        assert "/bin/mine" in unit.path.read_text()
    assert installed(unit, force=True).outcome == "updated"
    assert "/bin/mine" not in unit.path.read_text()


def test_a_directory_that_cannot_be_written_is_a_reason(unit, home):
    (home / ".config").write_text("in the way")
    with pytest.raises(HapiError) as caught:
        installed(unit)
    assert caught.value.code is ErrorCode.BAD_CONFIGURATION


def test_an_install_without_roots_widens_nothing(unit):
    paths = config.load().paths
    paths.make_private()
    assert installed(unit).roots == []
    unit.path.unlink()
    paths.state.write_text(json.dumps({"workspaceRoots": ["/recorded"]}))
    assert installed(unit).roots == ["/recorded"]
    assert installed(unit, ["/given"]).roots == ["/given"]
    assert installed(unit).roots == ["/given"]  # the installed file's


def test_uninstall_of_nothing(unit):
    assert service.uninstall(unit).removed is False


# ------------------------------------------------------------------------------------------------------ the command


def test_other_platforms(home, monkeypatch, capsys):
    with pytest.raises(HapiError) as caught:
        manager_for("default", "freebsd14")
    assert caught.value.code is ErrorCode.UNSUPPORTED_PLATFORM
    assert isinstance(manager_for("default", "linux"), Systemd)
    assert isinstance(manager_for("default", "darwin"), Launchd)
    monkeypatch.setattr(managers, "manager_for", lambda _: manager_for("default", "sunos"))
    for words in (["install"], ["install", "--now"], ["uninstall"]):
        assert app.run(["runner", *words, "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["error"]["code"] == "unsupported_platform"


def test_the_command_line(home, capsys):
    assert app.run(["runner", "install"]) == 0
    first = capsys.readouterr()
    assert first.out.startswith("Installed hapi-runner.service.\n")
    assert "hapi runner install --now" in first.err
    assert app.run(["runner", "install", "--workspace-root", "/nowhere/at/all"]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert app.run(["runner", "install", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    path = str(home / ".config/systemd/user/hapi-runner.service")
    assert again == {
        "manager": "systemd",
        "unit": "hapi-runner.service",
        "path": path,
        "outcome": "already_installed",
        "workspaceRoots": [],
        "pid": None,
        "replacedPid": None,
        "notes": [],
    }
    assert app.run(["runner", "uninstall"]) == 0
    assert f"Removed {path}" in capsys.readouterr().out
    assert app.run(["runner", "uninstall", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["removed"] is False


def test_lingering_is_advised_where_it_is_off(unit, monkeypatch, home):
    monkeypatch.setattr(managers, "_LINGER", home)
    assert "enable-linger" in unit.advice()[0]
    (home / managers._user()).touch()
    assert unit.advice() == []


# ----------------------------------------------------------------------------------------------------------- doctor


def doctor(capsys):
    app.run(["doctor", "--json"])
    report = json.loads(capsys.readouterr().out)
    return report["service"], [f for f in report["findings"] if f["fix"] == "hapi runner install --now"]


def test_doctor_looks_at_the_unit(unit, capsys, monkeypatch):
    monkeypatch.setenv("HAPI_API_URL", "http://127.0.0.1:1")
    found, findings = doctor(capsys)
    assert (found["installed"], findings) == (False, [])
    installed(unit)
    found, findings = doctor(capsys)
    assert (found["installed"], found["program"], findings) == (True, sys.executable, [])
    unit.path.write_text(unit.path.read_text().replace(sys.executable, "/nowhere/hapi"))
    found, findings = doctor(capsys)
    assert found["program"] == "/nowhere/hapi"
    assert findings[0]["severity"] == "error"
    assert "/nowhere/hapi" in findings[0]["message"]
    app.run(["doctor"])
    assert "/nowhere/hapi cannot be run" in capsys.readouterr().out


# ---------------------------------------------------------------------------------------------------------- launchd


@pytest.fixture
def launchd(home, scratch, monkeypatch):
    """Launchd with the stand-in for launchctl, and a home whose processes are all ended afterwards."""
    tool = scratch / "bin" / "launchctl"
    tool.parent.mkdir()
    tool.write_text(LAUNCHCTL)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("HAPI_HOME", str(scratch / "h"))
    with Runner(scratch / "h"):
        yield Launchd("default")


def said(launchd):
    words = Path(os.environ["PATH"].split(":")[0], "words").read_text().splitlines()
    return [verb for verb, *_ in map(json.loads, words) if verb != "print"]


def test_launchd_starts_takes_over_restarts_and_stops(launchd):
    configuration = config.load()
    before = launch.start(configuration, ["/tmp"])
    first = installed(launchd)
    service.start(configuration, launchd, first)
    assert (first.outcome, first.roots, first.replaced) == ("installed", ["/tmp"], before.pid)
    status = launch.probe(configuration)
    assert (status.pid, status.supervised, status.workspace_roots) == (first.pid, True, ["/tmp"])
    same = installed(launchd)
    service.start(configuration, launchd, same)
    assert (same.outcome, same.pid) == ("already_installed", first.pid)
    changed = installed(launchd, ["/"])
    service.start(configuration, launchd, changed)
    assert (changed.outcome, changed.pid != first.pid) == ("updated", True)
    done = service.uninstall(launchd)
    assert (done.removed, done.stopped, launchd.path.exists()) == (True, changed.pid, False)
    assert launch.probe(configuration) is None
    assert said(launchd) == ["bootstrap", "kickstart", "kickstart", "bootout", "bootstrap", "kickstart", "bootout"]


def test_a_runner_of_another_manager_is_not_taken_for_the_units(launchd, monkeypatch):
    """Its owner keeps it, and no unit is loaded that could never get the lock."""
    configuration = config.load()
    monkeypatch.setenv("HAPI_RUNNER_SUPERVISED", "1")
    other = launch.start(configuration)
    monkeypatch.delenv("HAPI_RUNNER_SUPERVISED")
    found = installed(launchd)
    with pytest.raises(HapiError) as caught:
        service.start(configuration, launchd, found)
    assert caught.value.code is ErrorCode.ALREADY_RUNNING
    assert launch.probe(configuration).pid == other.pid
    assert said(launchd) == []


def test_without_a_domain(launchd):
    Path(os.environ["PATH"].split(":")[0], "launchctl").write_text("#!/bin/sh\necho no domain >&2\nexit 113\n")
    with pytest.raises(HapiError, match="no domain") as caught:
        launchd.check()
    assert caught.value.code is ErrorCode.SERVICE_MANAGER
