"""Fixtures of all tests: a home of one's own, the official hub, and the proof that nothing is left running."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.clock import WallClock, find_faketime
from tests.support.hub import OfficialHub, WebClient, find_hub
from tests.support.runner import Runner

for _number, _usual in (
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
):  # under nohup, or behind a script's &, all that tests start would inherit that these are ignored
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)
LONG_S = 120
REQUIRED = frozenset(filter(None, os.environ.get("HAPI_TEST_REQUIRE", "").split(",")))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that may take minutes go first: nobody waits for one of them at the end, while other workers idle."""
    items.sort(key=lambda item: -LONG_S if _patience_s(item) >= LONG_S else 0)


def _patience_s(item: pytest.Item) -> float:
    """What the test itself asks for; a time-out for a whole module says little of its tests."""
    return max((float(marker.args[0]) for marker in item.own_markers if marker.name == "timeout"), default=0.0)


def skip_or_fail(what: str, why: str) -> None:
    """A missing tool skips a test on a developer's machine and fails it in CI."""
    if what in REQUIRED:
        pytest.fail(f"{what} is required here: {why}")
    pytest.skip(why)


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory with a short name (socket paths are short), removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="hapi-t-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def runner(scratch: Path) -> Iterator[Runner]:
    """A runner's home without a hub; `claude` is the demo agent. Ends all it started, and checks that it is gone."""
    with Runner(scratch / "h") as home:
        yield home


@pytest.fixture
def clock(scratch: Path) -> Iterator[WallClock]:
    """A wall clock to turn, for whom it is given: `runner.environment |= clock.environment`."""
    library = find_faketime()
    if library is None:
        skip_or_fail("faketime", "libfaketime is not installed: apt-get install libfaketime")
    assert library is not None
    yield WallClock(library, scratch / "clock")
    WallClock.tidy()


@pytest.fixture(scope="session")
def shared_hub() -> Iterator[OfficialHub]:
    """One hub for all tests that do not harm it."""
    if find_hub() is None:
        skip_or_fail("hub", "the official hub is not installed: make setup")
    path = Path(tempfile.mkdtemp(prefix="hapi-hub-", dir="/tmp"))
    with OfficialHub(path) as hub:
        yield hub
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def own_hub(scratch: Path) -> Iterator[OfficialHub]:
    """A hub, not yet started, for tests that stop and restart it."""
    if find_hub() is None:
        skip_or_fail("hub", "the official hub is not installed: make setup")
    hub = OfficialHub(scratch / "hub")
    yield hub
    hub.stop()


_namespaces = iter(range(1, 10_000))


@pytest.fixture
def online(shared_hub: OfficialHub, scratch: Path) -> Iterator[Runner]:
    """A runner's home with the shared hub and a namespace of its own there; not started."""
    with Runner(scratch / "h") as home:
        home.attach(shared_hub, f"t{os.getpid()}-{next(_namespaces)}")
        yield home


@pytest.fixture
def web(online: Runner, shared_hub: OfficialHub) -> WebClient:
    """The web app's side of `online`."""
    return WebClient(shared_hub.url, online.token)
