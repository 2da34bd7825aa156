"""`Settings`: timeouts, limits and texts of a client. `Policies`: the resilience policy of each dependency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from ragcore.errors import ConfigurationError
from ragcore.resilience import Policy
from ragcore.text.redaction import Redact
from ragcore.types import Price

__all__ = ["Policies", "Rewrite", "Settings", "check_rewrite"]

Rewrite: TypeAlias = Literal["context", "model"] | None

DEFAULT_NOT_FOUND = "I could not find the answer in your documents."
DEFAULT_NOT_ANSWERED = "I can't generate an answer right now. The closest passage of your documents is:"
DEFAULT_NOT_SEARCHED = "Your documents could not be searched completely at the moment. Please try again later."


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a client: timeouts, limits and texts.

    Attributes:
        timeout: seconds for a call that is made without `timeout`.
        document_timeout: seconds for each step of a document in `add`: cutting it, embedding 256 of its chunks, writing 2,000 of them.
        drain: seconds that running calls get when the client is closed, before they are cancelled.
        degrade: whether a call degrades when a stage fails: full-text search without the embedder, quotation without the model. False: the call raises the
            error.
        quote_when_overloaded: whether the passages are quoted if no model has a place for the call; False: the call raises `Overloaded`, so that the caller
            can try again later.
        rewrite: how the search uses the history of a follow-up question, such as "And for my family?". "context": it also searches for the words of the
            question before. "model": the first model rewrites the question to a stand-alone one, within 20 % of the remaining time and at most 5 s; if it
            fails, "context" is used. None: the search uses the question alone. Without a history, nothing is rewritten. Without a model, "model" is the
            same as "context".
        instructions: instructions for every answer, in addition to the rules for citations. The `instructions` of a call replace them.
        not_found: the answer's text if the documents don't answer the question.
        not_searched: the answer's text if nothing was found because the search was incomplete: the embedder was down, or the documents have no
            embeddings of its model.
        not_answered: text before the nearest passage, if no model could be reached and no sentence can be quoted as the answer.
        prompt_tokens: largest number of tokens of a prompt.
        max_tokens: largest number of tokens of an answer.
        recent: the number of finished calls that `RAG.recent()` returns.
        log_tenants: whether the log of calls ("ragcore.call") has the names of tenants. False: it has a hash of each name.
        health_timeout: seconds that `RAG.health()` may take.
        watchdog: whether a thread detects and reports hung calls, a blocked event loop and a full default executor.
        memory_mb: the memory limit of this process in MiB, for `RAG.health()`; None: the limit of the cgroup.
        requests_per_minute, tokens_per_minute, calls_at_once: the limits of each tenant. A call beyond a limit raises `LimitExceeded`. 0: no limit.
            None: no limit, except in `ragcore serve`, which has defaults.
        share_limits: whether all processes that use the same database share these limits; the database then counts their calls. False: each process
            counts only its own calls.
        spending_per_day: the limit of each tenant and day (UTC), in the currency of the prices; None: no limit.
        prices: prices of a million tokens, by model.
        redact: removes personal data from texts before they are sent to a model or an embedder: a `Redaction`, or a function from text to text. A function
            runs on threads, at most 4 at once for each tenant. None: nothing is removed.
            RAGCORE_REDACT has the kinds of a `Redaction`, separated by commas, or "all"; add "reversible" for a reversible redaction.
    """

    timeout: float = 30.0
    document_timeout: float = 120.0
    drain: float = 10.0
    degrade: bool = True
    quote_when_overloaded: bool = False
    rewrite: Rewrite = "context"
    instructions: str = ""
    not_found: str = DEFAULT_NOT_FOUND
    not_searched: str = DEFAULT_NOT_SEARCHED
    not_answered: str = DEFAULT_NOT_ANSWERED
    prompt_tokens: int = 6_000
    max_tokens: int = 800
    recent: int = 100
    log_tenants: bool = False
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
        check_rewrite(self.rewrite)
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
            raise ConfigurationError("spending_per_day needs prices: set the price of a million tokens of each model")
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


def check_rewrite(rewrite: object, /) -> Rewrite:
    """Return the value of `Settings.rewrite` if it is known."""
    if rewrite is None or rewrite == "context" or rewrite == "model":
        return rewrite
    raise ConfigurationError(f"rewrite is {rewrite!r}: it must be 'context', 'model' or None")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """The resilience policy of each dependency. None: the component's default.

    Attributes:
        embedding: for requests to the embedder.
        store: for searches in the store.
        store_writes: for changes of the store.
        generation: for requests to the models.
        reranking: for requests to the reranker.
    """

    embedding: Policy | None = None
    store: Policy | None = None
    store_writes: Policy | None = None
    generation: Policy | None = None
    reranking: Policy | None = None
