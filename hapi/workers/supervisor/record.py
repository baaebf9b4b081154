"""When a session's record goes to disk: what a restart, an adoption or a reboot decides by at once, the rest later."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from hapi import wire
from hapi.lifecycle import READY, Phase
from hapi.store import SessionDirectory

LATER_S = 5.0

logger = logging.getLogger(__name__)


class Record:
    """Writes state.json, synced, and moment.json, not synced. Between the phases of a session that is up nothing that
    must survive a power cut hangs on the record: all of them are adopted and restarted alike, and that a turn is open
    is in the journal. Such a move, and the words that are quoted, are in moment.json at once, and in state.json within
    LATER_S, whatever the file then holds: several short turns cost the disk one synced write.
    """

    def __init__(self, directory: SessionDirectory, info: wire.SessionInfo) -> None:
        self._directory = directory
        self._info = info
        self._decisive = b""
        self._moment: tuple[object, ...] = ()
        self._later: asyncio.TimerHandle | None = None

    def keep(self) -> None:
        """See to it that the record says what is so now. Never raises: a disk that refuses is logged."""
        self._keep_moment()  # first: it is what counts of the two
        if self._decisive != _decisive(self._info):
            self._write()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(LATER_S, self._write)

    def _keep_moment(self) -> None:
        moment = (self._info.phase, self._info.queued, self._info.last_words)
        if self._info.phase not in READY or moment == self._moment:
            return
        try:
            self._directory.write_moment(self._info)
        except OSError as error:
            logger.error("cannot write moment.json: %s", error)  # noqa: TRY400 - the words say it all
        else:
            self._moment = moment

    def _write(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None
        self._keep_moment()  # one that was refused would go on covering the record with what was so before
        self._decisive = b""  # if the disk refuses, the next move tries it again
        try:
            self._directory.write_state(self._info)
        except OSError as error:
            logger.error("cannot write state.json: %s", error)  # noqa: TRY400 - the words say it all
        else:
            self._decisive = _decisive(self._info)


def _decisive(info: wire.SessionInfo) -> bytes:
    """The record without what may lag behind."""
    phase = Phase.IDLE if info.phase in READY else info.phase
    return msgspec.json.encode(msgspec.structs.replace(info, phase=phase, queued=0, last_words=None))
