"""Search an existing table, without a migration."""

from ragcore.store.postgres.table.catalogue import VectorIndex
from ragcore.store.postgres.table.inspection import TableInspection
from ragcore.store.postgres.table.proposal import Proposal, propose
from ragcore.store.postgres.table.store import TableStore

__all__ = ["Proposal", "TableInspection", "TableStore", "VectorIndex", "propose"]
