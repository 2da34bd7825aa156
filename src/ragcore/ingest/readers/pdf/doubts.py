"""Checks whether the text of a page is plausible."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

__all__ = ["EMPTY", "doubt", "doubts"]

EMPTY = "no text; the page may be an image"
GLYPH_NAMES = re.compile(r"(?:/[A-Za-z]{1,3}\d{1,4}|\(cid:\d+\))")
WORDS_WITHOUT_SPACES = re.compile(r"[A-Za-z]{25,}")
LETTERS_APART = re.compile(r"(?<!\S)(?:[A-Za-z] ){7,}")
# A page may show the alphabet itself. That does not count as text without spaces.
ALPHABET = re.compile(r"abcdefgh|ABCDEFGH")
# Good text may contain any number of these signs with spaces around them: cell marks, leaders, bullets, dashes, boxes.
ALONE = re.compile(r"[|.…·•\-–—_*✓✔✗✘☐☑☒■□▪●○→]+")


def doubts(pages: Mapping[int, str]) -> tuple[str, ...]:
    """Return the warnings for doubtful pages, one for each kind of doubt. `pages` counts pages from 0; the warnings count them from 1."""
    kinds: dict[str, list[int]] = {}
    for number, kind in sorted(pages.items()):
        kinds.setdefault(kind, []).append(number + 1)
    return tuple(f"{kind} (page {_ranges(numbers)})" for kind, numbers in kinds.items())


def doubt(text: str) -> str:
    """Return the reason why a page's text is not plausible; "" if it is plausible."""
    plain = text.strip()
    if not plain:
        return EMPTY
    if len(GLYPH_NAMES.findall(plain)) * 4 > len(plain) / 4:
        return "names of glyphs instead of letters"
    words = [word for word in plain.split() if not ALONE.fullmatch(word)]
    signs = [word for word in words if not any(char.isalnum() for char in word)]
    letters = sum(char.isalpha() for char in plain)
    private = sum("\ue000" <= char <= "\uf8ff" for char in plain)
    if (
        plain.count("\ufffd") > 0.05 * len(plain)
        or private > 0.3 * len(plain)
        or (len(plain) > 200 and len(signs) > 0.4 * len(words))
    ):
        return "few readable letters"
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    if len(lines) > 20 and sum(len(line) == 1 and line.isalpha() for line in lines) > 0.6 * len(lines):
        return "one letter a line"
    if sum(map(len, LETTERS_APART.findall(plain))) > 0.5 * len(plain):
        return "blanks between all letters"
    latin = [word for word in WORDS_WITHOUT_SPACES.findall(plain) if not ALPHABET.search(word) and len(set(word)) > 5]
    if sum(map(len, latin)) > 0.5 * max(1, letters):
        return "words without spaces between them"
    return ""


def _ranges(pages: Sequence[int]) -> str:
    shown = ", ".join(map(str, pages[:10]))
    return f"{shown} and {len(pages) - 10} more" if len(pages) > 10 else shown
