"""How a client behaves, and which policy watches over which dependency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ragcore.errors import ConfigurationError
from ragcore.resilience import Policy
from ragcore.text.redaction import Redact
from ragcore.types import Price

__all__ = ["Policies", "Settings"]

DEFAULT_NOT_FOUND = "I could not find the answer in your documents."
DEFAULT_NOT_ANSWERED = (
    "No answer can be written at the moment. This is the passage of your documents that is nearest to the question:"
)
DEFAULT_NOT_SEARCHED = "Your documents could not be searched completely at the moment. Please try again later."


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How the client behaves.

    Attributes:
        timeout: seconds for a call that names none.
        document_timeout: seconds for each step of a document of an `add`: cutting it, embedding 256 of its chunks, writing 2,000 of them.
        drain: seconds that running calls get when the client is closed.
        degrade: whether another way is taken when a stage fails; False raises instead.
        quote_when_overloaded: whether the passages are quoted where no model has room; False raises `Overloaded`, so that the caller can come back.
        instructions: for every answer, besides the rules for citing; a call's own come in their place.
        not_found: the answer's text when the documents don't answer the question.
        not_searched: the answer's text when nothing was found because the search itself was at fault: the embedder was down, or the documents have no
            embeddings of its model.
        not_answered: stands before the nearest passage where no model could be reached and no sentence can be quoted as the answer.
        prompt_tokens: of a prompt at most.
        max_tokens: of an answer at most.
        recent: how many finished calls `RAG.recent()` remembers.
        health_timeout: seconds that `RAG.health()` may take.
        watchdog: whether a thread looks for hung calls, a blocked event loop and a full default executor, and reports them.
        memory_mb: MiB of this process that `RAG.health()` judges its memory by; None: the cgroup's limit.
        requests_per_minute, tokens_per_minute, calls_at_once: of each tenant, at most; a call beyond raises `LimitExceeded`. 0: no limit. None: no limit, and
            the default of `ragcore serve` there.
        share_limits: whether these limits hold for all processes that use the database together, which count there; False: each process counts for itself.
        spending_per_day: of each tenant and day in UTC, at most, in the currency of the prices; None: no limit.
        prices: what a million tokens cost, by model.
        redact: what is taken out of texts before they go to a model or an embedder: a `Redaction`, or a function from text to text, which
            runs on threads, at most 4 at once for each tenant. None: nothing.
            RAGCORE_REDACT holds the kinds of a `Redaction` with commas between, or "all", and "reversible".
    """

    timeout: float = 30.0
    document_timeout: float = 120.0
    drain: float = 10.0
    degrade: bool = True
    quote_when_overloaded: bool = False
    instructions: str = ""
    not_found: str = DEFAULT_NOT_FOUND
    not_searched: str = DEFAULT_NOT_SEARCHED
    not_answered: str = DEFAULT_NOT_ANSWERED
    prompt_tokens: int = 6_000
    max_tokens: int = 800
    recent: int = 100
    health_timeout: float = 2.0
    watchdog: bool = True
    memory_mb: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    calls_at_once: int | None = None
    share_limits: bool = False
    spending_per_day: float | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)
    redact: Redact | None = None

    def __post_init__(self) -> None:
        for name in ("timeout", "document_timeout", "health_timeout"):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ConfigurationError(f"{name} is {value!r}: it must be a positive, finite number of seconds")
        if not (isinstance(self.drain, int | float) and 0 <= self.drain < math.inf):
            raise ConfigurationError(f"drain is {self.drain!r}: it must be a finite number of seconds, at least 0")
        for name in ("requests_per_minute", "tokens_per_minute", "calls_at_once"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 0):
                raise ConfigurationError(f"{name} is {value!r}: it must be a whole number, 0 for no limit, or None")
        spending = self.spending_per_day
        if spending is not None and not (isinstance(spending, int | float) and 0 < spending < math.inf):
            raise ConfigurationError(f"spending_per_day is {spending!r}: it must be a positive number, or None")
        if spending is not None and not self.prices:
            raise ConfigurationError("spending_per_day needs prices: what a million tokens cost, by model")
        if self.memory_mb is not None and not (
            isinstance(self.memory_mb, int | float) and 0 < self.memory_mb < math.inf
        ):
            raise ConfigurationError(f"memory_mb is {self.memory_mb!r}: it must be a positive number of MiB, or None")
        for name in ("prompt_tokens", "max_tokens"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ConfigurationError(f"{name} is {getattr(self, name)!r}: it must be a whole number, at least 1")
        if self.redact is not None and not callable(self.redact):
            raise ConfigurationError(
                f"redact is a {type(self.redact).__name__}: it must be a Redaction, a function from text to text, or None"
            )
        if not (isinstance(self.recent, int) and 0 <= self.recent <= 100_000):
            raise ConfigurationError(f"recent is {self.recent!r}: it must be a whole number from 0 to 100,000")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """A policy for each dependency; None: its own default. `store` is of searches, `store_writes` of what changes the store."""

    embedding: Policy | None = None
    store: Policy | None = None
    store_writes: Policy | None = None
    generation: Policy | None = None
