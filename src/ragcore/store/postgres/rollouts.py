"""The rollouts that processes share: a table with one row for each rollout."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from ragcore.protocols import RolloutRecord
from ragcore.store.postgres.collection import Collection
from ragcore.types import RolloutState

__all__ = ["Rollouts"]

# Largest number of processes whose evidence a row holds for one version. The evidence of further processes is not stored, so that the size of a row is limited.
MOST_LEDGERS = 256


class Rollouts:
    """Reads and changes the table of rollouts.

    Invariant: each change of a row's state has the next version. So of two processes that change the same version, one succeeds.

    Args:
        collection: the collection with the table.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    async def all(self) -> Sequence[RolloutRecord]:
        """Return all rollouts, in the order of their names."""
        return [_record(row) for row in await self._collection.fetch("rollouts", stage="rollout")]

    async def report(
        self, begun: RolloutState, *, ledger: str, version: int, evidence: Mapping[str, Any]
    ) -> RolloutRecord:
        """Record the evidence of a process, and return the stored rollout."""
        rows = await self._collection.fetch(
            "report_rollout",
            begun.name,
            begun.share,
            list(begun.steps),
            ledger,
            version,
            json.dumps(evidence),
            MOST_LEDGERS,
            stage="rollout",
        )
        return _record(rows[0])

    async def change(self, changed: RolloutState, *, evidence: Mapping[str, Mapping[str, Any]]) -> bool:
        """Change the state of a rollout. Return False if its version is not the one before `changed.version`, except if the change is already made."""
        rows = await self._collection.fetch(
            "change_rollout",
            changed.name,
            changed.status,
            changed.share,
            changed.reason,
            changed.version,
            json.dumps(evidence),
            stage="rollout",
        )
        return bool(rows)


def _record(row: asyncpg.Record) -> RolloutRecord:
    state = RolloutState(
        name=row["name"],
        status=row["status"],
        share=row["share"],
        steps=tuple(row["steps"]),
        reason=row["reason"],
        version=row["version"],
        changed_at=row["changed_at"],
    )
    return RolloutRecord(state, json.loads(row["evidence"]))
