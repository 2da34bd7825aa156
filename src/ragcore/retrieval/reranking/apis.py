"""The `/rerank` APIs in use, in one table. They differ in a few names only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

__all__ = ["RERANK_APIS", "SHAPES", "RerankAPI", "Shape"]

RerankAPI: TypeAlias = Literal["cohere", "jina", "voyage", "vllm", "tei"]
RERANK_APIS: tuple[RerankAPI, ...] = get_args(RerankAPI)


@dataclass(frozen=True, slots=True)
class Shape:
    """How a server's requests and responses differ from those of the others.

    Attributes:
        texts, results, score: names of fields: the texts in the request, the list of results in the response ("": the response is that list), and the
            score in a result. A result's "index" is the position of its text in the request.
        base_url: the provider's public address; None if there is no public server.
        most_texts: largest number of texts of a request.
        parameters: sent with each request unless the server refuses them.
        names_model: whether the request names the model.
    """

    texts: str = "documents"
    results: str = "results"
    score: str = "relevance_score"
    base_url: str | None = None
    most_texts: int = 1_000
    parameters: Mapping[str, Any] = field(default_factory=dict)
    names_model: bool = True


# Sources: docs.cohere.com/reference/rerank, api.jina.ai/docs, docs.voyageai.com/reference/reranker-api, docs.vllm.ai (pooling models, re-rank API),
# huggingface.github.io/text-embeddings-inference (its option --max-client-batch-size is 32 by default).
SHAPES: dict[RerankAPI, Shape] = {
    "cohere": Shape(base_url="https://api.cohere.com/v2"),
    "jina": Shape(base_url="https://api.jina.ai/v1", parameters={"return_documents": False}),
    "voyage": Shape(base_url="https://api.voyageai.com/v1", results="data", parameters={"truncation": True}),
    "vllm": Shape(),
    "tei": Shape(
        texts="texts", results="", score="score", most_texts=32, parameters={"truncate": True}, names_model=False
    ),
}
