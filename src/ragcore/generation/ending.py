"""Distinguishes complete answers from answers that were cut off."""

from __future__ import annotations

from ragcore.types import Generation

__all__ = ["is_complete", "says_nothing"]

# Finish reasons of complete answers; all others mean that something cut the answer off.
COMPLETE = frozenset(
    {
        "",
        "stop",
        "end_turn",
        "stop_sequence",
        "eos",
        "eos_token",
        "eot",
        "complete",
        "completed",
        "done",
        "finish",
        "finished",
    }
)


def is_complete(finish_reason: str) -> bool:
    """Whether a finish reason means that the answer is complete."""
    return finish_reason.lower() in COMPLETE


def says_nothing(generation: Generation) -> bool:
    """Whether the generation is empty because it was cut off, not because the passages lack the answer."""
    return not generation.text.strip() and not (generation.complete and is_complete(generation.finish_reason))
