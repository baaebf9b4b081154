"""What `ps` shows of a session."""

from pathlib import Path

import pytest

from hapi.lifecycle import Phase
from hapi.wire import SessionInfo
from hapi.workers.supervisor.title import text


@pytest.mark.parametrize(
    ("directory", "place"),
    [
        ("/home/u", "~"),
        ("/home/u/", "~"),
        ("/home/u/proj", "~/proj"),
        ("/home/u/a/b c", "~/a/b c"),
        ("/home/user2/proj", "/home/user2/proj"),
        ("/", "/"),
        ("/srv", "/srv"),
    ],
)
@pytest.mark.parametrize("phase", Phase)
def test_titles(directory, place, phase):
    info = SessionInfo(
        session_id="1f0c22ab-0000-4000-8000-000000000001", namespace="work", agent="claude", directory=directory,
        phase=phase, started_by="runner", started_at=1,
    )  # fmt: skip
    assert text(info, Path("/home/u")) == f"hapi: session [work] 1f0c22ab claude {place} {phase.value}"
