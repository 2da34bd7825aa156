"""Counts tokens without blocking the event loop, and without a network.

tiktoken downloads its ranks (its table of tokens) at first use. The download holds a global lock and has no deadline, so one daemon thread does it. Until the
ranks are loaded, or if they are not available, tokens are estimated. To load them offline, set `TIKTOKEN_CACHE_DIR` (tiktoken's own variable).
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

# Byte-pair encodings use 3.5 to 4.5 bytes per token for English. The lower number is used, because an estimate should rather be too high than too low.
BYTES_PER_TOKEN = 3.5
# tiktoken takes quadratic time on long runs without a space. So texts are counted in pieces, and each piece adds at most one token.
PIECE = 4_000

_lock = threading.Lock()
_warned = False


def estimate_tokens(text: str, /) -> int:
    """Estimate the number of tokens of `text`: UTF-8 bytes / 3.5, rounded up; 0 for "".

    Examples:
        >>> estimate_tokens("What is my warranty?")
        6
    """
    return math.ceil(len(text.encode(errors="replace")) / BYTES_PER_TOKEN)


class TokenCounter:
    """Counts the tokens of an OpenAI model. Counts are estimates until tiktoken's ranks are loaded, and exact from then on.

    Args:
        model: the model's name. For a model that tiktoken doesn't know, tokens are always estimated.
    """

    def __init__(self, model: str) -> None:
        self.model = model
        self._encoding: Encoding | None = None
        self._loading = threading.Thread(target=self._load, name="ragcore-tokens", daemon=True)
        self._loading.start()

    @property
    def exact(self) -> bool:
        """Whether counts are exact."""
        return self._encoding is not None

    @property
    def loading(self) -> bool:
        """Whether counts may still become exact."""
        return self._loading.is_alive()

    def wait(self, seconds: float) -> bool:
        """Block until loading has ended, at most `seconds`; return whether counts are exact. Don't call this on the event loop."""
        self._loading.join(seconds)
        return self.exact

    def count(self, text: str, /) -> int:
        """Return the number of tokens of `text`. Special tokens in it count as plain text."""
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
    """Log a warning the first time, and a debug line later. A client has a counter for each model, and one warning is enough."""
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
