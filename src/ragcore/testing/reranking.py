"""The answers of the test server to `/rerank`, and how it corrupts them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ragcore.testing.fakes import word_overlap
from ragcore.text.tokens import estimate_tokens

__all__ = ["corrupt_results", "reranking"]


def reranking(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answer to a request: the share of common words of each text, the best first."""
    scores = [word_overlap(asked["query"], text) for text in asked["documents"]]
    order = sorted(range(len(scores)), key=lambda number: -scores[number])
    return {
        "model": asked.get("model", ""),
        "results": [{"index": number, "relevance_score": scores[number]} for number in order],
        "usage": {"total_tokens": sum(estimate_tokens(asked["query"] + text) for text in asked["documents"])},
    }


def corrupt_results(results: list[dict[str, Any]], what: str) -> None:
    """Make the results of a reranking invalid."""
    match what:
        case "count":
            results.pop()
        case "dimension":
            results[0]["index"] = len(results)
        case "nan":
            results[0]["relevance_score"] = math.nan
        case "zero":
            results[0]["index"] = results[-1]["index"]
        case "base64":
            results[0]["relevance_score"] = "high"
