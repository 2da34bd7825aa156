"""The evidence of a rollout: the calls of both sides, and how often their answers differ. All values are sums, so those of several processes can be added."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from ragcore.rollout.comparison import Difference

__all__ = ["Evidence", "Outcome", "Side", "Tally"]

Side: TypeAlias = Literal["stable", "candidate"]
# "late": the call respected its time limit, but had no answer by then. "hung": it had not returned one second after that.
Outcome: TypeAlias = Literal["ok", "degraded", "failed", "late", "hung"]

# Durations are counted in buckets. Each bucket is 4.4 % longer than the previous one, which is precise enough to distinguish a ratio of 1.5 from 1.
PER_OCTAVE = 16
SHORTEST, LONGEST = 0.001, 3_600.0


@dataclass(slots=True)
class Tally:
    """The calls of one side.

    Attributes:
        calls: calls that have ended, without those that the caller cancelled or whose question was invalid.
        failed: calls without an answer: they raised an error, were late, or hung.
        hung: calls that had not returned one second after their time was over.
        degraded: degraded answers, such as a quotation because the model failed.
        overtime: answers of the stable side that took longer than the part of a call's time that the candidate gets.
        durations: number of answers, and of calls whose time ran out, by bucket of their seconds.
    """

    calls: int = 0
    failed: int = 0
    hung: int = 0
    degraded: int = 0
    overtime: int = 0
    durations: Counter[int] = field(default_factory=Counter)

    def count(self, outcome: Outcome, seconds: float, *, limit: float = math.inf) -> None:
        """Count a call that has ended.

        Args:
            outcome: how the call ended.
            seconds: the seconds that it took.
            limit: the seconds that the candidate has or would have for it. Default: no limit.
        """
        self.calls += 1
        if outcome in ("ok", "degraded"):
            self.overtime += seconds > limit
            self.degraded += outcome == "degraded"
            self.durations[_bucket(seconds)] += 1
        else:
            self.failed += 1
            self.hung += outcome == "hung"
            # A call whose time ran out would have taken longer. Without these calls, a slow candidate would seem faster than it is.
            if outcome in ("late", "hung"):
                self.durations[_bucket(seconds)] += 1

    def add(self, other: Tally) -> None:
        """Add the calls of another process."""
        self.calls += other.calls
        self.failed += other.failed
        self.hung += other.hung
        self.degraded += other.degraded
        self.overtime += other.overtime
        self.durations.update(other.durations)

    def quantile(self, share: float) -> float | None:
        """Return the seconds within which this share of the answers arrived, 0 to 1; None without answers. Calls whose time ran out count as answers."""
        left = math.ceil(share * self.durations.total())
        for bucket in sorted(self.durations):
            left -= self.durations[bucket]
            if left <= 0:
                return _seconds(bucket)
        return None

    def slower(self, seconds: float) -> int:
        """Return the number of answers that took longer than `seconds`, rounded to whole buckets."""
        return sum(count for bucket, count in self.durations.items() if _seconds(bucket) > seconds)

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-ready data."""
        return {
            "calls": self.calls,
            "failed": self.failed,
            "hung": self.hung,
            "degraded": self.degraded,
            "overtime": self.overtime,
            "durations": {str(bucket): count for bucket, count in sorted(self.durations.items())},
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Tally:
        """Return the counts that `to_dict` returned."""
        durations = Counter({int(bucket): int(count) for bucket, count in data["durations"].items()})
        return cls(
            int(data["calls"]),
            int(data["failed"]),
            int(data["hung"]),
            int(data["degraded"]),
            int(data.get("overtime", 0)),  # an earlier version of ragcore does not count it
            durations,
        )


@dataclass(slots=True)
class Evidence:
    """The calls of both sides since the last change of the state.

    Attributes:
        stable, candidate: the calls of each side.
        compared: number of questions that both sides have answered.
        differ: number of these questions whose answers differ, by kind of difference.
    """

    stable: Tally = field(default_factory=Tally)
    candidate: Tally = field(default_factory=Tally)
    compared: int = 0
    differ: Counter[Difference] = field(default_factory=Counter)

    def side(self, side: Side) -> Tally:
        """Return the calls of one side."""
        return self.stable if side == "stable" else self.candidate

    def compare(self, differences: Iterable[Difference]) -> None:
        """Count a question that both sides have answered."""
        self.compared += 1
        self.differ.update(differences)

    def plus(self, others: Iterable[Evidence]) -> Evidence:
        """Return the sum of this evidence and that of other processes."""
        total = Evidence()
        for one in (self, *others):
            total.stable.add(one.stable)
            total.candidate.add(one.candidate)
            total.compared += one.compared
            total.differ.update(one.differ)
        return total

    def pooled_quantile(self, share: float) -> float:
        """Return the seconds within which this share of the answers of both sides arrived; 0 without answers."""
        pooled = Tally()
        pooled.add(self.stable)
        pooled.add(self.candidate)
        return pooled.quantile(share) or 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the counts as JSON-ready data."""
        return {
            "stable": self.stable.to_dict(),
            "candidate": self.candidate.to_dict(),
            "compared": self.compared,
            "differ": dict(self.differ),
        }

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Evidence:
        """Return the counts that `to_dict` returned."""
        return cls(
            Tally.of(data["stable"]), Tally.of(data["candidate"]), int(data["compared"]), Counter(dict(data["differ"]))
        )


def _bucket(seconds: float) -> int:
    return math.ceil(PER_OCTAVE * math.log2(min(max(seconds, SHORTEST), LONGEST)))


def _seconds(bucket: int) -> float:
    """Return the upper end of a bucket."""
    return float(2 ** (bucket / PER_OCTAVE))
