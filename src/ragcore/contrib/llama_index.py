"""Uses a client as LlamaIndex's retriever. Needs the extra `llama-index`.

The retriever takes a view of one tenant. With a view of `ragcore.RAG`, use `aretrieve` and the async methods of LlamaIndex's engines, on the event loop of
the client. With a view of `ragcore.blocking.RAG`, both kinds of methods work, and the async ones run in a thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anyio.to_thread
from llama_index.core.callbacks import CallbackManager
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode

import ragcore
from ragcore import blocking
from ragcore.types import Passage

__all__ = ["RagcoreRetriever"]


class RagcoreRetriever(BaseRetriever):
    """A tenant's documents as a retriever of LlamaIndex.

    Each passage is a `TextNode` whose id is the chunk's and whose source is the document's. Its metadata has the passage's metadata, and `title` and
    `source` if they are not empty. The score is the cosine similarity; None for a passage that only text search found.

    Args:
        view: one tenant of a client.
        top_k: largest number of nodes; None: the client's `top_k`.
        options: further options of `retrieve`, such as `filter`, `score_threshold`, `diversity` and `timeout`.
        callback_manager: LlamaIndex's callbacks.

    Examples:
        ```python
        retriever = RagcoreRetriever(rag.for_tenant("acme"), top_k=5)
        nodes = await retriever.aretrieve("What is my deductible?")
        ```
    """

    def __init__(
        self,
        view: ragcore.TenantView | blocking.TenantView,
        /,
        *,
        top_k: int | None = None,
        options: Mapping[str, Any] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        super().__init__(callback_manager=callback_manager)
        self._view = view
        self._options: dict[str, Any] = {"top_k": None, **(options or {})}
        if top_k is not None:
            self._options["top_k"] = top_k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        view = self._view
        if not isinstance(view, blocking.TenantView):
            raise ragcore.Unsupported(
                "this view is of ragcore.RAG, which has no methods without await: use aretrieve, or a view of ragcore.blocking.RAG"
            )
        return [_node(passage) for passage in view.retrieve(query_bundle.query_str, **self._options).passages]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        view = self._view
        if isinstance(view, blocking.TenantView):
            # The call ends by its own deadline, so the thread never stays.
            return await anyio.to_thread.run_sync(self._retrieve, query_bundle)
        found = await view.retrieve(query_bundle.query_str, **self._options)
        return [_node(passage) for passage in found.passages]


def _node(passage: Passage) -> NodeWithScore:
    facts = {"title": passage.title, "source": passage.source}
    node = TextNode(
        id_=passage.chunk_id,
        text=passage.text,
        metadata={**{name: value for name, value in facts.items() if value}, **passage.metadata},
        start_char_idx=passage.start,
        end_char_idx=passage.end,
        relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=passage.document_id)},
    )
    return NodeWithScore(node=node, score=passage.score)
