"""Names and units of figures, for people who read a report. Programs read the keys and the plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ragcore.loadtest.figures import Value

__all__ = ["heading", "label", "number", "percent", "quantity", "seconds", "worth_showing"]

PERCENT, PER_SECOND = "%", "per second"
# For each key: the name in words, and the unit.
WORDS = {
    "asked": ("questions asked", ""),
    "right": ("right answers", ""),
    "wrong": ("wrong answers and apologies", ""),
    "degraded": ("degraded answers", ""),
    "hung": ("hung questions", ""),
    "success_rate": ("success", PERCENT),
    "mean_s": ("mean", "s"),
    "max_s": ("slowest", "s"),
    "highest_concurrency": ("highest concurrency without a hang", ""),
    "rss_growth_mb": ("memory growth", "MB"),
    "rss_growth_kb_per_question": ("memory growth per question", "kB"),
    "rss_growth_kb_per_question_low": ("memory growth per question, at least", "kB"),
    "errors.timeout": ("errors: timeout", ""),
    "errors.connection": ("errors: connection failed", ""),
    "errors.http": ("errors: HTTP status", ""),
    "errors.protocol": ("errors: invalid answer", ""),
    "errors.refused": ("errors: refused", ""),
    "errors.late": ("errors: late answers", ""),
    "sent_per_s": ("sent", PER_SECOND),
    "tokens_per_s": ("tokens", PER_SECOND),
    "goodput": ("answers within the objective", PER_SECOND),
    "slo_share": ("share within the objective", PERCENT),
    "highest_rate": ("highest rate that meets the objective", PER_SECOND),
    "p50_spread": ("spread of p50 between repeats", PERCENT),
    "lateness_p99_ms": ("sent late, p99", "ms"),
    "driver_lag_p99_ms": ("driver lag, p99", "ms"),
    "driver_cpu": ("driver's share of a core", PERCENT),
}
# Short names for the columns of tables.
COLUMNS = {
    "asked": "asked",
    "right": "right",
    "wrong": "wrong",
    "degraded": "degraded",
    "hung": "hung",
    "goodput": "good",
    "slo_share": "objective",
    "lateness_p99_ms": "sent late",
    "driver_cpu": "driver",
}
PREFIXES = {"at_highest.": "at the highest rate: "}
# The unit of all other keys, by their suffix. If one suffix ends with another, the longer one comes first.
SUFFIXES = (
    ("_kb_per_question", "kB per question"),
    ("_per_s", PER_SECOND),
    ("_share", PERCENT),
    ("_rate", PERCENT),
    ("_mib", "MiB"),
    ("_ms", "ms"),
    ("_us", "µs"),
    ("_mb", "MB"),
    ("_kb", "kB"),
    ("_s", "s"),
)


def label(name: str) -> str:
    """Return a figure's name in words: "first_token_p95_s" becomes "first token p95"."""
    return _words(name)[0]


def quantity(name: str, value: object) -> str:
    """Return a figure's value with its unit: "12.8 s", "97.6 %", "42"."""
    words, unit = _words(name)
    shown = _plain(value, unit)
    return f"{shown} {unit}" if unit and words and _is_number(value) else shown


def heading(name: str) -> str:
    """Return a column's name with the unit of its values: "p95 s"."""
    words, unit = _words(name)
    words = COLUMNS.get(name, words)
    return f"{words} {unit}" if unit else words


def number(name: str, value: Value) -> str:
    """Return a value without its unit, for a column whose heading has the unit."""
    return _plain(value, _words(name)[1])


def worth_showing(values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the figures to show, without those that were not measured and without errors that did not occur."""
    return {
        name: value
        for name, value in values.items()
        if value is not None and not (name.startswith("errors.") and not value)
    }


def percent(share: float) -> str:
    """Format a share from 0 to 1 as percent."""
    return quantity("_share", share)


def seconds(length: float) -> str:
    """Format a length of time in seconds."""
    return quantity("_s", length)


def _words(name: str) -> tuple[str, str]:
    phase, comma, figure = name.rpartition(", ")
    if comma:
        words, unit = _words(figure)
        return f"{phase}, {words}", unit
    for prefix, said in PREFIXES.items():
        if name.startswith(prefix):
            words, unit = _words(name.removeprefix(prefix))
            return f"{said}{words}", unit
    if name in WORDS:
        return WORDS[name]
    for suffix, unit in SUFFIXES:
        if name.endswith(suffix):
            return _spaced(name.removesuffix(suffix)) or unit, unit
    return _spaced(name), ""


def _spaced(name: str) -> str:
    return name.replace("_", " ").replace(".", ": ")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _plain(value: object, unit: str) -> str:
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int() if unit != PERCENT:
            return f"{value:,}"
        case int() | float() if not math.isfinite(value):
            return "–"
        case int() | float():
            scaled = 100 * value if unit == PERCENT else value
            digits = 4 if unit == PERCENT and 99 < scaled < 100 else 3  # so that 99.96 % is not shown as 100 %
            return f"{scaled:,.0f}" if abs(scaled) >= 1000 else f"{scaled:.{digits}g}"
    return str(value)
