"""`hapi loadtest --local` as people run it: what it says is true, and nothing of it is left."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest

from tests.support import liar_agent
from tests.support.wait import until

SHORT = ("--local", "--idle", "0", "--probes", "3", "--json")
pytestmark = pytest.mark.timeout(120)


def load(runner, *options, code=0):
    """A load test that is run to its end; its report."""
    done = runner.hapi("loadtest", *SHORT, *options, timeout=100)
    assert done.code == code, done
    report = done.json
    assert_gone(report["namespace"])
    assert not Path(report["home"]).parent.exists()
    return report


def processes(namespace):
    """Those of a test's runner, by their titles, and the agents, which carry its home."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(f"[{namespace}]" in word for word in words):
            found.append((process.pid, words))
    return found


def assert_gone(namespace):
    assert processes(namespace) == []


def all_well(report, sessions, messages):
    assert report["wrong"] == []
    assert report["errors"] == {}
    assert report["sessions"]["started"] == report["sessions"]["stopped"] == sessions
    wanted = {"sent": messages, "answered": messages, "lost": 0, "doubled": 0, "outOfOrder": 0, "refused": 0}
    assert {key: report["messages"][key] for key in wanted} == wanted


def test_twenty_sessions_while_every_worker_is_killed(runner, scratch):
    page = scratch / "load.html"
    kill = [word for who in ("broker", "hub", "nursery", "reaper") for word in ("--kill", who)]
    report = load(runner, "-n", "20", "--messages", "6", *kill, "--html", str(page))
    all_well(report, 20, 120)
    assert report["killed"] == ["broker", "hub", "nursery", "reaper"]
    assert {kind: one["count"] for kind, one in report["latency"].items()} == {
        "spawn": 20,
        "message": 120,
        "list": 3,
        "status": 3,
        "stop": 20,
    }
    for one in report["latency"].values():
        assert 0 < one["min"] <= one["p50"] <= one["p90"] <= one["p99"] <= one["max"] < 60
    idle = report["memory"]["idle"]
    assert {kind: use["count"] for kind, use in idle.items()} == {
        "broker": 1,
        "hub": 1,
        "nursery": 1,
        "reaper": 1,
        "session": 20,
        "agent": 20,
    }
    assert all(use["pss"] >= 2**20 for use in idle.values())
    assert sum(one["count"] for one in report["histograms"]["message"]) == 120
    talk = report["cpu"]["talk"]["byKind"]
    assert talk["session"] > 0
    assert talk["agent"] > 0
    assert_page(page.read_text())


def assert_page(text):
    """One document that needs nothing else, with plots that are well-formed."""
    assert text.startswith("<!doctype html>")
    assert "All well" in text
    assert not [word for word in ("<script", "<link", "url(", " src=") if word in text]
    plots = text.split("<svg")[1:]
    assert len(plots) >= 5
    for plot in plots:
        ET.fromstring(f"<svg{plot.partition('</svg>')[0]}</svg>")


def test_a_hundred_sessions_beside_the_runner_of_this_home(runner):
    before = runner.start()
    session = runner.spawn()["sessionId"]
    report = load(runner, "-n", "100", "--messages", "1")
    all_well(report, 100, 100)
    assert runner.status()["pid"] == before["pid"]
    assert [one["sessionId"] for one in runner.sessions()] == [session]


def test_lies_of_an_agent_are_noticed(runner):
    runner.settings(agents={"liar": {"command": [sys.executable, liar_agent.__file__]}})
    report = load(runner, "-n", "2", "--messages", "4", "--agent", "liar", "--patience", "1", code=1)
    counted = {key: report["messages"][key] for key in ("sent", "answered", "lost", "doubled", "strange")}
    assert counted == {"sent": 8, "answered": 4, "lost": 4, "doubled": 2, "strange": 2}
    assert report["wrong"] == [
        "4 of 8 messages lost",
        "2 of 8 messages doubled",
        "2 of 8 messages answered though never sent",
    ]


def begin(runner, namespace, *options):
    """A load test that talks until it is stopped; returns when its sessions are there."""
    command = [
        sys.executable,
        "-m",
        "hapi",
        "--namespace",
        namespace,
        "loadtest",
        *SHORT,
        "--duration",
        "600",
        *options,
    ]
    process = subprocess.Popen(
        command,
        env=runner.environment,
        cwd=runner.project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    titled = f"hapi: session [{namespace}]"
    until(lambda: sum(titled in " ".join(words) for _, words in processes(namespace)) >= 4, 40, "its sessions run")
    found = [re.search(r"/tmp/hapi-l-\w+", " ".join(words)) for _, words in processes(namespace)]
    (place,) = {match.group() for match in found if match}
    return process, Path(place)


def test_one_that_is_interrupted_leaves_nothing(runner):
    namespace = f"cut{os.getpid()}"
    process, place = begin(runner, namespace, "-n", "4")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (130, ""), err
    assert "Interrupted; everything was stopped and removed." in err
    assert_gone(namespace)
    assert not place.exists()


def test_one_whose_directory_is_removed_under_it_leaves_nothing(runner):
    """Somebody tidies /tmp up: no command finds the runner any more."""
    namespace = f"bare{os.getpid()}"
    process, place = begin(runner, namespace, "-n", "4")
    shutil.rmtree(place, ignore_errors=True)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert re.search(rf"Was left running: hapi: broker \[{namespace}\].* killed", err)
    assert_gone(namespace)
    assert not place.exists()


def test_a_runner_that_dies_in_the_middle_is_told_and_leaves_nothing(runner):
    namespace = f"dead{os.getpid()}"
    process, place = begin(runner, namespace, "-n", "4", "--patience", "1")
    (broker,) = (pid for pid, words in processes(namespace) if "broker" in words[0])
    os.kill(broker, signal.SIGKILL)
    out, err = process.communicate(timeout=100)
    report = json.loads(out)
    assert process.returncode == 1, err
    assert report["wrong"][0].startswith("it was cut short: ")
    assert_gone(namespace)
    assert not place.exists()
