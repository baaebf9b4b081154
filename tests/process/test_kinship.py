"""What belongs to an agent and what does not; what it is given, and what it is not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

from hapi import procs
from tests.support.git import git
from tests.support.runner import Runner, command_line, gone, identity
from tests.support.wait import until

AGENT = """#!/bin/sh
{command} > "$HAPI_HOME/agent-ran.txt" 2>&1
exec {python} -m hapi.agents.demo
"""


def scripted(runner: Runner, command: str) -> None:
    """Make an agent `scripted` that runs a shell command before it is a demo agent."""
    script = runner.home / "scripted.sh"
    script.write_text(AGENT.format(command=command, python=sys.executable))
    script.chmod(0o700)
    settings = {"scripted": {"command": [str(script)], "env": {"PYTHONPATH": os.getcwd()}}}
    runner.settings(agents=settings)


def test_a_runner_that_an_agent_restarts_survives_the_end_of_that_agent(runner: Runner) -> None:
    """It became a child of the agent's supervisor, and died with that session, as did every session it had started."""
    runner.start()
    old = identity(runner.status()["pid"])
    first = runner.spawn()
    restart = f"{sys.executable} -m hapi runner restart"
    scripted(runner, f"(read line < {runner.home}/gate; cd {os.getcwd()} && {restart}) & true")
    os.mkfifo(runner.home / "gate")
    theirs = runner.spawn(agent="scripted")
    with (runner.home / "gate").open("w") as gate:  # now the agent's child goes on
        gate.write("go\n")
    gone(old)
    broker = identity(
        until(lambda: runner.status().get("pid") if runner.status()["running"] else 0, 10, "a new runner")
    )
    assert broker.pid in {process.pid for process in procs.descendants(theirs["pid"])}
    after = runner.spawn()
    runner.hapi("runner", "stop-session", theirs["sessionId"], check=0)
    assert procs.is_alive(broker)
    for session in (first, after):
        assert procs.identity(session["agentPid"]), session


def test_agents_and_hooks_get_the_users_umask_signals_and_no_token(runner: Runner) -> None:
    """Files in the user's project came out 0600, Ctrl-C was ignored below the agent, and a git hook saw the hub's token."""
    git(runner.project, "init", "-q", "-b", "main")
    git(runner.project, "commit", "-q", "--allow-empty", "-m", "first")
    hook = runner.project / ".git" / "hooks" / "post-checkout"
    hook.write_text(f"#!/bin/sh\nenv > {runner.home}/hook-env.txt\numask > {runner.home}/hook-umask.txt\n")
    hook.chmod(0o700)
    runner.environment["CLI_API_TOKEN"] = "canary-token-777"
    scripted(runner, "grep -E 'SigIgn|Umask' /proc/self/status")
    before = os.umask(0o022)
    try:
        done = runner.hapi("runner", "spawn", str(runner.project), "--agent", "scripted", "--worktree", "t1", check=0)
    finally:
        os.umask(before)
    assert "canary" not in (runner.home / "hook-env.txt").read_text()
    assert (runner.home / "hook-umask.txt").read_text().strip() == "0022"
    status = (runner.home / "agent-ran.txt").read_text()
    assert "Umask:\t0022" in status
    assert int(status.split("SigIgn:")[1].split()[0], 16) & 0b11 == 0  # neither SIGHUP nor SIGINT
    assert done.out.strip()


def test_a_full_disk_delays_messages_and_loses_none(runner: Runner) -> None:
    """The queue's task ended with the failed write: later messages were accepted and never ran."""
    import resource

    session = runner.spawn()
    journal = runner.home / "sessions" / session["sessionId"] / "journal"
    runner.hapi("send", session["sessionId"], "/slow 1", check=0)
    runner.wait_phase(session["sessionId"], "working")
    runner.hapi("send", session["sessionId"], "/say second", check=0)
    _, hard = resource.prlimit(session["pid"], resource.RLIMIT_FSIZE)
    resource.prlimit(session["pid"], resource.RLIMIT_FSIZE, (journal.stat().st_size, hard))
    refused = runner.hapi("send", session["sessionId"], "no room for this", check=1)
    assert "disk" in refused.err
    runner.wait_phase(session["sessionId"], "idle")
    resource.prlimit(session["pid"], resource.RLIMIT_FSIZE, (hard, hard))
    until(
        lambda: any(getattr(event, "text", "") == "second" for event in runner.events(session["sessionId"])),
        20,
        "the second message ran",
    )


def test_a_spawn_under_way_when_the_runner_stops_leaves_no_ghost(runner: Runner) -> None:
    """It was answered with a failure, and the session came up all the same."""
    runner.start()
    key = str(uuid.uuid4())
    spawning = subprocess.Popen(
        [sys.executable, "-m", "hapi", "runner", "spawn", str(runner.project), "--agent", "demo", "--id", key],
        env=runner.environment | {"HAPI_DEMO_START": "slow:3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(runner.sessions, 10, "the session is starting")
    runner.hapi("runner", "stop", check=0)
    spawning.communicate(timeout=20)
    assert spawning.returncode != 0
    until(lambda: not any("demo.py" in command_line(p.pid) for p in runner.processes()), 10, "no agent is left")
    runner.start()
    assert runner.sessions() == []


def test_a_noisy_agent_that_fails_gives_a_short_reason(runner: Runner) -> None:
    """A megabyte of stderr became the error, the record, and in the end a list too large to send."""
    script = runner.home / "noisy.sh"
    script.write_text(
        "#!/bin/sh\nfor i in 1 2 3 4 5; do head -c 200000 /dev/zero | tr '\\0' x >&2; echo >&2; done; exit 3\n"
    )
    script.chmod(0o700)
    runner.settings(agents={"noisy": {"command": [str(script)]}})
    done = runner.hapi("runner", "spawn", str(runner.project), "--agent", "noisy", "--json", check=1)
    assert "exit code 3" in done.json["error"]["message"]
    assert len(done.out) < 20_000
    record = next((Path(runner.home) / "sessions").glob("*/state.json"))
    assert record.stat().st_size < 10_000


def test_a_stopped_nursery_does_not_stop_the_broker(runner: Runner) -> None:
    """Orders piled up in its pipe until the broker's write blocked, and with it everything."""
    runner.start()
    nursery = until(lambda: runner.status()["workers"]["nursery"]["pid"], 5, "the nursery is up")
    os.kill(nursery, signal.SIGSTOP)
    try:
        import zmq

        from hapi import wire
        from hapi.ids import new_session_id

        context = zmq.Context()
        socket = context.socket(zmq.DEALER)
        socket.linger = 0
        socket.connect(f"ipc://{runner.home}/run/broker.sock")
        for number in range(1, 500):
            order = wire.Spawn(session_id=new_session_id(), directory="/tmp", agent="demo", started_by="terminal")
            header = wire.Header("broker", "cli", number)
            socket.send_multipart([b"", wire.encode(header), wire.encode(order)])
        assert runner.status()["running"]
        socket.close()
        context.term()
    finally:
        os.kill(nursery, signal.SIGKILL)
    until(lambda: runner.status()["workers"]["nursery"]["restarts"], 10, "the nursery is started again")
    until(lambda: runner.hapi("runner", "spawn", str(runner.project), "--agent", "demo").code == 0, 20, "spawns work")
