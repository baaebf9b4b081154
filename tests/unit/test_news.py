"""When the broker is told how a session is."""

import asyncio

import pytest

from hapi import wire
from hapi.journal import Journal
from hapi.lifecycle import Phase
from hapi.workers.supervisor import news as news_module
from hapi.workers.supervisor.news import News
from tests.support.wait import until_async


class Told:
    """What goes to the broker."""

    def __init__(self):
        self.infos = []

    def send(self, to, body):
        assert to == wire.BROKER
        self.infos.append(body.info)
        return True


@pytest.fixture
def told():
    return Told()


@pytest.fixture
def news(tmp_path, told):
    info = wire.SessionInfo(
        session_id="1f0c", namespace="default", agent="demo", directory="/", phase=Phase.WORKING, started_by="runner",
        started_at=1,
    )  # fmt: skip
    journal = Journal(tmp_path / "journal")
    yield News(info, told, journal)
    journal.close()


async def test_what_may_wait_is_not_put_off_by_more_of_it(news, told):
    """An agent that renames its session without a pause was not heard of until it paused.

    Seen to fail: where each `tell` that may wait began the wait anew.
    """
    news.tell(soon=True)
    due = news._later.when()
    await asyncio.sleep(0)
    news.tell(soon=True)
    news.words("a line")
    assert news._later.when() == due
    await until_async(lambda: told.infos, 3, "it is told")
    assert [info.last_words for info in told.infos] == ["a line"]
    assert news._later is None


async def test_what_is_soon_does_not_wait_for_words(news, told, monkeypatch):
    monkeypatch.setattr(news_module, "WORDS_S", 60.0)
    news.words("a line")
    news.tell(soon=True)
    await until_async(lambda: told.infos, 3, "it is told")
    news.words("another")
    news.tell()
    assert [info.last_words for info in told.infos] == ["a line", "another"]
    assert news._later is None


async def test_nothing_is_said_after_the_end(news, told, monkeypatch):
    monkeypatch.setattr(news_module, "SOON_S", 0.0)
    news.tell(soon=True)
    news._info.phase = Phase.ENDED
    await until_async(lambda: news._later is None, 3, "the time is up")
    assert told.infos == []
