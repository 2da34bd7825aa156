"""Sequential tests: they may be evaluated after every call, and still raise a false alarm with at most the given probability.

Each test weighs its evidence against "not worse". While that is true, the evidence reaches 1/a at any time with a probability of at most a, however
often it is evaluated. So the number of calls need not be fixed in advance, and frequent evaluation does not make a false alarm more likely. The comparison of
two sides assumes that the share of calls of each side is constant within a step.

Sources: J. Ville, "Étude critique de la notion de collectif" (1939), the inequality; H. Robbins, "Statistical methods related to the law of the iterated
logarithm", Annals of Mathematical Statistics 41 (1970), the mixture; J. Przyborowski and H. Wilenski, "Homogeneity of results in testing samples from
Poisson series", Biometrika 31 (1940), two sides compared by the share of one side in the rare events; S. R. Howard et al., "Time-uniform, nonparametric,
nonasymptotic confidence sequences", Annals of Statistics 49 (2021).
"""

from __future__ import annotations

import math

__all__ = ["is_higher", "is_more_frequent"]

# The mixture's prior of a rate: Beta(1/2, 1/2), by H. Jeffreys. It fits rates of any size about equally well.
PRIOR = 0.5


def is_higher(events: int, calls: int, limit: float, *, false_alarm: float) -> bool:
    """Whether a rate is certainly higher than `limit`.

    Args:
        events, calls: number of events, and of the calls in which they were counted.
        limit: the highest rate that is allowed, 0 to 1.
        false_alarm: the largest probability that this ever becomes true if the rate is `limit` or less.

    Examples:
        >>> is_higher(4, 20, 0.05, false_alarm=0.01), is_higher(12, 60, 0.05, false_alarm=0.01)
        (False, True)
    """
    if not 0 < limit < 1:
        return limit <= 0 < events
    if not calls or events / calls <= limit:
        return False
    evidence = (
        _log_beta(PRIOR + events, PRIOR + calls - events)
        - _log_beta(PRIOR, PRIOR)
        - events * math.log(limit)
        - (calls - events) * math.log1p(-limit)
    )
    # The mixture also contains rates below the limit. There are more events than the limit allows, so these rates add at most 1 to the evidence.
    return evidence >= math.log(1 / false_alarm + 1)


def is_more_frequent(events: int, calls: int, other_events: int, other_calls: int, *, false_alarm: float) -> bool:
    """Whether an event is certainly more frequent on this side than on the other one.

    If it were as frequent, an event would belong to this side with the probability of this side's share of the calls.

    Args:
        events, calls: number of events and calls of this side.
        other_events, other_calls: number of events and calls of the other side.
        false_alarm: the largest probability that this ever becomes true if the event is not more frequent.
    """
    if not calls or not other_calls:
        return False
    share = calls / (calls + other_calls)
    return is_higher(events, events + other_events, share, false_alarm=false_alarm)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
