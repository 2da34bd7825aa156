"""Makes the components that a configuration names. A component's module is imported only if the configuration names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ragcore.compat.ability import offers
from ragcore.config import EMBEDDED_SCHEME, EXTRACTIVE, Config, Policies
from ragcore.errors import ConfigurationError
from ragcore.generation.extractive import ExtractiveGenerator
from ragcore.generation.fallback import FallbackGenerator, name_of
from ragcore.generation.redacting import RedactingGenerator
from ragcore.protocols import Embedder, Generator, Reranker, Searcher, VectorCache
from ragcore.text.redacting import Redacting
from ragcore.text.redaction import Redact

__all__ = ["Generators", "cached", "make_embedder", "make_generator", "make_reranker", "make_store"]

# Seconds for the embedder if quotation is the client's first generator. If quotation is the last resort, the embedder gets only a part of the reserve.
FIRST_EMBED_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Generators:
    """A client's generators, all made from the argument `generator` of the client.

    Attributes:
        given: the client's argument, unchanged.
        answering: `given`, with quotation as the last resort.
        alone: the first model, without a fallback. It is wrapped in a `FallbackGenerator`, so that it runs like the others.
        degrading, strict: `answering` and `alone` with redaction. The client calls these two.
        quoting: quotation, if `degrading` fails. It gets prompts without redaction, and redacts only what it embeds.
    """

    given: Generator
    answering: FallbackGenerator
    alone: FallbackGenerator
    degrading: Generator
    strict: Generator
    quoting: ExtractiveGenerator

    @classmethod
    def of(
        cls,
        given: Generator,
        *,
        quote_when_overloaded: bool,
        redact: Redact | None,
        redacting: Redacting,
        embedder: Embedder | None = None,
    ) -> Self:
        """Make the generators from the client's argument. Quotation without an embedder of its own uses the client's embedder."""
        equipped = _equipped(given, embedder)
        first = equipped.generators[0] if isinstance(equipped, FallbackGenerator) else equipped
        quoting = ExtractiveGenerator(embedder=embedder, redact=redact)
        answering = _with_last_resort(
            equipped,
            quote_when_overloaded=quote_when_overloaded,
            # `degrading` redacts the prompts, so quotation gets redacted texts and need not redact them again.
            quoting=quoting if redact is None else ExtractiveGenerator(embedder=embedder),
        )
        alone = FallbackGenerator([first])
        degrading, strict = (
            one if redact is None else RedactingGenerator(one, redact, redacting=redacting)
            for one in (answering, alone)
        )
        return cls(given, answering, alone, degrading, strict, quoting)

    def clear(self, *, tenant: str) -> int:
        """Delete the cached vectors of a tenant's sentences, and return their number."""
        quotations = {id(one): one for one in (self.quoting, *self.answering.generators, *self.alone.generators)}
        return sum(one.clear(tenant=tenant) for one in quotations.values() if isinstance(one, ExtractiveGenerator))

    @property
    def name(self) -> str:
        """The name of the generator that the client was given."""
        return name_of(self.given)

    @property
    def first_name(self) -> str:
        """The name of the first model."""
        return name_of(self.alone.generators[0])

    @property
    def named(self) -> dict[str, Generator]:
        """The given generators by their names."""
        each = self.given.generators if isinstance(self.given, FallbackGenerator) else (self.given,)
        return {name_of(generator): generator for generator in each}


def _equipped(generator: Generator, embedder: Embedder | None, *, first: bool = True) -> Generator:
    """Return the generator. If it is quotation without an embedder of its own, return a copy that uses the client's embedder."""
    if type(generator) is FallbackGenerator:
        generators = [_equipped(one, embedder, first=at == 0) for at, one in enumerate(generator.generators)]
        if all(one is other for one, other in zip(generators, generator.generators, strict=True)):
            return generator
        return FallbackGenerator(
            generators,
            first_timeout=generator.first_timeout,
            quote_when_overloaded=generator.quote_when_overloaded,
        )
    if type(generator) is not ExtractiveGenerator or generator.embedder is not None or embedder is None:
        return generator
    seconds = generator.embed_timeout or (FIRST_EMBED_SECONDS if first else None)
    return ExtractiveGenerator(embedder=embedder, redact=generator.redact, embed_timeout=seconds)


def _with_last_resort(
    generator: Generator, *, quote_when_overloaded: bool, quoting: ExtractiveGenerator
) -> FallbackGenerator:
    if not isinstance(generator, FallbackGenerator):
        generator = FallbackGenerator([generator])
    quotes = isinstance(generator.generators[-1], ExtractiveGenerator)
    if quotes and (generator.quote_when_overloaded or not quote_when_overloaded):
        return generator
    return FallbackGenerator(
        [*generator.generators, *(() if quotes else (quoting,))],
        first_timeout=generator.first_timeout,
        quote_when_overloaded=quote_when_overloaded or generator.quote_when_overloaded,
    )


def make_embedder(config: Config, policies: Policies | None = None) -> Embedder:
    """Return the embedder that a configuration names, without its cache."""
    policies = policies or Policies()
    if config.embeds_locally:
        from ragcore.embedding.local import LocalEmbedder

        return LocalEmbedder(policy=policies.embedding)
    from ragcore.embedding.openai import OpenAIEmbedder

    return OpenAIEmbedder(
        config.embedding_model,
        dimension=config.embedding_dimension,
        base_url=config.embedding_base_url or config.base_url,
        api_key=config.embedding_api_key or config.api_key,
        policy=policies.embedding,
    )


def cached(embedder: Embedder, config: Config, store: Searcher) -> Embedder:
    """Return the embedder with the cache that a configuration describes."""
    if not config.embedding_cache_mb:
        return embedder
    from ragcore.embedding.cache import MEBI, CachedEmbedder

    ttl, behind = config.embedding_cache_ttl, None
    if config.embedding_cache_key is not None:
        from ragcore.embedding.shared_vectors import SharedVectors

        if not offers(store, VectorCache):
            raise ConfigurationError(
                f"embedding_cache_key is set, but {type(store).__name__} can't keep vectors of questions: unset RAGCORE_EMBEDDING_CACHE_KEY"
            )
        behind = SharedVectors(store, key=config.embedding_cache_key, ttl=ttl)
    return CachedEmbedder(embedder, max_bytes=config.embedding_cache_mb * MEBI, ttl=ttl, behind=behind)


def make_store(config: Config, policies: Policies, embedder: Embedder) -> Searcher:
    """Return the store that a configuration names."""
    if config.dsn is None:
        raise ConfigurationError("no DSN: pass Config(dsn=Secret('postgresql://…')), or from_config(…, store=…)")
    # The revealed DSN is never bound to a variable: tools that show the variables of each frame would show the password.
    if config.table is not None:
        if config.dsn.reveal().startswith(EMBEDDED_SCHEME):
            raise ConfigurationError(
                "table names an existing table, but the database is an embedded one: set dsn to the database that has the table"
            )
        if config.read_dsn:
            raise ConfigurationError(
                "read_dsn is set, but an existing table is read only from the server that dsn names: unset RAGCORE_READ_DSN, or set dsn to a replica"
            )
        from ragcore.store.postgres.table import TableStore

        return TableStore(
            config.dsn,
            config.table,
            pool_size=config.pool_size,
            exact_rows=config.exact_rows,
            ef_search=config.ef_search,
            policy=policies.store,
        )
    if config.dsn.reveal().startswith(EMBEDDED_SCHEME):
        from ragcore.store.embedded import EmbeddedStore

        if config.read_dsn:
            raise ConfigurationError(
                "read_dsn is set, but the embedded database has no replicas: unset RAGCORE_READ_DSN"
            )
        return EmbeddedStore(
            config.dsn.reveal().removeprefix(EMBEDDED_SCHEME),
            model=embedder.model,
            dimension=embedder.dimension,
            language=config.language,
            pool_size=config.pool_size,
            exact_rows=config.exact_rows,
            ef_search=config.ef_search,
            schema=config.schema,
            policy=policies.store,
            write_policy=policies.store_writes,
        )
    from ragcore.store.postgres import PgVectorStore

    return PgVectorStore(
        config.dsn,
        read_dsn=config.read_dsn,
        read_your_writes=config.read_your_writes,
        pool_size=config.pool_size,
        exact_rows=config.exact_rows,
        ef_search=config.ef_search,
        schema=config.schema,
        allow_unsafe_role=config.allow_unsafe_role,
        policy=policies.store,
        write_policy=policies.store_writes,
    )


def make_reranker(config: Config, policies: Policies) -> Reranker | None:
    """Return the reranker that a configuration names; None if it names none."""
    if config.reranker is None:
        return None
    model = config.rerank_model or config.reranker
    if config.reranker == "local":
        from ragcore.retrieval.reranking.local import LocalReranker

        return LocalReranker(model, policy=policies.reranking)
    from ragcore.retrieval.reranking.http import HTTPReranker

    return HTTPReranker(
        model,
        api=config.reranker,
        base_url=config.rerank_base_url,
        api_key=config.rerank_api_key,
        policy=policies.reranking,
    )


def make_generator(config: Config, policies: Policies) -> Generator:
    """Return the generator that a configuration names. Several models become a `FallbackGenerator`, in their order."""
    generators: list[Generator] = []
    for model in config.models:
        if model == EXTRACTIVE:
            generators.append(ExtractiveGenerator())
            continue
        from ragcore.generation.openai import OpenAIGenerator

        generators.append(
            OpenAIGenerator(
                model,
                base_url=config.generation_base_url or config.base_url,
                api_key=config.generation_api_key or config.api_key,
                policy=policies.generation,
            )
        )
    return FallbackGenerator(generators) if len(generators) > 1 else generators[0]
