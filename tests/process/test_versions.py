"""A runner of another version is replaced; its sessions live on under their old supervisors."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import hapi
from hapi import procs
from tests.support.runner import Runner, identity
from tests.support.wait import until

OTHER = "0.0.9"


def other_version(place: Path) -> Path:
    """A copy of the package that says it is OTHER."""
    package = place / "other"
    shutil.copytree(Path(hapi.__file__).parent, package / "hapi", ignore=shutil.ignore_patterns("__pycache__"))
    (package / "hapi" / "__init__.py").write_text(f'"""Another version."""\n\n__version__ = "{OTHER}"\n')
    return package


def test_start_replaces_it_and_keeps_arguments_and_sessions(runner: Runner) -> None:
    package = other_version(runner.home.parent)
    environment = runner.environment | {"PYTHONPATH": str(package)}
    for command in (
        ["runner", "start", "--workspace-root", str(runner.project)],
        ["runner", "spawn", str(runner.project), "--agent", "demo"],
    ):
        subprocess.run(
            [sys.executable, "-m", "hapi", *command], env=environment, cwd=package, check=True, capture_output=True
        )
    old = runner.status()
    assert (old["version"], old["installedVersion"]) == (OTHER, hapi.__version__)
    session = runner.sessions()[0]
    broker = identity(old["pid"])

    done = runner.hapi("runner", "start", check=0)
    assert OTHER in done.out
    assert not procs.is_alive(broker)
    new = runner.status()
    assert new["version"] == hapi.__version__
    after = until(runner.sessions, 5, "the session is back")[0]
    assert (after["pid"], after["agentPid"]) == (session["pid"], session["agentPid"])
    runner.hapi("send", session["sessionId"], "still there?", check=0)
    runner.wait_phase(session["sessionId"], "idle")
    refused = runner.hapi("runner", "spawn", "/usr", "--agent", "demo", "--json", check=1)
    assert refused.json["error"]["code"] == "outside_workspace_roots"


def test_a_handoff_that_is_disabled_does_not_happen(runner: Runner) -> None:
    package = other_version(runner.home.parent)
    environment = runner.environment | {"PYTHONPATH": str(package)}
    subprocess.run(
        [sys.executable, "-m", "hapi", "runner", "start"], env=environment, cwd=package, check=True, capture_output=True
    )
    old = runner.status()["pid"]
    runner.hapi("runner", "start", env={"HAPI_DISABLE_VERSION_HANDOFF": "1"}, check=0)
    assert runner.status()["pid"] == old
