"""PostgreSQL with pgvector as a store."""

from ragcore.store.postgres.finding import Finding
from ragcore.store.postgres.inspection import Inspection, inspect
from ragcore.store.postgres.reembedding import Reembedding, reembed
from ragcore.store.postgres.schema import migrate
from ragcore.store.postgres.sharing import share, unshare
from ragcore.store.postgres.store import PgVectorStore

__all__ = ["Finding", "Inspection", "PgVectorStore", "Reembedding", "inspect", "migrate", "reembed", "share", "unshare"]
