"""Permission requests of one session: who waits for what, who answered how."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from hapi.clock import now_ms
from hapi.errors import ErrorCode, HapiError
from hapi.wire import AnswerPermission, PermissionOutcome, PermissionRequest
from hapi.workers.supervisor import permissions, questions
from hapi.workers.supervisor.acp_events import Turn, clipped
from hapi.workers.supervisor.acp_tools import PLAN_TOOL
from hapi.workers.supervisor.allowances import Allowances, names_command
from hapi.workers.supervisor.permissions import Decision

OUTCOMES_KEPT = 30
_APPROVED = {"approved", "approved_for_session"}


class Settled(msgspec.Struct):
    """How a request was settled; `mode` is the one to be in from now on, None for no change."""

    decision: Decision
    mode: str | None = None


class _Open(msgspec.Struct):
    """A request that waits for a person. `reply` makes the agent's answer of theirs; it may refuse one."""

    request: PermissionRequest
    reply: Callable[[AnswerPermission, Decision], dict[str, Any]]
    cancelled: dict[str, Any]
    waiting: asyncio.Future[dict[str, Any]]
    automatic: Callable[[], Decision | None] = lambda: None
    """What the mode of the moment says; for permissions only."""


class Asking:
    """Open requests and the last settled ones. `changed` is called after every change of either.

    A request is a permission (yes or no, by the kinds of its options), a choice among options of the agent's own, or a
    form. Only permissions are ever answered by a mode or an earlier allowance.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.mode: str | None = None
        self.plan_denies = False
        self.outcomes: list[PermissionOutcome] = []
        self._waiting: dict[str, _Open] = {}
        self._allowed = Allowances()
        self._changed = changed

    @property
    def open(self) -> list[PermissionRequest]:
        return [one.request for one in self._waiting.values()]

    async def ask(self, params: dict[str, Any], turn: Turn) -> dict[str, Any]:
        """The ACP answer to an agent's request; waits for a person where the mode does not decide."""
        if questions.is_form(params):
            return await self._ask_form(params)
        call = params.get("toolCall") if isinstance(params.get("toolCall"), dict) else {}
        options = [option for option in params.get("options") or [] if isinstance(option, dict)]
        name, arguments, kind = turn.describe(call or {})
        call_id = str((call or {}).get("toolCallId") or f"request-{now_ms()}")
        if questions.is_choice(options):
            return await self._ask_choice(call_id, name, options)
        request = self._request(call_id, name, arguments)

        def automatic() -> Decision | None:
            return self._automatic(name, arguments, kind)

        decision = automatic()
        if decision is not None:
            self._settle(request, decision)
            return _outcome(options, decision, self.mode if name == PLAN_TOOL else None)

        def reply(answer: AnswerPermission, decision: Decision) -> dict[str, Any]:
            self._remember(request, answer, decision)
            narrow = any(map(names_command, answer.allow_tools or ())) or name == PLAN_TOOL
            once = decision == "approved_for_session" and narrow  # the agent's own "always" would be wider
            return _outcome(options, "approved" if once else decision, answer.mode)

        return await self._wait(request, reply, questions.cancelled(params), automatic)

    def set_mode(self, mode: str | None, *, plan_denies: bool) -> None:
        """From now on this mode decides, also on what is open: the requests that it approves are answered."""
        self.mode, self.plan_denies = mode, plan_denies
        for request_id, one in list(self._waiting.items()):
            decision = one.automatic()
            if decision in _APPROVED and not one.waiting.done():
                answer = AnswerPermission(request_id=request_id, approved=True)
                del self._waiting[request_id]
                one.waiting.set_result(one.reply(answer, decision))
                self._settle(one.request, decision, mode=mode)

    def answer(self, answer: AnswerPermission) -> Settled:
        """A person's answer; what became of it. Raises HapiError(bad_request) when nobody waits for it, or when it is
        no answer to that question, which then stays open.
        """
        found = self._waiting.get(answer.request_id)
        if found is None:
            raise HapiError(ErrorCode.BAD_REQUEST, f"No permission request {answer.request_id!r} is open.")
        decision = _decision(answer)
        reply = found.reply(answer, decision)
        del self._waiting[answer.request_id]
        mode = answer.mode
        if mode is None and found.request.tool == PLAN_TOOL and decision in _APPROVED and self.mode == "plan":
            mode = "default"  # leaving the planning mode is what was asked for
        if mode is not None:
            self.mode = mode
        self._settle(found.request, decision, mode=mode, answers=answer.answers)
        if not found.waiting.done():
            found.waiting.set_result(reply)
        return Settled(decision, mode)

    def cancel_all(self, reason: str) -> None:
        """The turn is over: every open request is answered `cancelled`."""
        waiting, self._waiting = self._waiting, {}
        for one in waiting.values():
            self._settle(one.request, "abort", reason=reason)
            if not one.waiting.done():
                one.waiting.set_result(one.cancelled)

    async def _ask_choice(self, call_id: str, title: str, options: list[dict[str, Any]]) -> dict[str, Any]:
        # an id of its own: a request that has the call's is drawn under the call's name, without its choices
        request = self._request(f"question-{call_id}", questions.TOOL, questions.of_options(title, options))

        def reply(answer: AnswerPermission, decision: Decision) -> dict[str, Any]:
            if decision not in _APPROVED:
                return questions.cancelled({})
            return {"outcome": {"outcome": "selected", "optionId": questions.option(options, answer.answers)}}

        return await self._wait(request, reply, questions.cancelled({}))

    async def _ask_form(self, params: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(params.get("requestedSchema"), dict):
            return {"action": "decline"}  # a web page to open: nothing that the hub could show
        call_id = str(params.get("toolCallId") or f"request-{now_ms()}")
        request = self._request(call_id, questions.TOOL, clipped(questions.of_form(params)))

        def reply(answer: AnswerPermission, decision: Decision) -> dict[str, Any]:
            if decision in _APPROVED:
                return {"action": "accept", "content": questions.content(params, answer.answers)}
            return {"action": "cancel" if decision == "abort" else "decline"}

        return await self._wait(request, reply, {"action": "cancel"})

    def _request(self, call_id: str, tool: str, arguments: Any) -> PermissionRequest:
        free = self._free_id(call_id)
        return PermissionRequest(
            request_id=free, tool=tool, arguments=arguments, created_at=now_ms(), tool_call_id=call_id
        )

    def _remember(self, request: PermissionRequest, answer: AnswerPermission, decision: Decision) -> None:
        if decision != "approved_for_session" or request.tool == PLAN_TOOL:
            return
        if answer.allow_tools is None:
            self._allowed.add_call(request.tool, request.arguments)
        for rule in answer.allow_tools or ():
            self._allowed.add(rule)

    async def _wait(
        self,
        request: PermissionRequest,
        reply: Callable[[AnswerPermission, Decision], dict[str, Any]],
        cancelled: dict[str, Any],
        automatic: Callable[[], Decision | None] = lambda: None,
    ) -> dict[str, Any]:
        one = _Open(request, reply, cancelled, asyncio.get_running_loop().create_future(), automatic)
        self._waiting[request.request_id] = one
        self._changed()
        try:
            return await one.waiting
        finally:  # the agent may take its question back
            self._waiting.pop(request.request_id, None)

    def _automatic(self, tool: str, arguments: Any, kind: str | None) -> Decision | None:
        known = self._allowed.allows(tool, arguments)
        return permissions.automatic(self.mode, kind, tool, allowed_before=known, plan_denies=self.plan_denies)

    def _settle(
        self,
        request: PermissionRequest,
        decision: Decision,
        mode: str | None = None,
        reason: str | None = None,
        answers: Any = None,
    ) -> None:
        approved = decision in _APPROVED
        status = "approved" if approved else "canceled" if reason else "denied"
        self.outcomes.append(
            PermissionOutcome(
                request=request,
                completed_at=now_ms(),
                status=status,  # type: ignore[arg-type]
                decision=decision,
                mode=mode,
                reason=reason,
                answers=answers,
            )
        )
        del self.outcomes[:-OUTCOMES_KEPT]
        self._changed()

    def _free_id(self, wanted: str) -> str:
        taken = {*self._waiting, *(outcome.request.request_id for outcome in self.outcomes)}
        candidates = (wanted, *(f"{wanted}#{number}" for number in range(2, len(taken) + 3)))
        return next(candidate for candidate in candidates if candidate not in taken)


def _decision(answer: AnswerPermission) -> Decision:
    if answer.allow_tools is not None and answer.approved:
        return "approved_for_session"
    return answer.decision or ("approved" if answer.approved else "denied")


def _outcome(options: list[dict[str, Any]], decision: Decision, mode: str | None) -> dict[str, Any]:
    """The answer by kind; where the agent offers the wanted mode as an option (at the end of planning), that one."""
    wanted = [option for option in options if mode is not None and option.get("optionId") == mode]
    if decision in _APPROVED and wanted and str(wanted[0].get("kind")).startswith("allow"):
        return {"outcome": {"outcome": "selected", "optionId": mode}}
    return permissions.outcome(options, decision)
