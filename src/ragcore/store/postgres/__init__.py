"""PostgreSQL with pgvector as a store."""

from ragcore.store.postgres.schema import Inspection, inspect, migrate
from ragcore.store.postgres.store import PgVectorStore

__all__ = ["Inspection", "PgVectorStore", "inspect", "migrate"]
