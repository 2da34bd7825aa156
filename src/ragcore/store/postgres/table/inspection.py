"""The state of an existing table, as a `TableStore` sees it."""

from __future__ import annotations

from dataclasses import dataclass

from ragcore.protocols import Embedder
from ragcore.store.postgres.finding import Finding
from ragcore.store.postgres.table.catalogue import VectorIndex
from ragcore.store.postgres.table.written import WrittenColumn
from ragcore.store.table import Column
from ragcore.value import Value

__all__ = ["TableInspection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableInspection(Value):
    """The state of an existing table, as a `TableStore` sees it.

    Attributes:
        address: host, port and database.
        relation: schema and name of the table.
        role: role that runs the searches.
        server_version, pgvector: versions of PostgreSQL and of pgvector.
        encrypted, verified, local: as in the inspection of a collection.
        in_recovery: whether the server is a standby.
        isolation: the isolation of tenants, "rls" or "where", as in `Table`.
        rls_applies: whether row-level security of the table applies to the role.
        vector_type, dimension: type of the vectors and their dimension; the dimension is None if the column has none.
        tenant_type, id_type, document_type: types of these columns. Without a column for the document, its type is that of the id.
        index: the index that serves the searches; None if there is none.
        nullable: which of "id" and "document" may be null. A chunk without an id is left out; a chunk without a document is a document itself.
        unchecked_json: columns of type json that may have values that PostgreSQL can't read, such as a NUL character. Statements leave such values out.
        indexes_words: whether an index contains the words of each text. If not, text search reads the first 50,000 characters of a chunk.
        parent_key_type: type of the parent's column that joins both tables; None without a parent.
        written: the columns that the store writes; () if it only reads.
        about_chunks: PostgreSQL's estimate of the number of chunks; None before the first ANALYZE.
        problems: the errors and warnings that the comparison found.
        notes: options of the DSN that the driver does not support, and settings that make searches slow.
    """

    address: str
    relation: str
    role: str
    server_version: str
    pgvector: str | None
    encrypted: bool = False
    verified: bool = False
    local: bool = False
    in_recovery: bool = False
    isolation: str
    rls_applies: bool
    vector_type: str | None
    dimension: int | None
    tenant_type: str | None
    id_type: str | None
    document_type: str | None
    index: VectorIndex | None
    nullable: tuple[str, ...] = ()
    unchecked_json: tuple[Column, ...] = ()
    indexes_words: bool = False
    parent_key_type: str | None = None
    written: tuple[WrittenColumn, ...] = ()
    about_chunks: int | None
    problems: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether the mapping fits, so that searches work."""
        return not any(finding.severity == "error" for finding in self.problems)

    @property
    def unsafe(self) -> tuple[str, ...]:
        """Reasons why one tenant could see another tenant's rows if a statement were wrong; () if row-level security isolates them."""
        if self.rls_applies and self.isolation == "rls":
            return ()
        message = (
            f"tenants of {self.relation} are isolated by the WHERE clause alone: enable row-level security with a policy on the tenant's column, "
            "and set isolation to 'rls'"
        )
        return (message,)

    def findings(self, embedder: Embedder | None = None) -> list[Finding]:
        """Return all problems; [] if there are none."""
        return [*self.problems, *self.misfits(embedder), *(Finding("warning", note) for note in self.notes)]

    def misfits(self, embedder: Embedder | None) -> list[Finding]:
        """Return the problem if the vectors of the table have another dimension than the embedder's; [] if not."""
        if embedder is None or self.dimension is None or embedder.dimension == self.dimension:
            return []
        return [
            Finding(
                "error",
                f"the vectors of {self.relation} have {self.dimension} dimensions, and the embedder {embedder.model} has {embedder.dimension}: "
                "use the model that made the vectors",
            )
        ]
