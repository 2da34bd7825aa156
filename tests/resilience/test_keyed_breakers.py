"""A breaker for each key."""

from __future__ import annotations

from ragcore.resilience import CircuitBreaker
from ragcore.resilience.keyed_breakers import KeyedBreakers


def test_each_key_has_its_own_breaker_with_the_same_settings() -> None:
    options = {
        "failure_ratio": 0.3,
        "slow_call_ratio": 0.4,
        "slow_call_duration": 2.0,
        "minimum_throughput": 7,
        "sampling_duration": 11.0,
        "break_duration": 3.0,
        "max_break_duration": 33.0,
        "probes": 4,
    }
    pattern = CircuitBreaker(name="llm", **options)  # type: ignore[arg-type]
    breakers = KeyedBreakers(pattern, most=3)
    made = breakers.get("a")
    assert made is breakers.get("a")
    assert made is not pattern
    assert made.name == "llm[a]"
    assert {name: getattr(made, name) for name in options} == options
    assert KeyedBreakers(CircuitBreaker(), most=1).get("a").slow_call_duration == float("inf")
    assert breakers.get(None) is pattern


def test_the_least_recently_used_breaker_is_forgotten_first() -> None:
    breakers = KeyedBreakers(CircuitBreaker(), most=2)
    first = breakers.get("a")
    breakers.get("b")
    breakers.get("a")
    breakers.get("c")
    assert [key for key, _ in breakers] == ["a", "c"]
    assert breakers.get("a") is first


def test_an_isolated_policy_breaker_applies_to_all_keys() -> None:
    pattern = CircuitBreaker()
    breakers = KeyedBreakers(pattern, most=2)
    own = breakers.get("a")
    pattern.isolate()
    assert breakers.get("a") is pattern
    pattern.reset()
    assert breakers.get("a") is own
