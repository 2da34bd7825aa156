"""Words and sentences of a text, for searching and quoting without a model. Scripts without blanks are split into pairs of characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final

__all__ = ["UNSPACED", "after_blanks", "content_words", "grapheme_ends", "is_unspaced", "sentences"]

WORD: Final = re.compile(r"[^\W_]+(?:[.,]\d+)*", re.UNICODE)

# Scripts without blanks between words, and Korean, whose endings are attached to words: Thai, Lao, Burmese, Khmer, kana, CJK ideographs, Hangul.
# The PostgreSQL schema uses the same ranges.
UNSPACED: Final = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
)
_RUN: Final = re.compile(f"[{UNSPACED}]+")

STOP_WORDS: Final = frozenset(
    """
    a about above after again against all also am an and any are as at be because been before being below between both but by can could
    did do does doing down during each few for from further get give had has have having he her here hers him his how i if in into is it
    its itself just let like many may me might more most much must my myself no nor not now of off on once only or other our ours out
    over own please same shall she should so some such tell than that the their theirs them then there these they this those through to
    too under until up us very was we were what when where which while who whom whose why will with would you your yours
    """.split()
)

# After "how", these words ask for a number. The answer does not contain them: "How long is the warranty?", "two years".
_HOW: Final = re.compile(r"\bhow (?:long|often|soon|far|old)\b")

# A full stop after one of these does not end a sentence.
ABBREVIATIONS: Final = frozenset(
    """dr mr mrs ms prof sr jr st vs etc e.g i.e cf approx no vol fig inc ltd co corp dept est u.s a.m p.m sec art para pp pt ch ed eds nos max min
    nr abs bzw ca ggf inkl exkl mind usw vgl z.b d.h u.a o.ä str tel ziff buchst evtl zzgl num núm pág sra av env ex""".split()
)

# Marks that end a sentence even if no blank follows: CJK, Arabic and Urdu, Devanagari, Ethiopic, Burmese, Khmer, Tibetan, Armenian.
# Source: Unicode Character Database, property Sentence_Terminal.
TERMINALS: Final = "。！？｡؟۔।॥።፧፨။៕។།༎։"
# Each alternative matches only from the start of a run and never backtracks. Otherwise long runs would take quadratic time.
_END: Final = re.compile(
    rf"""(?<![.!?…])[.!?…]++["'”’)\]]*+(?=\s)"""
    rf"""|(?<![!?])[!?]++(?=[{UNSPACED}])"""
    rf"""|[{TERMINALS}]++[」』”’）»)\]"']*+"""
    # Thai and Lao have no such mark: a blank between two of their letters ends a sentence or a clause.
    r"""|(?<=[\u0e00-\u0e7f\u0e80-\u0eff])[ \u00a0]++(?=[\u0e00-\u0e7f\u0e80-\u0eff])"""
    r"""|\n(?=[^\S\n]*+\n)|\n(?=[^\S\n]*+(?:[-*+•]|\d{1,9}[.)])\s)|(?<=\|)\n"""
)
# Combining marks, the zero-width joiner and the skin tones of emoji belong to the character before them.
_JOINER: Final = "\u200d"
_TONES: Final = ("\U0001f3fb", "\U0001f3ff")


def content_words(text: str, /) -> list[str]:
    """Return the words that carry meaning, in lower case, with plurals reduced to singulars and repeats kept.

    In scripts without blanks, each pair of neighbouring characters counts as a word.

    Source: D. Harman, "How effective is suffixing?" (1991): the S stemmer. J. H. Lee, J. S. Ahn, "Using n-grams for Korean text retrieval" (SIGIR 1996).

    Examples:
        >>> content_words("What are your prices for repairs?")
        ['price', 'repair']
        >>> content_words("How long is the warranty?")
        ['warranty']
        >>> content_words("保証期間 2024")
        ['2024', '保証', '証期', '期間']
    """
    folded = _HOW.sub(" ", text.lower())
    runs = _RUN.findall(folded)
    if runs:
        folded = _RUN.sub(" ", folded)
    words = [
        _stem(word) for word in WORD.findall(folded) if word not in STOP_WORDS and (len(word) > 1 or word.isdigit())
    ]
    return words + [pair for run in runs for pair in pairs(run)]


def pairs(run: str, /) -> list[str]:
    """Return each pair of neighbouring characters of a run; a single character is returned alone."""
    return [run[at : at + 2] for at in range(len(run) - 1)] or [run]


def _stem(word: str) -> str:
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and not word.endswith(("eies", "aies")):
        return word[:-3] + "y"
    return word[:-1]


def is_unspaced(text: str, /) -> bool:
    """Return whether most of a text is written in a script without blanks between words.

    Examples:
        >>> is_unspaced("保証期間は 24 か月です"), is_unspaced("The word 保証 means warranty")
        (True, False)
    """
    runs = _RUN.findall(text)
    return bool(runs) and 2 * sum(map(len, runs)) > sum(char.isalpha() for char in text)


def grapheme_ends(text: str, start: int, end: int, /) -> list[int]:
    """Return the end of each character, as a reader sees it, between `start` and `end`. A text may be cut only at these positions.

    Source: Unicode Standard Annex 29, extended grapheme clusters, as implemented by the package `regex`.

    Examples:
        >>> grapheme_ends("ne\u0301e", 0, 4)
        [1, 3, 4]
    """
    if text.isascii() and "\r" not in text[start:end]:
        return list(range(start + 1, end + 1))
    import regex

    return [found.end() for found in regex.finditer(r"\X", text, pos=start, endpos=end)]


def sentences(text: str, /) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each sentence, without the white space around it. The end of a list item, table row or paragraph ends a sentence as well.

    Examples:
        >>> text = "Dr. Lee repairs bicycles. A repair costs $40."
        >>> [text[start:end] for start, end in sentences(text)]
        ['Dr. Lee repairs bicycles.', 'A repair costs $40.']
    """
    start = 0
    for match in _END.finditer(text):
        if match.group().startswith(".") and _is_abbreviation(text, match.start()):
            continue
        end = match.end()
        while end < len(text) and _extends(text[end]):  # include combining marks after the last sign
            end += 1
        yield from _stripped(text, start, end)
        start = end
    yield from _stripped(text, start, len(text))


def _is_abbreviation(text: str, stop: int) -> bool:
    word = text[max(0, stop - 8) : stop].split()[-1:]
    return bool(word) and (word[0].lower().lstrip("(\"'") in ABBREVIATIONS or (len(word[0]) == 1 and word[0].isalpha()))


def _extends(char: str) -> bool:
    """Return whether a character belongs to the one before it."""
    return not char.isascii() and (
        unicodedata.category(char).startswith("M") or char == _JOINER or _TONES[0] <= char <= _TONES[1]
    )


def after_blanks(text: str, start: int, end: int, /) -> int:
    """Return the position of the first character after blanks, between `start` and `end`. A blank with a combining mark, such as an accent, is not skipped."""
    while start < end and text[start].isspace() and not (start + 1 < end and _extends(text[start + 1])):
        start += 1
    return start


def _stripped(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    start = after_blanks(text, start, end)
    while end > start and text[end - 1].isspace():
        end -= 1
    if end > start:
        yield start, end
