"""Permission requests of one session: who waits for what, who answered how."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hapi.clock import now_ms
from hapi.errors import ErrorCode, HapiError
from hapi.wire import AnswerPermission, PermissionOutcome, PermissionRequest
from hapi.workers.supervisor import permissions
from hapi.workers.supervisor.acp_events import Turn
from hapi.workers.supervisor.permissions import Decision

OUTCOMES_KEPT = 30


class Asking:
    """Open requests and the last settled ones. `changed` is called after every change of either."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self.mode: str | None = None
        self.plan_denies = False
        self.outcomes: list[PermissionOutcome] = []
        self._waiting: dict[str, tuple[PermissionRequest, asyncio.Future[Decision]]] = {}
        self._kinds: dict[str, str | None] = {}  # of what waits
        self._allowed: set[str] = set()
        self._changed = changed

    @property
    def open(self) -> list[PermissionRequest]:
        return [request for request, _ in self._waiting.values()]

    async def ask(self, params: dict[str, Any], turn: Turn) -> dict[str, Any]:
        """The ACP answer to an agent's request; waits for a person where the mode does not decide."""
        call = params.get("toolCall") if isinstance(params.get("toolCall"), dict) else {}
        options = [option for option in params.get("options") or [] if isinstance(option, dict)]
        name, arguments, kind = turn.describe(call or {})
        call_id = str((call or {}).get("toolCallId") or f"request-{now_ms()}")
        request = PermissionRequest(
            request_id=self._free_id(call_id), tool=name, arguments=arguments, created_at=now_ms(), tool_call_id=call_id
        )
        decision = self._automatic(name, kind)
        if decision is not None:
            self._settle(request, decision)
            return permissions.outcome(options, decision)
        self._kinds[request.request_id] = kind
        return permissions.outcome(options, await self._wait(request))

    def set_mode(self, mode: str | None, *, plan_denies: bool) -> None:
        """From now on this mode decides, also on what is open: the requests that it approves are answered."""
        self.mode, self.plan_denies = mode, plan_denies
        for request_id, (request, waiting) in list(self._waiting.items()):
            decision = self._automatic(request.tool, self._kinds.get(request_id))
            if decision in {"approved", "approved_for_session"} and not waiting.done():
                del self._waiting[request_id]
                waiting.set_result(decision)
                self._settle(request, decision, mode=mode)

    def answer(self, answer: AnswerPermission) -> Decision:
        """A person's answer; returns the decision taken. Raises HapiError(bad_request) when nobody waits for it."""
        found = self._waiting.pop(answer.request_id, None)
        if found is None:
            raise HapiError(ErrorCode.BAD_REQUEST, f"No permission request {answer.request_id!r} is open.")
        request, waiting = found
        decision: Decision = answer.decision or ("approved" if answer.approved else "denied")
        if answer.allow_tools is not None and answer.approved:
            decision = "approved_for_session"
            self._allowed.update(answer.allow_tools)
        elif decision == "approved_for_session":
            self._allowed.add(request.tool)
        if answer.mode is not None:
            self.mode = answer.mode
        self._settle(request, decision, mode=answer.mode)
        if not waiting.done():
            waiting.set_result(decision)
        return decision

    def cancel_all(self, reason: str) -> None:
        """The turn is over: every open request is answered `cancelled`."""
        waiting, self._waiting = self._waiting, {}
        for request, future in waiting.values():
            self._settle(request, "abort", reason=reason)
            if not future.done():
                future.set_result("abort")

    async def _wait(self, request: PermissionRequest) -> Decision:
        waiting: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
        self._waiting[request.request_id] = (request, waiting)
        self._changed()
        try:
            return await waiting
        finally:  # the agent may take its question back
            self._waiting.pop(request.request_id, None)
            self._kinds.pop(request.request_id, None)

    def _automatic(self, tool: str, kind: str | None) -> Decision | None:
        known = tool in self._allowed
        return permissions.automatic(self.mode, kind, tool, allowed_before=known, plan_denies=self.plan_denies)

    def _settle(
        self, request: PermissionRequest, decision: Decision, mode: str | None = None, reason: str | None = None
    ) -> None:
        approved = decision in {"approved", "approved_for_session"}
        status = "approved" if approved else "canceled" if reason else "denied"
        self.outcomes.append(
            PermissionOutcome(
                request=request,
                completed_at=now_ms(),
                status=status,  # type: ignore[arg-type]
                decision=decision,
                mode=mode,
                reason=reason,
            )
        )
        del self.outcomes[:-OUTCOMES_KEPT]
        self._changed()

    def _free_id(self, wanted: str) -> str:
        taken = {*self._waiting, *(outcome.request.request_id for outcome in self.outcomes)}
        candidates = (wanted, *(f"{wanted}#{number}" for number in range(2, len(taken) + 3)))
        return next(candidate for candidate in candidates if candidate not in taken)
