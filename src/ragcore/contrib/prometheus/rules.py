"""Rules for alerts, as a file for Prometheus. Each rule names the page of the manual that leads from the alert to its cause.

One cause must not call people twice. So the rules for errors, for slow answers and for empty results leave out the cases that another rule reports.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["NO_ERRORS", "RUNBOOKS", "AlertLimits", "AlertTiming", "alerts"]

# The folder of the manual with the pages to which the rules link.
RUNBOOKS = "docs/how-to/runbooks"
# Outcomes for which the service is not to blame.
NO_ERRORS = "ok|degraded|cancelled|InvalidInput|LimitExceeded|Unsupported"
ANSWERED = 'method=~"ask|stream",outcome=~"ok|degraded"'
BY = "by (job, instance)"


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertLimits:
    """The values beyond which a rule alerts.

    Attributes:
        error_rate: share of the calls that fail.
        p95: seconds. Choose it below the timeout of the calls: a call that times out is an error and not a slow answer.
        nothing_found: share of the searches and answers that find nothing. Choose it above the share of a normal day.
        score_shift: difference between the mean of the best scores and its mean of the day before.
        memory_growth: growth of the memory within `AlertTiming.growth`, as a share of it.
    """

    error_rate: float = 0.05
    p95: float = 10.0
    nothing_found: float = 0.5
    score_shift: float = 0.1
    memory_growth: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertTiming:
    """The times of the rules, in seconds. Tests shorten them; Prometheus must scrape at least four times in `evaluation`.

    Attributes:
        evaluation, window: the interval between two evaluations of the rules for failures, and the time over which they count.
        slow_evaluation, slow_window: the same for the rules for quality and memory.
        growth: the time over which memory must grow.
        baseline: the time over which the normal best score is measured.
    """

    evaluation: float = 30.0
    window: float = 300.0
    slow_evaluation: float = 300.0
    slow_window: float = 600.0
    growth: float = 1800.0
    baseline: float = 86_400.0


@dataclass(frozen=True, slots=True)
class _Rule:
    name: str
    runbook: str
    severity: str
    summary: str
    expression: str
    # Whether it fires at the first evaluation for which it holds. A share that already covers two evaluations need not hold for another one.
    at_once: bool = False


def alerts(*, limits: AlertLimits | None = None, timing: AlertTiming | None = None, runbooks: str = RUNBOOKS) -> str:
    """Return a file of rules for Prometheus, in YAML.

    Args:
        limits: None: the defaults.
        timing: None: the defaults.
        runbooks: where the pages of the manual are: a folder with Markdown, or the address of the rendered pages.
    """
    limits, timing = limits or AlertLimits(), timing or AlertTiming()
    lines = ["# Rules for a service that uses ragcore. Made by `ragcore dashboards --alerts`.", "groups:"]
    for name, seconds, rules in (
        ("ragcore failures", timing.evaluation, _failures(limits, timing)),
        ("ragcore quality and memory", timing.slow_evaluation, _slow(limits, timing)),
    ):
        lines += [f"  - name: {name}", f"    interval: {_time(seconds)}", "    rules:"]
        for rule in rules:
            lines += _written(rule, hold=seconds, runbooks=runbooks)
    return "\n".join(lines) + "\n"


def _failures(limits: AlertLimits, timing: AlertTiming) -> Iterator[_Rule]:
    window, moment = _time(timing.window), _time(2 * timing.evaluation)
    # While a breaker is half-open, it refuses all calls but its probes.
    open_breaker = f'max {BY} (max_over_time(ragcore_breaker_state{{state=~"open|half_open"}}[{window}])) > 0'
    blocked = f"sum {BY} (increase(ragcore_event_loop_blocked_seconds_total[{window}])) > {0.05 * timing.window:g}"
    errors = f'ragcore_calls_total{{outcome!~"{NO_ERRORS}"}}'
    yield _Rule(
        "RagcoreHang",
        "hang",
        "page",
        "A call does not return after its deadline, or code blocks the event loop of {{ $labels.instance }}.",
        f"sum {BY} (increase(ragcore_hangs_total[{window}])) > 0\n"
        f"or max {BY} (min_over_time(ragcore_event_loop_blocked_now[{moment}])) > 0\n"
        f"or {blocked}",
    )
    yield _Rule(
        "RagcoreBreakerOpen",
        "breaker_open",
        "page",
        "The circuit breaker of {{ $labels.dependency }} is open on {{ $labels.instance }}: the dependency fails.",
        f'max by (job, instance, dependency) (max_over_time(ragcore_breaker_state{{state="open"}}[{moment}])) > 0',
    )
    yield _Rule(
        "RagcoreErrorRate",
        "error_rate",
        "page",
        "{{ $value | humanizePercentage }} of the calls fail on {{ $labels.instance }}, and no circuit breaker is open.",
        f"sum {BY} (rate({errors}[{window}])) / sum {BY} (rate(ragcore_calls_total[{window}])) > {limits.error_rate:g}\n"
        f"and sum {BY} (increase({errors}[{window}])) >= 5\n"
        f"unless {open_breaker}",
    )
    yield _Rule(
        "RagcoreSlow",
        "slow",
        "page",
        "The 95th percentile of the answers on {{ $labels.instance }} takes {{ $value | humanizeDuration }}.",
        f"histogram_quantile(0.95, sum by (job, instance, le) (rate(ragcore_call_duration_seconds_bucket{{{ANSWERED}}}[{window}]))) > {limits.p95:g}\n"
        f"and sum {BY} (increase(ragcore_call_duration_seconds_count{{{ANSWERED}}}[{window}])) >= 20\n"
        f"unless {open_breaker}\n"
        f"unless {blocked}",
    )


def _slow(limits: AlertLimits, timing: AlertTiming) -> Iterator[_Rule]:
    window, growth, recent = _time(timing.slow_window), _time(timing.growth), _time(timing.growth / 3)
    baseline = f"[{_time(timing.baseline)}] offset {window}"
    memory = "ragcore_resident_memory_bytes"
    drift = (
        f"abs({_mean_score(f'[{window}]')} - {_mean_score(baseline)}) > {limits.score_shift:g}\n"
        f"and sum {BY} (increase(ragcore_top_score_count[{window}])) >= 50\n"
        f"and sum {BY} (increase(ragcore_top_score_count{baseline})) >= 200"
    )
    yield _Rule(
        "RagcoreMemoryGrowth",
        "memory_growth",
        "ticket",
        "The memory of {{ $labels.instance }} has grown by {{ $value | humanize1024 }}B and grows on.",
        # Growth that has stopped, such as that of a filled cache, has no slope in the last third. A young process is still filling its caches.
        f"deriv({memory}[{growth}]) * {timing.growth:g} > {limits.memory_growth:g} * min_over_time({memory}[{growth}])\n"
        f"and deriv({memory}[{recent}]) > 0.5 * deriv({memory}[{growth}])\n"
        f"and time() - ragcore_start_time_seconds > {timing.growth:g}",
    )
    yield _Rule(
        "RagcoreScoreDrift",
        "score_drift",
        "ticket",
        "The mean of the best scores on {{ $labels.instance }} differs by {{ $value | humanize }} from that of the time before.",
        drift,
    )
    yield _Rule(
        "RagcoreNothingFound",
        "nothing_found",
        "ticket",
        "{{ $value | humanizePercentage }} of the questions on {{ $labels.instance }} find nothing.",
        f'sum {BY} (rate(ragcore_answers_total{{found="false"}}[{window}])) / sum {BY} (rate(ragcore_answers_total[{window}])) > {limits.nothing_found:g}\n'
        f"and sum {BY} (increase(ragcore_answers_total[{window}])) >= 20\n"
        f"unless ({drift})",
        at_once=True,
    )


def _mean_score(over: str) -> str:
    return f"sum {BY} (rate(ragcore_top_score_sum{over})) / sum {BY} (rate(ragcore_top_score_count{over}))"


def _written(rule: _Rule, *, hold: float, runbooks: str) -> Iterator[str]:
    """Yield the lines of a rule. It fires at the second evaluation for which it holds, unless it fires at once."""
    address = f"{runbooks}/{rule.runbook}" + ("/" if "://" in runbooks else ".md")
    yield f"      - alert: {rule.name}"
    yield "        expr: |"
    yield from (f"          {line}" for line in rule.expression.splitlines())
    if not rule.at_once:
        yield f"        for: {_time(hold)}"
    yield "        labels:"
    yield f"          severity: {rule.severity}"
    yield "        annotations:"
    # A text of JSON is one of YAML.
    yield f"          summary: {json.dumps(rule.summary)}"
    yield f"          runbook_url: {json.dumps(address)}"


def _time(seconds: float) -> str:
    """Return a duration as Prometheus writes it."""
    return f"{seconds:.0f}s" if seconds == round(seconds) else f"{1000 * seconds:.0f}ms"
