"""The guard of a rollout: decides from the evidence whether to promote the candidate, to roll it back, or to wait."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ragcore.errors import ConfigurationError
from ragcore.rollout.comparison import DIFFERENCES, Difference
from ragcore.rollout.evidence import Evidence
from ragcore.rollout.sequential import is_higher, is_more_frequent
from ragcore.value import Value

__all__ = ["Guard", "Verdict"]

# Probability that a candidate whose success is exactly at the limit is judged good at one step.
MISSED = 0.05
# With fewer compared questions than this, the observed rate of differences means little.
LEAST_COMPARED = 20
TAIL = 0.95


@dataclass(frozen=True, slots=True)
class Verdict(Value):
    """A decision of the guard.

    Attributes:
        action: "roll_back", "promote", or "wait" for more calls.
        reason: the limit that was exceeded, or the reason for the promotion, with the numbers; "" for "wait".
    """

    action: Literal["roll_back", "promote", "wait"]
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard(Value):
    """The limits of a candidate. None switches a limit off.

    The candidate is rolled back for a difference from the stable side only if both conditions hold: a sequential test is certain that the candidate is worse,
    and the observed difference exceeds its limit. So neither chance nor a small difference rolls it back. It is promoted if its success is certainly above the
    limit and no observed value exceeds its limit.

    Args:
        error_difference: how much higher the candidate's share of failed calls may be, 0 to 1. A call fails if it raises an error, is late, or hangs.
        degraded_difference: the same for degraded answers, such as a quotation because the model failed.
        p95_ratio: how much longer the candidate may take, as a ratio of the 95th percentiles.
        found: the share of compared questions for which only one side may find an answer. See `Shadow`.
        figures: the share of compared questions for which the figures of the answers may differ.
        citations: the share of compared questions for which the cited documents may differ.
        hangs: how many calls of the candidate may hang: they have not returned one second after their time was over.
        p95: the longest 95th percentile of the candidate, in seconds.
        success: the smallest share of the candidate's calls that must succeed.
        false_alarm: the largest probability that one of the tests rolls back a candidate that is not worse, at the first step. Each further step halves it, so
            for all steps together it is less than twice this value. A larger share has more calls, so a stricter test takes no longer there.
        least_calls: the smallest number of calls of the candidate at each step.
        least_seconds: the shortest duration of each step, in seconds.
        most_calls: after this number of the candidate's calls at one step, the observed values decide, whether they are certain or not.

    Raises:
        ConfigurationError: a limit is not in its range.
    """

    error_difference: float | None = 0.02
    degraded_difference: float | None = 0.05
    p95_ratio: float | None = 1.5
    found: float | None = 0.05
    figures: float | None = 0.05
    citations: float | None = 0.3
    hangs: int | None = 0
    p95: float | None = 30.0
    success: float | None = 0.95
    false_alarm: float = 0.01
    least_calls: int = 100
    least_seconds: float = 60.0
    most_calls: int = 2_000

    def __post_init__(self) -> None:
        for name in ("error_difference", "degraded_difference", *DIFFERENCES):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ConfigurationError(f"{name} is {value!r}: it must be a share from 0 to 1, or None")
        if self.success is not None and not 0 < self.success < 1:
            raise ConfigurationError(f"success is {self.success!r}: it must be between 0 and 1, or None")
        if self.p95_ratio is not None and not self.p95_ratio >= 1:
            raise ConfigurationError(f"p95_ratio is {self.p95_ratio!r}: it must be at least 1, or None")
        if self.hangs is not None and not self.hangs >= 0:
            raise ConfigurationError(f"hangs is {self.hangs!r}: it must be at least 0, or None")
        if self.p95 is not None and not self.p95 > 0:
            raise ConfigurationError(f"p95 is {self.p95!r}: it must be a positive number of seconds, or None")
        if not self.least_seconds >= 0:
            raise ConfigurationError(f"least_seconds is {self.least_seconds!r}: it must be at least 0")
        if not 0 < self.false_alarm < 0.5:
            raise ConfigurationError(f"false_alarm is {self.false_alarm!r}: it must be a probability below 0.5")
        if not 1 <= self.least_calls <= self.most_calls:
            raise ConfigurationError(
                f"least_calls is {self.least_calls} and most_calls {self.most_calls}: use 1 <= least_calls <= most_calls"
            )

    def judge(self, evidence: Evidence, *, seconds: float, step: int = 0) -> Verdict:
        """Decide from the calls since the last change of the share.

        Args:
            evidence: the calls of all processes.
            seconds: the time since that change.
            step: the number of the step; 0: the first.
        """
        observed = list(self._exceeded(evidence, self.false_alarm / 2**step))
        for reason, is_certain in observed:
            if is_certain:
                return Verdict("roll_back", reason)
        calls = evidence.candidate.calls
        if calls < self.least_calls or seconds < self.least_seconds:
            return Verdict("wait")
        if calls >= self.most_calls:
            if observed:
                return Verdict("roll_back", f"{observed[0][0]}, after {calls:,} calls")
            return Verdict("promote", f"no limit was exceeded in {calls:,} calls")
        if observed or not self._succeeds(evidence):
            return Verdict("wait")
        return Verdict("promote", f"{evidence.candidate.failed:,} of {calls:,} calls failed, and no limit was exceeded")

    def _succeeds(self, evidence: Evidence) -> bool:
        if self.success is None:
            return True
        mine = evidence.candidate
        return is_higher(mine.calls - mine.failed, mine.calls, self.success, false_alarm=MISSED)

    def _exceeded(self, evidence: Evidence, false_alarm: float) -> Iterator[tuple[str, bool]]:
        """Yield each limit that the observed values exceed, and whether that is certain."""
        mine = evidence.candidate
        if self.hangs is not None and mine.hung > self.hangs:
            yield f"hangs: {mine.hung:,} calls of the candidate hung, and at most {self.hangs:,} are allowed", True
        yield from self._rates(evidence, false_alarm)
        yield from self._durations(evidence, false_alarm)
        for kind in DIFFERENCES:
            yield from self._differences(evidence, kind, false_alarm)

    def _rates(self, evidence: Evidence, false_alarm: float) -> Iterator[tuple[str, bool]]:
        mine, theirs = evidence.candidate, evidence.stable
        if mine.calls and self.success is not None and mine.failed / mine.calls > 1 - self.success:
            yield (
                f"success: {mine.calls - mine.failed:,} of the candidate's {mine.calls:,} calls succeeded, and at least {self.success:.1%} must succeed",
                is_higher(mine.failed, mine.calls, 1 - self.success, false_alarm=false_alarm),
            )
        # The candidate gets only a part of a call's time. In the comparison, a stable answer that took longer than this part counts as a failure. Otherwise
        # a candidate that is equally fast would fail more often.
        for name, limit, bad, other in (
            ("errors", self.error_difference, mine.failed, theirs.failed + theirs.overtime),
            ("degraded", self.degraded_difference, mine.degraded, theirs.degraded),
        ):
            if limit is None or not mine.calls or not theirs.calls:
                continue
            difference = bad / mine.calls - other / theirs.calls
            if difference > limit:
                reason = (
                    f"{name}: {bad:,} of the candidate's {mine.calls:,} calls and {other:,} of the stable side's {theirs.calls:,}; "
                    f"the difference is {difference:.1%}, and at most {limit:.1%} is allowed"
                )
                yield reason, is_more_frequent(bad, mine.calls, other, theirs.calls, false_alarm=false_alarm)

    def _durations(self, evidence: Evidence, false_alarm: float) -> Iterator[tuple[str, bool]]:
        mine, theirs = evidence.candidate, evidence.stable
        tail, other_tail = mine.quantile(TAIL), theirs.quantile(TAIL)
        if tail is None:
            return
        answers, others = mine.durations.total(), theirs.durations.total()
        if self.p95 is not None and tail > self.p95:
            yield (
                f"p95: the candidate's 95th percentile is {tail:.1f} s, and at most {self.p95:g} s is allowed",
                is_higher(mine.slower(self.p95), answers, 1 - TAIL, false_alarm=false_alarm),
            )
        if self.p95_ratio is not None and other_tail is not None and tail > self.p95_ratio * other_tail:
            # An answer counts as slow if it is among the slowest 5 % of both sides together. Then slow answers are compared as errors are.
            slow = evidence.pooled_quantile(TAIL)
            counts = mine.slower(slow), answers, theirs.slower(slow), others
            reason = (
                f"p95: the candidate's 95th percentile is {tail:.2f} s, {tail / other_tail:.2f} times the stable side's {other_tail:.2f} s, and "
                f"at most {self.p95_ratio:g} times is allowed"
            )
            yield reason, is_more_frequent(*counts, false_alarm=false_alarm)

    def _differences(self, evidence: Evidence, kind: Difference, false_alarm: float) -> Iterator[tuple[str, bool]]:
        limit: float | None = getattr(self, kind)
        differ, compared = evidence.differ[kind], evidence.compared
        if limit is None or not compared or differ / compared <= limit:
            return
        certain = is_higher(differ, compared, limit, false_alarm=false_alarm)
        if certain or compared >= LEAST_COMPARED:
            yield (
                f"{kind}: {differ:,} of {compared:,} compared answers differ, and at most {limit:.1%} may differ",
                certain,
            )
