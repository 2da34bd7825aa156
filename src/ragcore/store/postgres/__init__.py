"""PostgreSQL with pgvector as a store."""

from ragcore.store.postgres.explanation import Explanation
from ragcore.store.postgres.finding import Finding
from ragcore.store.postgres.index import Index
from ragcore.store.postgres.indexing import IndexBuild, IndexProgress, build_index
from ragcore.store.postgres.inspection import Inspection, inspect
from ragcore.store.postgres.recall import Recall
from ragcore.store.postgres.reembedding import Reembedding, copy_collection, reembed
from ragcore.store.postgres.schema import migrate
from ragcore.store.postgres.sharing import share, unshare
from ragcore.store.postgres.store import PgVectorStore

__all__ = [
    "Explanation",
    "Finding",
    "Index",
    "IndexBuild",
    "IndexProgress",
    "Inspection",
    "PgVectorStore",
    "Recall",
    "Reembedding",
    "build_index",
    "copy_collection",
    "inspect",
    "migrate",
    "reembed",
    "share",
    "unshare",
]
