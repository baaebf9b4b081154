"""What browser tests share: one browser and one runner for a file of them."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import skip_or_fail
from tests.support.browser import App, chromium, find_chromium
from tests.support.hub import OfficialHub, unique
from tests.support.runner import Runner

_AGENTS = ("claude", "opencode")


@pytest.fixture(scope="module")
def app(shared_hub: OfficialHub) -> Iterator[App]:
    """The web app, logged in, with a runner that is online and whose claude and opencode are the demo agent; the
    project is a git repository of two commits' worth of files."""
    if find_chromium() is None:
        skip_or_fail("browser", "Chromium is not installed: apt-get install chromium")
    place = Path(tempfile.mkdtemp(prefix="hapi-b-", dir="/tmp"))
    with Runner(place / "h") as runner:
        runner.attach(shared_hub, unique("b"))
        environment = {"HAPI_DEMO_HOME": str(place / "demo")}
        (place / "demo").mkdir()
        runner.settings(agents={name: {"use": "demo", "env": environment} for name in _AGENTS})
        _repository(runner.project)
        runner.start("--workspace-root", str(place))
        with chromium(place / "chromium") as browser:
            app = App(browser.pages[0], shared_hub, runner)
            app.machine_id()
            app.log_in()
            yield app
    shutil.rmtree(place, ignore_errors=True)


def _repository(project: Path) -> None:
    (project / "src").mkdir()
    (project / "src/a.py").write_text("print('one')\n")
    (project / "README.md").write_text("# A project\n")
    for command in ("init -qb main", "add .", "-c user.name=n -c user.email=n@example.com commit -qm one"):
        subprocess.run(["git", *command.split(" ")], cwd=project, check=True, timeout=20)
