"""The course of a rollout: its state, its evidence, and the changes that the guard or a person makes. It never awaits, so no task sees half a change."""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import anyio

from ragcore.errors import InvalidInput
from ragcore.events import emit
from ragcore.protocols import RolloutRecord
from ragcore.rollout.comparison import Difference
from ragcore.rollout.evidence import Evidence, Outcome, Side
from ragcore.rollout.guard import Guard
from ragcore.types import RolloutState

__all__ = ["BASELINE", "Action", "Course", "baseline", "changed", "evidence_of"]

logger: logging.Logger = logging.getLogger("ragcore.rollout")

Action: TypeAlias = Literal["pause", "resume", "promote", "abort", "roll_back"]
EVENTS = {
    "pause": "rollout.paused",
    "resume": "rollout.resumed",
    "promote": "rollout.promoted",
    "abort": "rollout.rolled_back",
    "roll_back": "rollout.rolled_back",
}
# The name under which the evidence of the previous step is stored.
BASELINE = "before"


def changed(state: RolloutState, action: Action, reason: str) -> RolloutState:
    """Return the state after a change.

    "promote" takes the next larger share; after the largest one, the candidate is promoted. After a rollback, it begins again with the smallest share.

    Raises:
        InvalidInput: the state does not allow this change.
    """
    status, share = state.status, state.share
    match action:
        case "pause" if status == "running":
            status = "paused"
        case "resume" if status == "paused":
            status = "running"
        case "promote" if status == "rolled_back":
            status, share = "running", state.steps[0]
        case "promote" if status != "promoted":
            larger = [step for step in state.steps if step > share]
            status, share = ("running", larger[0]) if larger else ("promoted", 1.0)
        case "abort" | "roll_back" if status != "rolled_back":
            status, share = "rolled_back", 0.0
        case _:
            raise InvalidInput(
                f"cannot {action.replace('_', ' ')} the rollout {state.name!r}: its status is {state.status!r}"
            )
    return replace(
        state, status=status, share=share, reason=reason, version=state.version + 1, changed_at=datetime.now(UTC)
    )


def baseline(evidence: Evidence, state: RolloutState) -> Evidence:
    """Return the evidence with which a new state begins.

    Each step begins without evidence, so that good calls at a small share don't outweigh bad ones at a large share. At the share of 1, the stable side gets few
    calls to compare with, so its calls of the previous step are kept.
    """
    return Evidence(stable=evidence.stable) if state.share >= 1 else Evidence()


class Course:
    """The state and the evidence of a rollout in this process.

    Invariant: `own` and `others` contain only calls since the last change of the state. A rollback takes effect in this process at once. If the state is
    stored for several processes, each other change takes effect when the store has confirmed it.

    Args:
        begun: the initial state.
        guard: the limits.
        shared: whether the state is stored for several processes.
    """

    def __init__(self, begun: RolloutState, guard: Guard, *, shared: bool) -> None:
        self.state: RolloutState = begun
        self.begun = begun
        self.guard = guard
        self.shared = shared
        self.own: Evidence = Evidence()
        self.others: list[Evidence] = []
        # A new random name for each version: a ledger that arrives late can't be counted for another step.
        self.ledger: str = secrets.token_hex(8)
        # The change that the store has not confirmed yet.
        self.wanted: tuple[Action, str] | None = None
        # Until the stored state is known, the stable side serves everyone.
        self.known: bool = not shared
        self.wake: anyio.Event = anyio.Event()
        self._since = anyio.current_time()

    @property
    def share(self) -> float:
        """The share of tenants that the candidate serves now."""
        return self.state.share if self.known else 0.0

    @property
    def is_shadow(self) -> bool:
        """Whether the candidate only answers in the shadow of the stable side."""
        return self.known and self.state.share == 0 and self.state.status in ("running", "paused")

    @property
    def is_judged(self) -> bool:
        """Whether the guard still decides."""
        return self.known and self.state.status in ("running", "paused")

    def total(self) -> Evidence:
        """Return the evidence of all processes."""
        return self.own.plus(self.others)

    def report_start(self) -> None:
        """Emit the event that this process takes part in the rollout. Later events report changes of the state."""
        emit("rollout.started", self.state.name, share=self.state.share, status=self.state.status)

    def count(self, side: Side, outcome: Outcome, seconds: float, *, limit: float = math.inf) -> None:
        """Count a call that has ended, and let the guard judge. `limit` is the number of seconds that the candidate has or would have for the call."""
        self.own.side(side).count(outcome, seconds, limit=limit)
        emit("rollout.call", self.state.name, side=side, outcome=outcome, seconds=seconds)
        if side == "candidate":
            self._judge()

    def compare(self, differences: tuple[Difference, ...]) -> None:
        """Count a question that both sides have answered, and let the guard judge."""
        self.own.compare(differences)
        emit("rollout.compared", self.state.name, differ=differences)
        self._judge()

    def apply(self, action: Action, reason: str) -> None:
        """Change the state. If it is shared, the store must confirm the change first, except for a rollback.

        Raises:
            InvalidInput: the state does not allow this change.
        """
        after = changed(self.state, action, reason)
        if not self.shared:
            self._take(after, [baseline(self.total(), after)], action)
            return
        self.wanted = (action, reason)
        if after.status == "rolled_back":
            # The version stays the same until the store returns the next one.
            self._take(replace(after, version=self.state.version), self.others, action)
        self.wake.set()

    def adopt(self, record: RolloutRecord) -> None:
        """Adopt the stored state and evidence."""
        others = [Evidence.of(data) for ledger, data in record.evidence.items() if ledger != self.ledger]
        if self.known and record.state.version == self.state.version:
            self.others = others
            self._judge()
            return
        if self.wanted is not None and self.wanted[0] == "roll_back" and record.state.status != "rolled_back":
            # Another process stored another change first. This process stays rolled back until its own change is stored.
            self.state = replace(self.state, version=record.state.version)
            self.own, self.ledger, self.others = Evidence(), secrets.token_hex(8), others
            return
        first, self.known = not self.known, True
        if first or record.state.version > self.state.version:
            self._take(record.state, others, None if first else _action(self.state, record.state))
        if first:
            self.report_start()

    def _judge(self) -> None:
        if not self.is_judged:
            return
        step = sum(share < self.state.share for share in self.state.steps)
        verdict = self.guard.judge(self.total(), seconds=anyio.current_time() - self._since, step=step)
        if verdict.action == "roll_back":
            self.apply("roll_back", verdict.reason)
        elif verdict.action == "promote" and self.state.status == "running" and self.wanted is None:
            self.apply("promote", verdict.reason)

    def _take(self, after: RolloutState, others: Iterable[Evidence], action: Action | None) -> None:
        before, self.state = self.state, after
        if after.version != before.version or not self.shared:
            self.own, self.ledger = Evidence(), secrets.token_hex(8)
        self.others = list(others)
        self._since = anyio.current_time()
        if action is None or (before.status, before.share) == (after.status, after.share):
            return
        name = EVENTS[action]
        emit(name, after.name, before=before.share, share=after.share, status=after.status, reason=after.reason)
        log = logger.warning if after.status == "rolled_back" else logger.info
        log("%s: %s: share %g, before %g: %s", name, after.name, after.share, before.share, after.reason)


def _action(before: RolloutState, after: RolloutState) -> Action:
    """Return the action of another process that led from one state to the other."""
    if after.status == "rolled_back":
        return "roll_back"
    if after.status == "paused":
        return "pause"
    return "resume" if before.status == "paused" and before.share == after.share else "promote"


def evidence_of(record: RolloutRecord) -> Evidence:
    """Return the evidence of all processes in a stored rollout."""
    return Evidence().plus(Evidence.of(data) for data in record.evidence.values())
