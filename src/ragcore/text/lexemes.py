"""Splits a text into the words that PostgreSQL's full-text search would store. With them, a search in memory ranks as the database does."""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Any, Final, Literal, TypeAlias

import snowballstemmer  # type: ignore[import-untyped]  # here and not at the first use, which would block the event loop

from ragcore.text.words import UNSPACED, pairs

__all__ = ["Language", "lexemes"]

Language: TypeAlias = Literal["english", "simple"]

# PostgreSQL's list english.stop.
STOP_WORDS: Final = frozenset(
    """
    i me my myself we our ours ourselves you your yours yourself yourselves he him his himself she her hers herself it its itself they them their
    theirs themselves what which who whom this that these those am is are was were be been being have has had having do does did doing a an the
    and but if or because as until while of at by for with about against between into through during before after above below to from up down
    in out on off over under again further then once here there when where why how all any both each few more most other some such no nor not
    only own same so than too very s t can will just don should now
    """.split()
)
# PostgreSQL treats none of these characters as a letter or a digit.
_SEPARATORS: Final = re.compile("[_¹²³¼½¾]")
# The kinds of words of PostgreSQL's parser that occur in ordinary text. Earlier kinds take precedence. A hyphenated word counts as a whole and by its
# parts; each part has a letter, so that "covid-19" is a word and a negative number.
_WORD: Final = re.compile(
    r"""
      (?P<address> \w[\w.+-]*@\w[\w-]*(?:\.\w[\w-]*)+ )
    | (?P<path> (?:\b\w+)?(?:/\w+)+ )
    | (?P<host> \b[^\W\d]\w*(?:-\w+)*(?:\.\w+(?:-\w+)*)+ )
    | (?P<number> (?:(?<!\w)[+-]|(?<=\w)-)?\b(?:\d+(?:\.\d+)+|\d+\b) )
    | (?P<hyphenated> \b\w*[^\W\d]\w*(?:-\w*[^\W\d]\w*)+ )
    | (?P<word> \w+ )
    """,
    re.VERBOSE,
)
# PostgreSQL's Snowball does not shorten the "dd" of "added"; the package does.
_KEPT_DOUBLE: Final = {"ad": "add", "eg": "egg"}
_STEMMER: Final[Any] = snowballstemmer.stemmer("english")
_RUN: Final = re.compile(f"[{UNSPACED}]+")


def lexemes(text: str, /, *, language: Language = "english") -> Counter[str]:
    """Return how often each word of a text occurs: in lower case, and with "english" without stop words and reduced to stems.

    The result equals that of the schema's function `lexemes` for ordinary text. Words that look like URLs, XML tags or entities may differ.

    Source: PostgreSQL's manual, section 12.5, "Parsers". M. F. Porter, "Snowball: a language for stemming algorithms" (2001), English (Porter2).

    Examples:
        >>> sorted(lexemes("The well-known prices, and 3 cities").items())
        [('3', 1), ('citi', 1), ('known', 1), ('price', 1), ('well', 1), ('well-known', 1)]
    """
    folded = _SEPARATORS.sub(" ", text.lower())
    runs = _RUN.findall(folded)
    if runs:
        folded = _RUN.sub(" ", folded)
    found: Counter[str] = Counter()
    for match in _WORD.finditer(folded):
        word = match[0]
        kind = match.lastgroup
        if kind == "hyphenated":
            for part in (word, *word.split("-")):
                _count(found, part, language)
        elif kind == "word":
            _count(found, word, language)
        else:
            found[word] += 1
    for run in runs:
        found.update(pairs(run))
    return found


def _count(found: Counter[str], word: str, language: Language) -> None:
    if language == "english" and not any(map(str.isdigit, word)):
        if word in STOP_WORDS:
            return
        word = _stem(word)
    found[word] += 1


@lru_cache(maxsize=50_000)
def _stem(word: str) -> str:
    stem: str = _STEMMER.stemWord(word)
    return _KEPT_DOUBLE.get(stem, stem) if word.startswith(("add", "egg")) else stem
