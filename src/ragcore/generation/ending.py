"""How an answer ended: by itself, or cut off."""

from __future__ import annotations

from ragcore.types import Generation

__all__ = ["is_complete", "says_nothing"]

# How answers end that came to their own end. All other words for it say that something cut them off.
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
    """Whether a finish reason says that the answer came to its own end."""
    return finish_reason.lower() in COMPLETE


def says_nothing(generation: Generation) -> bool:
    """Whether it has no text because something cut it off, rather than because the passages don't answer the question."""
    return not generation.text.strip() and not (generation.complete and is_complete(generation.finish_reason))
