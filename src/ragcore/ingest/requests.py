"""Splits texts into requests that a rate limiter can count."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from ragcore.resilience import RateLimiter

__all__ = ["requests"]

# An embedder may split a larger batch into several requests, which the limiter would not see.
MOST_TOKENS = 100_000


def requests(
    texts: Sequence[str], rate_limiter: RateLimiter | None, count_tokens: Callable[[str], int], *, most: int
) -> Iterator[tuple[Sequence[str], int]]:
    """Yield the texts of each request and the number of their tokens, which is 0 without a limiter.

    Args:
        texts: the texts to embed.
        rate_limiter: a request has at most as many tokens as may pass at once, unless a single text has more. None: only `most` limits a request.
        count_tokens: counts the tokens of a text.
        most: the largest number of texts.
    """
    if rate_limiter is None:
        for start in range(0, len(texts), most):
            yield texts[start : start + most], 0
        return
    room = min(MOST_TOKENS, rate_limiter.most_tokens)
    start = tokens = 0
    for number, text in enumerate(texts):
        length = count_tokens(text)
        if number > start and (number - start == most or tokens + length > room):
            yield texts[start:number], tokens
            start, tokens = number, 0
        tokens += length
    if start < len(texts):
        yield texts[start:], tokens
