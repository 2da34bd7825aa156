"""The tokens that a call has used, if the model did not report them or failed."""

from __future__ import annotations

import math

from ragcore.errors import GenerationError
from ragcore.generation.prompt import render
from ragcore.text.tokens import estimate_tokens
from ragcore.types import Prompt, Usage

__all__ = ["CHARACTERS_A_TOKEN", "estimate", "spent_by"]

# Used to estimate the tokens of models that don't report them.
CHARACTERS_A_TOKEN = 4


def estimate(prompt: Prompt | None, written: int) -> Usage:
    """Return an estimate of the use of a model.

    Args:
        prompt: None: the model got none.
        written: the number of characters that the model has written.
    """
    texts = () if prompt is None else (message["content"] for message in render(prompt))
    return Usage(
        prompt_tokens=sum(map(estimate_tokens, texts)),
        completion_tokens=math.ceil(written / CHARACTERS_A_TOKEN),
    )


def spent_by(error: BaseException) -> tuple[tuple[str, Usage], ...]:
    """Return (model, usage) for a model that failed and reported its use; () otherwise."""
    if not isinstance(error, GenerationError) or error.used_tokens is None:
        return ()
    return ((error.model, Usage(prompt_tokens=error.used_tokens[0], completion_tokens=error.used_tokens[1])),)
