"""Counting tokens without ever blocking the event loop, and without a network.

tiktoken fetches its ranks at first use: blocking, without a deadline, under a global lock. So they load in one daemon thread; until they
are there, and where they can't be had, tokens are estimated. `TIKTOKEN_CACHE_DIR` (tiktoken's own variable) makes it work offline.
"""

from __future__ import annotations

import logging
import math
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiktoken import Encoding

__all__ = ["TokenCounter", "estimate_tokens"]

logger: logging.Logger = logging.getLogger("ragcore.tokens")

# Byte-pair encodings need 3.5 to 4.5 bytes a token for English: the low end, so that a budget holds.
BYTES_PER_TOKEN = 3.5
# tiktoken takes quadratic time on long runs without a space; pieces bound it and cost at most a token each.
PIECE = 4_000

_lock = threading.Lock()
_warned = False


def estimate_tokens(text: str, /) -> int:
    """Tokens of `text`, roughly and quickly: UTF-8 bytes / 3.5, rounded up; 0 for "".

    Example:
        >>> estimate_tokens("What is my warranty?")
        6
    """
    return math.ceil(len(text.encode(errors="replace")) / BYTES_PER_TOKEN)


class TokenCounter:
    """Counts the tokens of an OpenAI model exactly as soon as tiktoken's ranks are loaded, and estimates until then.

    Args:
        model: the model's name; one that tiktoken doesn't know is always estimated.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._encoding: Encoding | None = None
        self._loading = threading.Thread(target=self._load, name="ragcore-tokens", daemon=True)
        self._loading.start()

    @property
    def exact(self) -> bool:
        """Whether counts are exact by now."""
        return self._encoding is not None

    @property
    def loading(self) -> bool:
        """Whether counts may still become exact."""
        return self._loading.is_alive()

    def wait(self, seconds: float) -> bool:
        """Block until the ranks are loaded or can't be, at most `seconds`: for scripts and checks, not for the event loop."""
        self._loading.join(seconds)
        return self.exact

    def count(self, text: str, /) -> int:
        """Tokens of `text`; special tokens in it are counted as plain text."""
        encoding = self._encoding
        if encoding is None:
            return estimate_tokens(text)
        return sum(len(encoding.encode_ordinary(text[at : at + PIECE])) for at in range(0, len(text), PIECE))

    def _load(self) -> None:
        try:
            import tiktoken

            self._encoding = tiktoken.encoding_for_model(self.model)
        except KeyError:
            logger.debug("tiktoken doesn't know %r: its tokens are estimated", self.model)
        except Exception as error:
            _warn_once(self.model, error)


def _warn_once(model: str, error: Exception) -> None:
    """A client has a counter for each of its models, and one warning says it for all of them."""
    global _warned
    with _lock:
        warned, _warned = _warned, True
    logger.log(
        logging.DEBUG if warned else logging.WARNING,
        "tiktoken could not load its ranks for %r (%s), so token counts are estimates. To count exactly, set TIKTOKEN_CACHE_DIR "
        'to a folder with the ranks: see "Token counts are estimates" in the troubleshooting page',
        model,
        type(error).__name__,
    )
