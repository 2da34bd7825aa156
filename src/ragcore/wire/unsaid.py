"""Hides keys and quotations of the request in servers' messages.

A server's message explains its error, so ragcore's messages and logs repeat it. But the message may quote the request: a filter quotes the sentence that it
refused, and a parser quotes the text that it could not read. So words of the message that are also in the request's texts are removed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from ragcore.text.words import UNSPACED, content_words

__all__ = ["NOTHING", "Unsaid"]

MOST_SAID = 300
KEYS = re.compile(
    # Prefixes of providers' keys, values after words such as "Bearer", and a login in a URL.
    r"\b(?:(?:sk|pk|rk|gsk|xai|pplx|nvapi|hf|r8|fw|tgp|csk|pa|jina)[-_]|AIza|eyJ)[-_A-Za-z0-9.*•…]{6,}"
    r"|(?i:\b(?:bearer|basic|token|api[-_ ]?key(?: provided)?|x-api-key|authorization|password|secret))(?:\s*[:=]\s*|\s+)[\"'`]?"
    r"(?=[^\s\"'`]*[\d*•])[^\s\"'`,;]{6,}[\"'`]?"
    r"|(?<=://)[^/\s@]+@"
)
HIDDEN = "[hidden]"
QUOTED = "[quoted]"
# The fields of a request that hold texts of users or documents.
TEXTS = ("content", "text", "input", "prompt", "query", "documents", "texts")
# In an escaped line end such as "\n", the "n" is not the beginning of a word.
WORD = re.compile(rf"\\[nrt]|([{UNSPACED}]|[^\W{UNSPACED}]+)")
QUOTES = "\"'`“”‘’«»„"
# If two content words have the same order as in the request, they are a quotation and not chance. In scripts without blanks, four characters are enough.
FEWEST_WORDS, FEWEST_SIGNS = 2, 4


class Unsaid:
    """Hides secrets and quotations in messages about one request.

    Args:
        secrets: keys and logins.
        body: the request's body, as JSON.
    """

    __slots__ = ("_body", "_secrets", "_texts")

    def __init__(self, secrets: Iterable[str] = (), body: bytes = b"") -> None:
        # The key "none" means that there is no key.
        self._secrets = tuple(secret for secret in secrets if len(secret) > len("none"))
        self._body = body
        self._texts: str | None = None

    def __repr__(self) -> str:
        return "Unsaid(…)"

    def without_secrets(self, text: str) -> str:
        """Return the text on one line, with "[hidden]" in place of keys."""
        text = " ".join(text[: 8 * MOST_SAID].split())
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return KEYS.sub(HIDDEN, text)

    def hide(self, text: str) -> str:
        """Return the text on one line of at most 300 characters, with "[hidden]" in place of keys and "[quoted]" in place of the request's words."""
        text = self._without_quotations(self.without_secrets(text))
        return text if len(text) <= MOST_SAID else f"{text[: MOST_SAID - 1]}…"

    def _without_quotations(self, text: str) -> str:
        if self._texts is None:
            self._texts = _flat("\n".join(_texts_of(self._body)))
        if not self._texts:
            return text
        words = [word for word in WORD.finditer(text) if word[1]]
        parts, end, number = [], 0, 0
        while number < len(words):
            first = last = number
            while last < len(words) and _flat(text[words[first].start() : words[last].end()]) in self._texts:
                last += 1
            if last == first or not _is_quotation(text, words[first:last]):
                number += 1
                continue
            parts += [text[end : words[first].start()], QUOTED]
            end, number = words[last - 1].end(), last
        return "".join([*parts, text[end:]])


NOTHING = Unsaid()


def _texts_of(body: bytes) -> Iterator[str]:
    """Yield the texts of users and documents in a request."""
    try:
        left: list[Any] = [json.loads(body)] if body else []
    except (ValueError, RecursionError):
        return
    while left:
        one = left.pop()
        if isinstance(one, dict):
            for name, value in one.items():
                if name in TEXTS and isinstance(value, str):
                    yield value
                elif name in TEXTS and isinstance(value, list):
                    yield from (item for item in value if isinstance(item, str))
                    left += [item for item in value if not isinstance(item, str)]
                elif isinstance(value, dict | list):
                    left.append(value)
        elif isinstance(one, list):
            left += one


def _flat(text: str) -> str:
    """Return the words in lower case with one blank between them. Punctuation, line ends and escapes are removed."""
    return f" {' '.join(filter(None, WORD.findall(text.casefold())))} "


def _is_quotation(text: str, words: list[re.Match[str]]) -> bool:
    """Return whether words that are also in the request are a quotation, and not only common words."""
    said = text[words[0].start() : words[-1].end()]
    if sum(len(word[0]) == 1 and re.match(f"[{UNSPACED}]", word[0]) is not None for word in words) >= FEWEST_SIGNS:
        return True
    if sum(map(str.isdigit, said)) >= 2 and not said.isdigit():
        return True
    meaning = [word for word in content_words(said) if len(word) > 1]
    if len(meaning) >= FEWEST_WORDS:
        return True
    before, after = text[: words[0].start()].rstrip()[-1:], text[words[-1].end() :].lstrip()[:1]
    return bool(meaning) and before != "" and before in QUOTES and after != "" and after in QUOTES
