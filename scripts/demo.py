"""`make demo`: the whole of it, once, for real. The hub, the runner, a session spawned as the web app does, a talk.

With --once it stops everything at the end and exits 0 only if every step was seen.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.support.hub import OfficialHub, WebClient
from tests.support.wait import until

WORDS = "Hello! ; /plan read the code | write the change | run the tests ; /tool Bash"


class Demo:
    """One demonstration in a scratch directory of its own."""

    def __init__(self, scratch: Path) -> None:
        self.project = scratch / "project"
        self.project.mkdir()
        self.home = scratch / "home"
        self.home.mkdir(mode=0o700)
        self.hub = OfficialHub(scratch / "hub")
        self.environment = {**os.environ, "HAPI_HOME": str(self.home)}
        for name in ("HAPI_NAMESPACE", "HAPI_API_URL", "CLI_API_TOKEN"):
            self.environment.pop(name, None)
        settings = {"apiUrl": self.hub.url, "cliApiToken": self.hub.token, "agents": {"claude": {"use": "demo"}}}
        (self.home / "settings.json").write_text(json.dumps(settings, indent=2))

    def run(self) -> None:
        """Every step, each of which raises AssertionError when it is not seen."""
        step("Starting the official hub")
        self.hub.start()
        say(self.hub.url)
        web = WebClient(self.hub.url, self.hub.token)
        step("Starting the runner: hapi runner start")
        self.hapi("runner", "start")
        machine = until(web.machines, 10, "the hub lists this machine")[0]
        say(f"the hub knows this machine: {machine['metadata']['host']}")
        step("Spawning a session through the hub, as its web app does")
        spawned = web.spawn(machine["id"], directory=str(self.project), agent="claude")
        assert spawned.get("type") == "success", spawned
        session = spawned["sessionId"]
        say(f"session {session} (the web's agent `claude` is mapped to our demo agent)")
        step(f"Sending a message: {WORDS}")
        web.send(session, WORDS)
        for line in until(lambda: finished(web.messages(session)), 15, "the agent's answer at the hub"):
            say(line)
        step("Sessions: hapi runner list")
        self.hapi("runner", "list")
        step("Processes: ps")
        self.show_processes()

    def hapi(self, *arguments: str) -> None:
        """One command, its output shown. Raises CalledProcessError when it fails."""
        subprocess.run([sys.executable, "-m", "hapi", *arguments], env=self.environment, check=True)

    def show_processes(self) -> None:
        listed = subprocess.run(["ps", "-eo", "pid,ppid,rss,args"], capture_output=True, text=True, check=True).stdout
        ours = [line for line in listed.splitlines() if "hapi: " in line]
        assert any("hapi: session" in line for line in ours), listed
        for line in [listed.splitlines()[0], *ours]:
            say(line)

    def invite(self) -> None:
        """How to look at it in a browser."""
        step("Open it in a browser")
        say(f"URL    {self.hub.url}")
        say(f"token  {self.hub.token}")
        say(f"files  {self.home}")

    def stop(self) -> None:
        """End the sessions, the runner and the hub; also after a failure."""
        step("Stopping everything")
        subprocess.run([sys.executable, "-m", "hapi", "doctor", "clean", "--yes"], env=self.environment, check=False)
        self.hub.stop()


def finished(messages: list[dict[str, Any]]) -> list[str]:
    """The agent's words, once its turn is over; [] before."""
    contents = [message["content"]["content"] for message in messages if message["content"]["role"] == "agent"]
    if not any(content["type"] == "event" and content["data"]["type"] == "ready" for content in contents):
        return []
    return [f"agent: {c['data']['message']}" for c in contents if c.get("data", {}).get("type") == "message"]


def step(words: str) -> None:
    print(f"\n==> {words}", flush=True)


def say(words: str) -> None:
    print(f"    {words}", flush=True)


def main() -> int:
    """Run the demo; exit status 0 when every step was seen."""
    once = "--once" in sys.argv[1:]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    scratch = Path(tempfile.mkdtemp(prefix="hapi-demo-"))
    demo = Demo(scratch)
    seen = False
    try:
        demo.run()
        seen = True
        demo.invite()
        if not once:
            say("Ctrl-C ends it")
            signal.pause()
    except KeyboardInterrupt:
        say("")
    except (AssertionError, subprocess.CalledProcessError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
    finally:
        demo.stop()
        shutil.rmtree(scratch, ignore_errors=True)
    if seen:
        step("Every step was seen")
    return 0 if seen else 1


if __name__ == "__main__":
    sys.exit(main())
