"""Unit files and property lists: what they say, how they are quoted, and that deploy/ shows the same."""

import os
import plistlib
from pathlib import Path

import pytest

from hapi import unitfile
from hapi.errors import ErrorCode, HapiError
from hapi.unitfile import Service, command_of_plist, command_of_unit, launchd_plist, systemd_unit
from tests.conftest import skip_or_fail
from tests.support.manager import values
from tests.support.systemd import SYSTEMD, verify

DEPLOY = Path(__file__).parents[2] / "deploy"
ODD = """/tmp/a b $HOME ${x} $$ 100% %h 'q' "Q" \\back;slash ü"""
SERVICES = {
    "default": Service(program=["/usr/bin/env"]),
    "module": Service(program=["/usr/bin/python3", "-m", "hapi"], environment={"PYTHONPATH": "/srv/a b"}),
    "namespace": Service(program=["/usr/bin/env"], namespace="work.1_b-c"),
    "roots": Service(program=["/usr/bin/env"], roots=["/srv/code", "/home/a b/proj", ODD]),
    "home": Service(program=["/usr/bin/env"], environment={"HAPI_HOME": ODD, "PATH": f"/bin:{ODD}:/50%"}),
}
LAUNCHD_TYPES = {  # launchd.plist(5)
    "Label": str,
    "ProgramArguments": list,
    "EnvironmentVariables": dict,
    "RunAtLoad": bool,
    "KeepAlive": dict,
    "ThrottleInterval": int,
    "ExitTimeOut": int,
    "AbandonProcessGroup": bool,
    "ProcessType": str,
    "Umask": int,
}


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_unit_says_what_it_must_and_is_read_back(service):
    text = systemd_unit(service)
    assert unitfile.is_ours(text)
    assert command_of_unit(text, "/home/ada") == service.command
    single = {"Type": "exec", "KillMode": "process", "Restart": "on-failure", "UMask": "0022"}
    assert {key: values(text, key) for key in single} == {key: [value] for key, value in single.items()}
    assert "HAPI_RUNNER_SUPERVISED=1" in values(text, "Environment")
    assert len(values(text, "Environment")) == 1 + len(service.environment)


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_systemd_accepts_the_unit(service, tmp_path):
    if not SYSTEMD.exists():
        skip_or_fail("systemd", "systemd-analyze is not installed: apt-get install systemd")
    path = tmp_path / unitfile.unit_name(service.namespace)
    path.write_text(systemd_unit(service))
    assert verify(path) == ""


def test_the_check_of_units_sees_faults(tmp_path):
    """Without this, a `verify` that accepts all would prove nothing."""
    if not SYSTEMD.exists():
        skip_or_fail("systemd", "systemd-analyze is not installed: apt-get install systemd")
    path = tmp_path / "hapi-runner.service"
    good = systemd_unit(SERVICES["default"])
    for bad in (
        good.replace("/usr/bin/env", "/nowhere/hapi"),
        good.replace("KillMode=process", "KillMode=proces"),
        good.replace("UMask", "Umask"),
        good.replace("HAPI_RUNNER_SUPERVISED", '"HAPI'),
    ):
        assert bad != good
        path.write_text(bad)
        assert verify(path) != "", bad


@pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES)
def test_a_property_list_has_the_documented_keys_and_types(service):
    text = launchd_plist(service)
    keys = plistlib.loads(text.encode())
    assert {key: type(value) for key, value in keys.items()} == LAUNCHD_TYPES
    assert keys["ProgramArguments"] == service.command == command_of_plist(text)
    assert keys["EnvironmentVariables"] == {"HAPI_RUNNER_SUPERVISED": "1", **service.environment}
    assert keys["KeepAlive"] == {"SuccessfulExit": False}
    assert (keys["AbandonProcessGroup"], keys["RunAtLoad"]) == (True, True)
    assert keys["ProcessType"] in {"Background", "Standard", "Adaptive", "Interactive"}
    assert unitfile.is_ours(text)
    assert "--" not in text.partition("<!--")[2].partition("-->")[0]  # XML forbids it in a comment


@pytest.mark.parametrize(
    ("word", "written"),
    [
        ("/srv/a-b_c.d@e", "/srv/a-b_c.d@e"),
        ("/50%", "/50%%"),
        ("/a b", '"/a b"'),
        ('/a"b', '"/a\\"b"'),
        ("/a\\b", '"/a\\\\b"'),
        ("/it's", '"/it\'s"'),
        ("/a;b", '"/a;b"'),
        ("", '""'),
    ],
)
def test_quoting(word, written):
    (line,) = values(systemd_unit(Service(program=["/h"], roots=[word])), "ExecStart")
    assert line == f"/h runner start-sync --workspace-root {written}"


def test_a_dollar_turns_substitution_off_for_the_whole_line():
    (line,) = values(systemd_unit(Service(program=["/a b/h"], roots=["/$HOME"])), "ExecStart")
    assert line == '":/a b/h" runner start-sync --workspace-root "/$HOME"'


@pytest.mark.parametrize("render", [systemd_unit, launchd_plist])
@pytest.mark.parametrize("text", ["/a\nb", "/a\tb", "/a\x00b", "/a\x7fb", os.fsdecode(b"/a\xff")])
def test_what_cannot_be_written_is_refused(render, text):
    for service in (
        Service(program=[text]),
        Service(program=["/h"], roots=[text]),
        Service(program=["/h"], environment={"PATH": text}),
    ):
        with pytest.raises(HapiError) as caught:
            render(service)
        assert caught.value.code is ErrorCode.BAD_CONFIGURATION


@pytest.mark.parametrize("program", ["hapi", "/a'b/hapi", '/a"b/hapi', "/a\\b/hapi"])
def test_programs_that_systemd_would_not_run_are_refused(program):
    with pytest.raises(HapiError):
        systemd_unit(Service(program=[program]))


def test_names():
    assert (unitfile.unit_name("default"), unitfile.label("default")) == ("hapi-runner.service", "com.hapi.runner")
    assert (unitfile.unit_name("work"), unitfile.label("work")) == ("hapi-runner-work.service", "com.hapi.runner.work")
    assert unitfile.restart_command("work", "linux") == "systemctl --user restart hapi-runner-work"
    assert unitfile.restart_command("work", "darwin").endswith("/com.hapi.runner.work")


@pytest.mark.parametrize("text", ["", "[Service]\n", "ExecStart=", 'ExecStart="torn'])
def test_a_unit_without_a_command(text):
    assert command_of_unit(text, "/home/ada") == []


@pytest.mark.parametrize("text", ["", "<plist>", "<plist><dict/></plist>", "{}", "<plist><string>x</string></plist>"])
def test_a_property_list_without_a_command(text):
    assert command_of_plist(text) == []


def test_home_in_a_copied_unit():
    assert command_of_unit("ExecStart=%h/.local/bin/hapi x %%h\n", "/home/ada") == [
        "/home/ada/.local/bin/hapi",
        "x",
        "%h",
    ]


def test_the_files_in_deploy_are_what_is_installed():
    """HAPI_REGOLD=1 writes them anew. Systemd's home is `%h`; launchd knows no such thing, so a name stands there."""
    shown = {}
    for name, render, home in (
        ("hapi-runner.service", systemd_unit, "/home/ada"),
        ("com.hapi.runner.plist", launchd_plist, "/Users/ada"),
    ):
        brew = "/opt/homebrew/bin:" if home.startswith("/Users") else ""
        path = f"{home}/.local/bin:{brew}/usr/local/bin:/usr/bin:/bin"
        text = render(Service(program=[f"{home}/.local/bin/hapi"], environment={"PATH": path}))
        shown[name] = text.replace("/home/ada", "%h")
    if os.environ.get("HAPI_REGOLD"):
        for name, text in shown.items():
            (DEPLOY / name).write_text(text)
    assert {name: (DEPLOY / name).read_text() for name in shown} == shown


def test_the_readme_of_deploy_explains_every_line():
    readme = (DEPLOY / "README.md").read_text()
    unit = systemd_unit(SERVICES["default"])
    said = {line.partition("=")[0] for line in unit.splitlines() if "=" in line and not line.startswith("#")}
    assert [key for key in said - {"Description", "Environment", "WantedBy"} if key not in readme] == []
    assert [key for key in LAUNCHD_TYPES if key not in readme] == []
