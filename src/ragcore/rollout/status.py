"""The state of a rollout with its figures, for operators."""

from __future__ import annotations

from dataclasses import dataclass

from ragcore.protocols import RolloutRecord
from ragcore.rollout.comparison import DIFFERENCES
from ragcore.rollout.course import evidence_of
from ragcore.rollout.evidence import Evidence, Tally
from ragcore.types import RolloutState
from ragcore.value import Value, mapping

__all__ = ["RolloutStatus", "SideStatus"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideStatus(Value):
    """The calls of one side since the last change of the state.

    Attributes:
        calls: number of calls that have ended, including those in the shadow.
        failed, hung, degraded: number of calls that failed, that hung (these also count as failed), and whose answer was degraded.
        p50, p95: median and 95th percentile of the seconds until the answer; None without answers. They are rounded up by at most 4.4 %.
    """

    calls: int
    failed: int
    hung: int
    degraded: int
    p50: float | None
    p95: float | None

    @classmethod
    def of(cls, tally: Tally) -> SideStatus:
        """Return the figures of one side's counts."""
        return cls(
            calls=tally.calls,
            failed=tally.failed,
            hung=tally.hung,
            degraded=tally.degraded,
            p50=tally.quantile(0.5),
            p95=tally.quantile(0.95),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutStatus(Value):
    """A rollout: its state, and the figures since the last change of the state.

    Attributes:
        state: the state.
        stable, candidate: the calls of each side.
        compared: number of questions that both sides have answered.
        differ: number of these questions whose answers differ, by kind: "found", "figures" and "citations".
    """

    state: RolloutState
    stable: SideStatus
    candidate: SideStatus
    compared: int
    differ: dict[str, int] = mapping()

    @classmethod
    def of(cls, state: RolloutState, evidence: Evidence | None = None) -> RolloutStatus:
        """Return the status of a state and its evidence."""
        seen = evidence or Evidence()
        return cls(
            state=state,
            stable=SideStatus.of(seen.stable),
            candidate=SideStatus.of(seen.candidate),
            compared=seen.compared,
            differ={kind: seen.differ[kind] for kind in DIFFERENCES},
        )

    @classmethod
    def of_record(cls, record: RolloutRecord) -> RolloutStatus:
        """Return the status of a stored rollout."""
        return cls.of(record.state, evidence_of(record))

    def lines(self) -> list[str]:
        """Return the status as lines of text, for a terminal."""
        state = self.state
        lines = [
            f"{state.name}: {state.status}, share {_percent(state.share)} of steps {', '.join(map(_percent, state.steps))}"
        ]
        if state.reason:
            lines.append(f"  since {state.changed_at:%Y-%m-%d %H:%M:%S %Z}: {state.reason}")
        for name, side in (("stable", self.stable), ("candidate", self.candidate)):
            tail = "no answers" if side.p95 is None else f"p50 {side.p50:.2f} s, p95 {side.p95:.2f} s"
            lines.append(
                f"  {name}: {side.calls:,} calls, {side.failed:,} failed ({side.hung:,} hung), {side.degraded:,} degraded, {tail}"
            )
        differ = ", ".join(f"{kind} {count:,}" for kind, count in self.differ.items())
        lines.append(f"  compared: {self.compared:,} answers; they differ in: {differ}")
        return lines


def _percent(share: float) -> str:
    """Return a share in percent, with as many digits as it needs: a share of 0.005 must not be shown as 0%."""
    return f"{100 * share:g}%"
