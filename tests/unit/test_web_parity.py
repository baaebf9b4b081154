"""docs/web-parity.md says of each RPC what is true of our code. What the installed hub has: tests/hub/test_web_parity.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import aiohttp

from hapi import config
from hapi.workers.hub.bus import Bus, RunnerInfo
from hapi.workers.hub.context import Context
from hapi.workers.hub.door import Site
from hapi.workers.hub.machine_rpc import MachineRpc
from hapi.workers.hub.session_rpc import SessionRpc
from tests.support import parity

_NOBODY = cast("Any", None)  # a part that methods are not asked for here need


async def _registered(home: Path) -> dict[str, set[str]]:
    """What a connector offers to the hub: "session" and "machine" → names."""
    loaded = config.load(environ={"HAPI_HOME": str(home)})
    async with aiohttp.ClientSession() as http:
        site = Site("http://127.0.0.1", "token", {}, http)
        context = Context(cast("Bus", _NOBODY), loaded, RunnerInfo(broker_pid=1), site, "m")
        return {
            "session": set(SessionRpc(context, "s", _NOBODY).methods()),
            "machine": set(MachineRpc(context, _NOBODY, _NOBODY).methods()),
        }


async def test_what_works_is_registered_and_what_is_registered_works(tmp_path: Path) -> None:
    registered = await _registered(tmp_path)
    for kind, names in registered.items():
        said = {name for name, (state, _) in parity.rows(f"RPCs of a {kind}").items() if state == "works"}
        assert said == names, kind


def test_every_row_has_a_state_and_every_no_its_reason() -> None:
    for title, text in parity.sections().items():
        found = parity.cells(text)
        assert found, title
        for name, state, remark in found:
            assert state in parity.STATES, f"{title}: {name}"
            assert state == "works" or remark, f"{title}: {name} says {state} without a reason"
