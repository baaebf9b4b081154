"""The process that asks an agent what it offers, by itself: what it answers, and that its agent goes with it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hapi import procs
from hapi.workers.hub import model_lists
from hapi.workers.hub.model_lists import PROBE, ModelLists
from tests.support.runner import Runner, gone
from tests.support.wait import until, until_async


def probe(runner: Runner, agent: str, directory: Path | str = "", **environment: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", PROBE, agent, "default", str(directory)],
        env=runner.environment | {"TMPDIR": str(runner.project)} | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def answer(process: subprocess.Popen[bytes]) -> dict[str, object]:
    assert process.stdout is not None
    with process:
        line = process.stdout.readline()
        assert process.wait(20) == 0
    found: dict[str, object] = json.loads(line)
    return found


def test_models_modes_and_levels(runner: Runner) -> None:
    found = answer(probe(runner, "demo", runner.project))
    assert found["model"] == "demo-fast"
    assert [model["value"] for model in found["models"]] == ["demo-fast", "demo-slow"]  # type: ignore[attr-defined]
    assert (len(found["modes"]), len(found["efforts"])) == (4, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("agent", "settings", "start", "words"),
    [
        ("nobody", {}, "", "There is no agent called 'nobody'"),
        ("lost", {"command": "/no/such/agent"}, "", "lost is not installed or is not on PATH"),
        ("claude", {"use": "demo"}, "stderr:no licence,exit:3", "no licence"),
    ],
)
def test_a_failure_is_told_in_words(
    runner: Runner, agent: str, settings: dict[str, str], start: str, words: str
) -> None:
    runner.settings(agents={agent: settings} if settings else {})
    assert words in str(answer(probe(runner, agent, HAPI_DEMO_START=start))["error"])


@pytest.mark.parametrize("how", ["nobody waits", "killed"])
def test_the_agent_goes_with_it(runner: Runner, how: str) -> None:
    """The agent hangs, and does not even look at its stdin.

    Seen to fail: without `_asker_gone`, and without the signal at the parent's death.
    """
    process = probe(runner, "demo", HAPI_DEMO_START="hang")
    (agent,) = until(lambda: procs.descendants(process.pid), 20, "the agent is there")
    if how == "killed":
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    else:
        assert process.stdin is not None
        process.stdin.close()
        assert "Nobody waits" in str(answer(process)["error"])
    gone(agent)


async def test_one_that_must_be_killed_leaves_no_directory(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is given no time to end by itself. Seen to fail: without `_tidy`."""
    for name, value in runner.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("HAPI_DEMO_START", "hang")
    monkeypatch.setattr(model_lists, "SWEEP_S", 0)
    context: Any = SimpleNamespace(config=SimpleNamespace(namespace="default", home=runner.home), counters=Counter())
    asking = asyncio.create_task(ModelLists(context)._probe(("demo", "")))
    await until_async(lambda: places(tmp_path), 20, "its directory is there")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert places(tmp_path) == []


def places(directory: Path) -> list[str]:
    """What probes have made there."""
    return [name for name in os.listdir(directory) if name.startswith("hapi-")]
