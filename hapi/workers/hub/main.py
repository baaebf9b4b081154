"""The hub connector's process: link to the broker, then `connector` until the broker says goodbye or is gone."""

from __future__ import annotations

import asyncio
import logging

import setproctitle

import hapi
from hapi import config, log, procs, wire
from hapi.errors import HapiError
from hapi.workers import lifeline as lifelines
from hapi.workers.hub.bus import RunnerInfo
from hapi.workers.hub.connector import run_connector
from hapi.workers.link import Link

logger = logging.getLogger("hapi.hub")


def main(namespace: str, lifeline: int) -> None:
    """Entry point of the connector's process, called in a fork of the nursery."""
    setproctitle.setproctitle(f"hapi: hub [{namespace}]")
    settings = config.load(namespace)
    log.set_up(settings.paths.log("hub"))
    asyncio.run(_serve(settings, lifeline))


async def _serve(settings: config.Config, lifeline: int) -> None:
    def hello() -> wire.Hello:
        process, version = procs.own_identity(), hapi.__version__
        return wire.Hello(name=wire.HUB, process=process, version=version, protocol=wire.PROTOCOL_LEVEL)

    link = Link(settings.paths.bus_endpoint, wire.HUB, wire.FOR_HUB, hello)
    work = asyncio.create_task(_connect(link, settings), name="hub")
    lifelines.follow(lifeline, work)
    try:
        await work
    except asyncio.CancelledError as ended:
        logger.info("ended: %s", *(ended.args or ("the broker is gone",)))
    except HapiError as error:
        logger.error("%s %s", error.message, error.hint)  # noqa: TRY400 - the words say it all
        link.send(wire.BROKER, wire.HubStatus(url=settings.api_url, reason=error.message))
        raise
    finally:
        link.close()


async def _connect(link: Link, settings: config.Config) -> None:
    """Serve as the connector, once the broker has said who it is."""
    welcome = await _first_welcome(link)
    runner = RunnerInfo(
        broker_pid=welcome.runner_pid,
        started_at=welcome.runner_started_at,
        fingerprint=welcome.fingerprint,
        supervised=settings.supervised,
        workspace_roots=welcome.workspace_roots,
        set_title=setproctitle.setproctitle,
    )
    await run_connector(link, settings, runner)


async def _first_welcome(link: Link) -> wire.Welcome:
    while True:
        _, body = await link.receive()
        if isinstance(body, wire.Welcome):
            return body
