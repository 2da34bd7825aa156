"""Checks the limits of a tenant before each of its calls. Counts the tokens and the cost of each call, also of a call that fails or is cancelled."""

from __future__ import annotations

from dataclasses import replace

from ragcore.client.components import Generators
from ragcore.compat.ability import offers
from ragcore.config import EXTRACTIVE, Settings
from ragcore.errors import ConfigurationError, LimitExceeded
from ragcore.events import emit
from ragcore.lifecycle.owner import Owner
from ragcore.operating.calls import Call, Calls
from ragcore.operating.quota import Quota
from ragcore.operating.shared_quota import SharedQuota
from ragcore.protocols import Embedder, QuotaStore, Searcher
from ragcore.types import Answer, Generation, Usage

__all__ = ["Charging"]


class Charging:
    """The limits of each tenant, in this process or shared by all processes, and the charges against them.

    Invariant: each call that used a model is charged exactly once: by `answered` or `charge` if it succeeds, else by `settle`, from an estimate.
    """

    quota: Quota

    def __init__(
        self, settings: Settings, *, calls: Calls, store: Searcher, embedder: Embedder | None, generators: Generators
    ) -> None:
        self.quota = Quota(
            requests_per_minute=settings.requests_per_minute or None,
            tokens_per_minute=settings.tokens_per_minute or None,
            calls_at_once=settings.calls_at_once or None,
            spending_per_day=settings.spending_per_day,
            prices=settings.prices,
        )
        self._shared = _shared(self.quota, store) if settings.share_limits else None
        self._calls = calls
        self._embedder = embedder
        self._generators = generators

    def admit(self, tenant: str) -> None:
        """Refuse the call of a tenant that has used up a limit in this process.

        Raises:
            LimitExceeded: names the limit, and when to try again.
        """
        self.quota.admit(tenant, self._calls.running_of(tenant))

    async def admit_shared(self, call: Call) -> None:
        """Refuse the call of a tenant that has used up a limit in all processes together.

        Raises:
            LimitExceeded: a limit is used up. The call no longer counts as running.
        """
        if self._shared is not None:
            try:
                await self._shared.admit(call)
            except LimitExceeded:
                self._calls.withdraw(call)
                raise

    def charge(self, call: Call, usage: Usage, model: str) -> None:
        """Count the use of a model by a call, and mark the call as charged.

        Args:
            model: the name of the model that wrote; "": no model wrote anything.
        """
        call.charged = True
        self.count(call, usage, model)

    def count(self, call: Call, usage: Usage, model: str) -> None:
        """Count the use of a model before the answer. The call is still to be charged for the rest."""
        embedding_model = "" if self._embedder is None else self._embedder.model
        emit(
            "tokens.used",
            model or embedding_model,
            prompt=usage.prompt_tokens or 0,
            completion=usage.completion_tokens or 0,
            embedding=usage.embedding_tokens or 0,
        )
        tokens, cost = self.quota.charge(call.tenant, usage, model, embedding_model)
        if self._shared is not None:
            self._shared.owe(call.tenant, tokens, cost)

    def answered(self, call: Call, answer: Answer, generation: Generation | None) -> None:
        """Count the cost of an answer, and of the models that failed before the one that wrote it."""
        if generation is None:
            self.charge(call, Usage(embedding_tokens=answer.usage.embedding_tokens), "")
            return
        used = replace(generation.usage, embedding_tokens=answer.usage.embedding_tokens)
        if generation.model != EXTRACTIVE and used.prompt_tokens is None:
            used = replace(call.estimated(), embedding_tokens=used.embedding_tokens)
        self.charge(call, used, generation.model)
        for model, failed in generation.spent:
            self.charge(call, failed, model)

    async def settle(self, call: Call, owner: Owner | None) -> None:
        """Finish the accounting of a call, however it ended. An abandoned answer is charged by an estimate."""
        if not call.charged and (call.written or call.embedded):
            wrote = bool(call.written) and not call.spent
            seen = call.estimated() if wrote else Usage()
            model = self._generators.first_name if wrote else ""
            self.charge(call, replace(seen, embedding_tokens=call.embedded), model)
        for model, usage in call.spent:
            self.charge(call, usage, model)
        if self._shared is not None:
            await self._shared.settle(call, owner)


def _shared(quota: Quota, store: Searcher) -> SharedQuota:
    if not offers(store, QuotaStore):
        raise ConfigurationError(
            f"share_limits needs a store that counts the calls of all processes, and {type(store).__name__} has no count_calls: "
            "use PgVectorStore, or remove share_limits"
        )
    return SharedQuota(quota, store)
