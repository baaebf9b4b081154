"""`hapi loadtest` through the real hub: nothing is lost while workers die, and the hub is left as it was."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.hub import OfficialHub, WebClient
from tests.support.runner import Runner
from tests.support.wait import until

pytestmark = [pytest.mark.hub, pytest.mark.timeout(120)]
SHORT = ("--idle", "0", "--probes", "3", "--json")


def test_twenty_sessions_while_broker_and_connector_are_killed(online: Runner, shared_hub: OfficialHub) -> None:
    own = WebClient(shared_hub.url, online.token)
    kill = ("--kill", "broker", "--kill", "hub")
    done = online.hapi("loadtest", "-n", "20", "--messages", "4", *SHORT, *kill, timeout=100)
    report = done.json
    assert (report["wrong"], report["errors"]) == ([], {})
    assert done.code == 0
    assert report["killed"] == ["broker", "hub"]
    assert report["sessions"]["started"] == report["sessions"]["stopped"] == 20
    wanted = {"sent": 80, "answered": 80, "lost": 0, "doubled": 0, "outOfOrder": 0, "refused": 0, "strange": 0}
    assert {key: report["messages"][key] for key in wanted} == wanted
    assert report["through"] == shared_hub.url
    assert report["cpu"]["talk"]["byKind"]["hub server"] > 0
    web = WebClient(shared_hub.url, f"{shared_hub.token}:{report['namespace']}")
    assert web.sessions() == []
    assert own.machines() == [], "the load test does not show in the user's own namespace"


def test_one_that_is_interrupted_among_its_spawns_leaves_nothing_at_the_hub(
    online: Runner, shared_hub: OfficialHub
) -> None:
    namespace = f"cut{os.getpid()}"
    command = [
        sys.executable,
        "-m",
        "hapi",
        "--namespace",
        namespace,
        "loadtest",
        "-n",
        "60",
        *SHORT,
    ]
    web = WebClient(shared_hub.url, f"{shared_hub.token}:{namespace}")
    process = subprocess.Popen(
        command, env=online.environment, cwd=online.project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    until(lambda: len(web.sessions()) >= 2, 40, "the first of its sessions are at the hub, others on their way")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=40)
    assert (process.returncode, out) == (130, ""), err
    assert web.sessions() == []


def test_a_token_that_the_hub_does_not_take_is_told_before_sessions_are_started(online: Runner) -> None:
    online.settings(cliApiToken="wrong")
    done = online.hapi("loadtest", "-n", "3", *SHORT, check=1)
    assert done.json["error"]["code"] == "hub_refused"
    assert "--local" in done.json["error"]["hint"]


def test_make_load_brings_its_own_hub_and_takes_it_along() -> None:
    script = Path(__file__).parents[2] / "scripts" / "load.py"
    words = [sys.executable, str(script), "--sessions", "2", "--messages", "2", *SHORT]
    environment = {**os.environ, "PYTHONPATH": str(script.parents[1])}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done
    report = json.loads(done.stdout)
    assert (report["wrong"], report["messages"]["answered"]) == ([], 4)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(report["through"]).port), 5).close()
