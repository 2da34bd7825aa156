"""The recommendation of `ragcore doctor` about the index."""

from __future__ import annotations

from typing import Any

import pytest

from ragcore.cli.recommending import recommendation
from ragcore.store import Index, Recall
from ragcore.store.postgres import Inspection

FOUND: dict[str, Any] = {
    "address": "db/x", "role": "app", "superuser": False, "bypasses_rls": False, "owns_tables": False, "forces_rls": True, "server_version": "18.0",
    "pgvector": "0.8.1", "has_schema": True, "has_index": True, "dimension": 1_536, "model": "m", "about_chunks": 100_000,
    "index": Index(kind="vector"), "index_bytes": 800_000_000, "shared_buffers": 4 * 2**30, "maintenance_work_mem": 2**31,
}  # fmt: skip
MEASURED: dict[str, Any] = {
    "recall": 0.99, "top_k": 10, "samples": 20, "exact": 5, "indexed_recall": 0.99, "by_tenant": {}, "index_ms": 2.0, "exact_ms": 80.0, "complete": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("found", "measured", "ef_search", "status", "message"),
    [
        ({}, {}, 100, "ok", "recall@10 0.990 in 15 searches, 2.0 ms instead of 80.0 ms"),
        ({}, {"indexed_recall": 0.9}, 100, "warning", "set RAGCORE_EF_SEARCH=200"),
        ({}, {"indexed_recall": 0.9}, 1_000, "warning", "run `ragcore --schema ragcore index --m 32 --ef-construction 128`"),
        ({"shared_buffers": 2**27}, {}, 100, "warning", "run `ragcore --schema ragcore index --kind halfvec`"),
        ({"shared_buffers": 2**27, "index": Index(kind="halfvec")}, {}, 100, "warning", "index --kind binary`"),
        ({"shared_buffers": 2**27, "index": Index(kind="binary")}, {}, 100, "ok", "recall@10 0.990"),
        ({"maintenance_work_mem": 2**26}, {}, 100, "ok", "index --memory 1GB`"),
        ({"has_index": False, "index_bytes": None}, {}, 100, "warning", "no index; recall@10 0.990 in 15 searches, 2.0 ms instead of 80.0 ms: as the owner"),
        (
            {"has_index": False, "index_bytes": None, "index": Index(kind="none")},
            {"indexed_recall": None, "exact_ms": None},
            100,
            "warning",
            "run `ragcore --schema ragcore index --kind halfvec` as the owner",
        ),
        ({"about_chunks": 100}, {"indexed_recall": None, "exact_ms": None}, 100, "ok", "all 20 searches that were tried are exact"),
        ({"about_chunks": None}, {"recall": None, "indexed_recall": None}, 100, "ok", "no chunk to measure its recall with"),
    ],
)  # fmt: skip
def test_each_number_has_its_recommendation(
    found: dict[str, Any], measured: dict[str, Any], ef_search: int, status: str, message: str
) -> None:
    said = recommendation(Inspection(**{**FOUND, **found}), Recall(**{**MEASURED, **measured}), ef_search=ef_search)
    assert said[0] == status
    assert message in said[1]
