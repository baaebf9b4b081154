"""`make load`: the official hub on a free port, `hapi loadtest` against it; further words are the load test's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.hub import OfficialHub


def main() -> int:
    """Run both; the load test's exit status. Ctrl-C is the load test's to deal with, and the hub goes after it."""
    scratch = Path(tempfile.mkdtemp(prefix="hapi-load-"))
    process: subprocess.Popen[bytes] | None = None

    def pass_on(number: int, _: object) -> None:
        if process is None:
            sys.exit(128 + number)
        process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    try:
        with OfficialHub(scratch / "hub") as hub:
            own = {"HAPI_HOME": str(scratch / "home"), "HAPI_API_URL": hub.url, "CLI_API_TOKEN": hub.token}
            command = [sys.executable, "-m", "hapi", "loadtest", *sys.argv[1:]]
            process = subprocess.Popen(command, env={**os.environ, **own})
            return process.wait()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
