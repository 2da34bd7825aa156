"""Stores, which keep chunks and search them: in memory, or in PostgreSQL with pgvector. `TableStore` searches a table that is already there.

`store.embedded` runs its own PostgreSQL server, so you need not install one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ragcore.store.memory import MemoryStore as MemoryStore
    from ragcore.store.postgres import Explanation as Explanation
    from ragcore.store.postgres import Index as Index
    from ragcore.store.postgres import IndexBuild as IndexBuild
    from ragcore.store.postgres import IndexProgress as IndexProgress
    from ragcore.store.postgres import PgVectorStore as PgVectorStore
    from ragcore.store.postgres import Recall as Recall
    from ragcore.store.postgres import Reembedding as Reembedding
    from ragcore.store.postgres import build_index as build_index
    from ragcore.store.postgres import copy_collection as copy_collection
    from ragcore.store.postgres import migrate as migrate
    from ragcore.store.postgres import reembed as reembed
    from ragcore.store.postgres import share as share
    from ragcore.store.postgres import unshare as unshare
    from ragcore.store.postgres.table import TableStore as TableStore
    from ragcore.store.table import Table as Table
    from ragcore.store.table import claim as claim
else:
    _HOME = {
        "Explanation": "postgres",
        "Index": "postgres",
        "IndexBuild": "postgres",
        "IndexProgress": "postgres",
        "MemoryStore": "memory",
        "PgVectorStore": "postgres",
        "Recall": "postgres",
        "Reembedding": "postgres",
        "Table": "table",
        "TableStore": "postgres.table",
        "build_index": "postgres",
        "claim": "table",
        "copy_collection": "postgres",
        "migrate": "postgres",
        "reembed": "postgres",
        "share": "postgres",
        "unshare": "postgres",
    }

    def __getattr__(name: str) -> object:
        import importlib

        if name == "embedded":
            return importlib.import_module("ragcore.store.embedded")
        if name in _HOME:
            return getattr(importlib.import_module(f"ragcore.store.{_HOME[name]}"), name)
        raise AttributeError(f"module 'ragcore.store' has no attribute {name!r}")


__all__ = [
    "Explanation",
    "Index",
    "IndexBuild",
    "IndexProgress",
    "MemoryStore",
    "PgVectorStore",
    "Recall",
    "Reembedding",
    "Table",
    "TableStore",
    "build_index",
    "claim",
    "copy_collection",
    "migrate",
    "reembed",
    "share",
    "unshare",
]
