"""Makes an embedder from your own blocking function."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ragcore.embedding.vectors import check_vectors
from ragcore.errors import EmbeddingError, InvalidInput, RagcoreError
from ragcore.lifecycle.part import Part
from ragcore.protocols import Embedder, Vector, Vectors
from ragcore.resilience import Bulkhead, Policy
from ragcore.resilience.threads import Threads
from ragcore.text.tokens import estimate_tokens
from ragcore.types import Kind

__all__ = ["from_sync"]

MOST_TURNS = 1_024


def from_sync(
    encode: Callable[[list[str]], Vectors],
    *,
    model: str,
    dimension: int,
    max_tokens: int,
    encode_query: Callable[[list[str]], Vectors] | None = None,
    count_tokens: Callable[[str], int] | None = None,
    threads: int = 1,
    policy: Policy | None = None,
) -> Embedder:
    """Make an embedder from a blocking function.

    The function runs on its own threads, never on the event loop or in the default executor. A caller that is cancelled does not wait for the function.

    Args:
        encode: takes a list of texts and returns (n, dimension) numbers. At most `threads` threads call it at once.
        model: as in `Embedder`.
        dimension: as in `Embedder`.
        max_tokens: as in `Embedder`.
        encode_query: embeds questions, if the model treats them differently from documents. None: `encode`.
        count_tokens: counts the tokens of a text. None: tokens are estimated.
        threads: number of calls at once. Default 1.
        policy: rules for each call. None: one attempt of at most 60 s.
    """
    return _SyncEmbedder(
        encode,
        encode_query or encode,
        count_tokens or estimate_tokens,
        model=model,
        dimension=dimension,
        max_tokens=max_tokens,
        threads=threads,
        policy=policy or Policy(model, attempt_timeout=60.0, retry=False, bulkhead=False),
    )


class _SyncEmbedder(Part):
    def __init__(
        self,
        encode: Callable[[list[str]], Vectors],
        encode_query: Callable[[list[str]], Vectors],
        count_tokens: Callable[[str], int],
        *,
        model: str,
        dimension: int,
        max_tokens: int,
        threads: int,
        policy: Policy,
    ) -> None:
        self.model = model
        self.dimension = dimension
        self.max_tokens = max_tokens
        self.policy = policy
        self._encode = {"document": encode, "query": encode_query}
        self._count_tokens = count_tokens
        self._threads = Threads(threads, name=model)
        # All ingests with this embedder wait here in turn for its threads. Their own time limit does not run meanwhile.
        self.document_turns = Bulkhead(threads, queue=MOST_TURNS, name="embedding documents")

    def count_tokens(self, text: str, /) -> int:
        return self._count_tokens(text)

    async def embed(self, texts: Sequence[str], /, *, kind: Kind) -> Vector:
        self._check_open()
        if isinstance(texts, str):
            raise InvalidInput("texts is a single str: pass a list")
        encode, batch = self._encode[kind], list(texts)
        try:
            vectors = await self.policy.call(lambda: self._threads.run(lambda: encode(batch)))
        except RagcoreError:
            raise
        except Exception as error:
            raise EmbeddingError(
                f"{self.model} raised {type(error).__name__}", dependency=self.model, stage="embed"
            ) from error
        return check_vectors(vectors, count=len(batch), dimension=self.dimension, model=self.model)
