"""Logs, doctor, clean, hub, and how output looks."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hapi import config, procs, wire
from hapi.cli import app, hub, logs, output
from hapi.errors import ErrorCode, HapiError
from hapi.lifecycle import EndReason, Phase
from hapi.store import SessionDirectory
from tests.unit.test_cli_fake import SESSION, FakeBroker, session, status

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setenv("HAPI_HOME", str(tmp_path / "h"))
    monkeypatch.setenv("HAPI_API_URL", "http://127.0.0.1:1")
    for name in ("CLI_API_TOKEN", "HAPI_NAMESPACE", "HAPI_HUB_BIN"):
        monkeypatch.delenv(name, raising=False)
    found = config.load()
    found.paths.make_private()
    return found


@pytest.fixture
def hapi(capsys):
    def run(*words):
        code = app.run(list(words))
        return code, *capsys.readouterr()

    return run


# ------------------------------------------------------------------------------------------------------------- logs


def test_logs_prints_a_path(hapi, settings):
    assert hapi("runner", "logs")[::2] == (
        1,
        f"Error: No runner logs found\nHint: Looked for {settings.paths.log('runner')}\n",
    )
    settings.paths.log("runner").write_text("x")
    assert hapi("runner", "logs")[:2] == (0, f"{settings.paths.log('runner')}\n")
    settings.paths.log("hub").write_text("x")
    assert hapi("runner", "logs", "--worker", "hub")[1] == f"{settings.paths.log('hub')}\n"
    assert hapi("runner", "logs", "--worker", "nobody")[0] == 2
    assert hapi("runner", "logs", "--agent")[0] == 2


def test_logs_of_a_session(settings):
    for name in (SESSION, SESSION.replace("1f0c", "1f0d")):
        directory = SessionDirectory(settings.paths.session(name))
        directory.create()
        directory.log.write_text("x")
    assert logs.find(settings, session="1F0C") == settings.paths.session(SESSION) / "session.log"
    for wanted, code in [
        ("1f0", ErrorCode.AMBIGUOUS_SESSION),
        ("zz", ErrorCode.UNKNOWN_SESSION),
        (".", ErrorCode.UNKNOWN_SESSION),
    ]:
        with pytest.raises(HapiError) as caught:
            logs.find(settings, session=wanted)
        assert caught.value.code is code
    with pytest.raises(HapiError) as caught:
        logs.find(settings, session="1f0c", agent=True)
    assert caught.value.code is ErrorCode.NO_LOGS


def test_logs_follow_goes_on_through_a_rotation(settings):
    path = settings.paths.log("runner")
    path.write_text("".join(f"old {number}\n" for number in range(50)))
    environ = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "hapi", "runner", "logs", "--follow"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, env=environ, text=True) as follower:
        assert [follower.stdout.readline() for _ in range(10)] == [f"old {number}\n" for number in range(40, 50)]
        with path.open("a") as file:
            file.write("new\n")
        assert follower.stdout.readline() == "new\n"
        path.rename(path.with_suffix(".1"))
        path.write_text("rotated\n")
        assert follower.stdout.readline() == "rotated\n"
        follower.stdout.close()
        assert follower.wait(10) == 0  # it noticed that nobody reads


# ----------------------------------------------------------------------------------------------------------- doctor


def test_doctor_without_a_runner(hapi, monkeypatch):
    monkeypatch.setenv("CLI_API_TOKEN", "canary-token")
    code, out, err = hapi("doctor", "--json")
    report = json.loads(out)
    assert code == 0
    assert "canary" not in out + err
    assert report["versions"]["libzmq"]
    assert report["versions"]["pyzmq"]
    assert report["configuration"]["token"]["source"] == "CLI_API_TOKEN"
    assert report["runner"]["state"].startswith("not running")
    assert {finding["fix"] for finding in report["findings"]} >= {"hapi runner start", "hapi hub"}
    assert {"claude", "codex"} <= {agent["name"] for agent in report["agents"]}


def test_doctor_as_text(hapi, settings):
    settings.paths.state.write_text("{oops")
    with FakeBroker(settings.paths, lambda _: status(version="0.0.1")):
        code, out, _ = hapi("doctor")
    assert code == 1  # a damaged state file is an error
    for words in (
        "Versions",
        "running (pid 4711, version 0.0.1)",
        "is damaged",
        "hapi runner restart",
        "directory mode 0700",
    ):
        assert words in out


def test_doctor_sees_an_open_directory(hapi, settings):
    with FakeBroker(settings.paths, lambda _: status()):
        settings.paths.run.chmod(0o755)
        code, out, _ = hapi("doctor", "--json")
    assert code == 1
    assert f"chmod 700 {settings.paths.run}" in [finding["fix"] for finding in json.loads(out)["findings"]]


def record(settings, process, **changes):
    directory = SessionDirectory(settings.paths.session(SESSION))
    directory.create()
    directory.write_state(session(supervisor=procs.identity(process.pid), agent_process=None, **changes))


SUPERVISOR = """
import os, sys
from pathlib import Path
from hapi.files import FileLock
lock = FileLock(Path(sys.argv[1]))
assert lock.acquire(f"{os.getpid()}\\n")
print(flush=True)
sys.stdin.readline()
"""


@contextlib.contextmanager
def supervising(settings):
    """A process that holds the session's lock, as its supervisor does."""
    directory = SessionDirectory(settings.paths.session(SESSION))
    directory.create()
    command = [sys.executable, "-c", SUPERVISOR, str(directory.lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_clean_without_a_runner_ends_recorded_processes_only(hapi, settings):
    with supervising(settings) as mine, subprocess.Popen(["sleep", "60"]) as stranger:
        record(settings, mine)
        assert hapi("doctor", "clean")[0] == 2
        assert mine.poll() is None
        code, out, _ = hapi("doctor", "clean", "--yes", "--json")
        (result,) = json.loads(out)
        assert code == 0
        assert (result["kind"], result["name"], result["outcome"]) == ("session", SESSION, "stopped (SIGTERM)")
        assert mine.wait(10) != 0
        assert stranger.poll() is None
        stranger.kill()
    assert hapi("doctor", "clean", "--yes")[:2] == (0, "Nothing is running.\n")
    closed = SessionDirectory(settings.paths.session(SESSION)).read_state()
    assert (closed.phase, closed.reason) == (Phase.ENDED, EndReason.STOPPED_BY_USER)


def test_clean_refuses_a_record_that_names_a_stranger(hapi, settings):
    """The identity is right to the tick; but who does not hold the session's lock is not its supervisor."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        record(settings, stranger)
        assert hapi("doctor", "clean", "--yes")[:2] == (0, "Nothing is running.\n")
        assert stranger.poll() is None
        stranger.kill()


def test_clean_is_not_stopped_by_damaged_settings(hapi, settings):
    with supervising(settings) as mine:
        record(settings, mine)
        (settings.home / "namespaces" / "other").mkdir(parents=True)
        (settings.home / "namespaces" / "other" / "settings.json").write_text("{oops")
        (settings.home / "settings.json").write_text("{oops")
        assert hapi("doctor", "clean", "--yes")[0] == 0
        assert mine.wait(10) != 0


def test_clean_finds_what_a_lost_session_left_behind(hapi, settings):
    SessionDirectory(settings.paths.session(SESSION)).create()
    marked = dict(os.environ) | {"HAPI_SESSION_ID": SESSION}
    other = dict(os.environ) | {"HAPI_SESSION_ID": SESSION.replace("1f0c", "aaaa")}
    with subprocess.Popen(["sleep", "60"], env=marked) as ours, subprocess.Popen(["sleep", "60"], env=other) as theirs:
        assert ours.pid in [item["pid"] for item in json.loads(hapi("doctor", "--json")[1])["processes"]]
        (result,) = json.loads(hapi("doctor", "clean", "--yes", "--json")[1])
        assert (result["kind"], result["pid"], result["gone"]) == ("process", ours.pid, True)
        assert theirs.poll() is None
        theirs.kill()


def test_clean_leaves_a_reused_pid_alone(hapi, settings):
    with subprocess.Popen(["sleep", "60"]) as stranger:
        record(settings, stranger)
        state = SessionDirectory(settings.paths.session(SESSION))
        info = state.read_state()
        info.supervisor = type(info.supervisor)(
            info.supervisor.pid, info.supervisor.start_ticks - 1, info.supervisor.boot_id
        )
        state.write_state(info)
        assert hapi("doctor", "clean", "--yes")[:2] == (0, "Nothing is running.\n")
        assert stranger.poll() is None
        stranger.kill()


def test_clean_asks_the_runner_to_stop_sessions(hapi, settings):
    with supervising(settings) as mine:
        record(settings, mine, phase=Phase.WORKING)
        reply = wire.SessionStopped("still_alive", SESSION, "kill", [mine.pid])
        with FakeBroker(settings.paths, lambda _: reply) as broker:
            code, out, _ = hapi("doctor", "clean", "--yes")
        assert code == 1
        assert "still_alive (kill)" in out
        assert broker.asked == [wire.StopSession(SESSION)]
        mine.kill()


# -------------------------------------------------------------------------------------------------------------- hub


def test_hub_becomes_the_installed_program(settings, monkeypatch, tmp_path):
    program = settings.home / "hub/node_modules/.bin/hapi"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$@|$HAPI_HOME|$CLI_API_TOKEN|$HAPI_LISTEN_PORT"\n')
    program.chmod(0o755)
    environ = dict(os.environ) | {
        "PYTHONPATH": str(ROOT),
        "CLI_API_TOKEN": "base:work",
        "HAPI_API_URL": "http://localhost:4321",
    }
    done = subprocess.run(
        [sys.executable, "-m", "hapi", "hub", "--relay", "--json", "--namespace", "x"],
        env=environ, capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout == f"hub --relay --json --namespace x|{settings.home}|base|4321\n"


def test_hub_runs_the_program_behind_the_npm_shim(settings, monkeypatch):
    modules = settings.home / "hub/node_modules"
    shim = modules / "@twsxtd/hapi/bin/hapi.cjs"
    arch = {"x86_64": "x64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    native = modules / f"@twsxtd/hapi-{sys.platform}-{arch}/bin/hapi"
    for program in (shim, native):
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    (modules / ".bin").mkdir()
    (modules / ".bin/hapi").symlink_to(shim)
    seen = []
    monkeypatch.setattr(os, "execve", lambda *words: seen.append(words))
    hub.become(settings, ["--relay"])
    assert seen[0][:2] == (str(native), [str(native), "hub", "--relay"])


def test_hub_without_npm(hapi, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    code, _, err = hapi("hub")
    assert code == 1
    assert "npm is not on PATH" in err
    assert "nodejs.org" in err


def test_hub_is_installed_on_first_use(settings, monkeypatch, tmp_path, capfd):
    npm = tmp_path / "npm"
    npm.write_text(
        '#!/bin/sh\necho "npm $@"\nmkdir -p "$3/node_modules/.bin"\n'
        'printf "#!/bin/sh\\n" > "$3/node_modules/.bin/hapi"; chmod +x "$3/node_modules/.bin/hapi"\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert hub.install(settings.home) == settings.home / "hub/node_modules/.bin/hapi"
    out, err = capfd.readouterr()
    assert out == ""
    assert "@twsxtd/hapi@0.30.7" in err
    assert hub.find(settings.home) == settings.home / "hub/node_modules/.bin/hapi"


def test_a_named_hub_must_be_there(hapi, monkeypatch):
    monkeypatch.setenv("HAPI_HUB_BIN", "/nowhere/hapi")
    code, _, err = hapi("hub")
    assert code == 1
    assert "HAPI_HUB_BIN" in err


# ----------------------------------------------------------------------------------------------------------- output


def test_a_table_is_aligned_whatever_its_colours(capsys):
    output.table(["A", "LONG"], [["\033[32mxx\033[0m", "1"], ["yyyy", ""]])
    assert capsys.readouterr().out == "A     LONG\n\033[32mxx\033[0m    1\nyyyy\n"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colour_only_where_it_is_wanted(monkeypatch, variable, value):
    monkeypatch.setattr(output, "is_terminal", lambda _: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert output.paint("x", "red") == "\033[31mx\033[0m"
    monkeypatch.setenv(variable, value)
    assert output.paint("x", "red") == "x"


def test_progress_is_for_terminals_and_for_long_waits(monkeypatch, capsys):
    with output.Progress("Waiting") as progress:
        progress(5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(output, "is_terminal", lambda _: True)
    with output.Progress("Waiting") as progress:
        progress(0.5)
        progress(2)
    assert capsys.readouterr().err == "\r| Waiting 2 s \r\033[K"


@pytest.mark.parametrize(
    ("ms", "text"),
    [(0, "0s"), (59_999, "59s"), (200_000, "3m 20s"), (7_500_000, "2h 5m"), (529_200_000, "6d 3h"), (-5, "0s")],
)
def test_durations(ms, text):
    assert output.duration(ms) == text


@pytest.mark.parametrize(
    ("count", "text"), [(812, "812 B"), (1024, "1.0 kB"), (8_300_000, "7.9 MB"), (5 << 30, "5.0 GB")]
)
def test_sizes(count, text):
    assert output.size(count) == text


def test_paths_are_short_and_harmless(monkeypatch):
    monkeypatch.setenv("HOME", "/home/u")
    assert output.home_short("/home/u/p\x1b[2J") == "~/p?[2J"
    assert output.home_short("/home/user2") == "/home/user2"
