"""Compares the words of a question with those of a text, in any language, without a model and without a stemmer.

Two words match fully if they differ at most in their last letter ("cost", "costs"; "kostet", "kosten"). They match by half if they have the same root
("insure", "insurance"), or if one ends with the other ("Reparaturkosten", "Kosten"). A compound matches fully if the text has both of its parts as words.

Source of the comparison by common beginnings instead of stems: P. McNamee, J. Mayfield, "Character n-gram tokenization for European language text retrieval"
(2004). On the questions of SQuAD, this comparison is as good as the Snowball stemmer of the right language, and it need not know the language.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise, takewhile
from typing import Final

from ragcore.text.languages import Language, language_of
from ragcore.text.words import UNSPACED, pairs

__all__ = ["Matches", "Wanted", "likeness", "split_words"]

_TOKEN: Final = re.compile(r"[^\W_]+(?:[.,]\d+)*|%")
_RUN: Final = re.compile(f"[{UNSPACED}]+")
_ACCENTS: Final = re.compile("[\u0300-\u036f]+")
# Words with fewer letters match only if they are equal.
LEAST_COMMON: Final = 4
# A word of three letters matches itself and its form with an "s": "pay", "pays".
LEAST_PLURAL: Final = 3
LEAST_ROOT: Final = 0.75
LEAST_PART: Final = 5
HALF: Final = 0.5
# Letters between the parts of a compound, such as the "s" in "Versicherungsnummer".
MOST_LINKING: Final = 2
# A longer question is cut after this many different words, to limit the work.
MOST_WORDS: Final = 64
MOST_CHARACTERS: Final = 4_000
# The language is recognised from at most this many words of the texts that may answer the question.
MOST_AROUND: Final = 500
# A name or a number says what the question is about.
NAME_WEIGHT: Final = 2.0
# "How long …", "how often …": the adverb asks for a number, and the answer gives the number without it.
_HOW: Final = re.compile(r"\bhow (?:big|deep|far|fast|heavy|high|large|long|often|old|soon|tall|wide)\b", re.IGNORECASE)
# Characters of Japanese and Chinese that carry no meaning of their own. A pair that contains one of them lies at the border between two words.
_FUNCTION_CHARACTERS: Final = re.compile(
    "[\u3041-\u309f是的了吗呢嗎什么麼谁誰哪怎多少几幾何我你您他她它们們这那這请問问]"
)


def split_words(text: str, /) -> list[str]:
    """Return the words of a text in their order, in lower case and without accents. Scripts without blanks give pairs of characters.

    Examples:
        >>> split_words("Café für 20 %")
        ['cafe', 'fur', '20', '%']
    """
    folded = text.casefold()
    if folded.isascii():
        return _TOKEN.findall(folded)
    folded = unicodedata.normalize("NFC", _ACCENTS.sub("", unicodedata.normalize("NFD", folded)))
    words = []
    for token in _tokens(folded):
        if _RUN.match(token):
            words += pairs(token)
        else:
            words.append(token)
    return words


def _tokens(text: str) -> list[str]:
    import regex  # only for texts that are not ASCII; `re` has no class for combining marks, which belong to the words of many scripts

    found: list[str] = regex.findall(
        rf"[{UNSPACED}]+|(?:(?![{UNSPACED}])[\p{{L}}\p{{M}}\p{{N}}])+(?:[.,]\p{{N}}+)*|%", text
    )
    return found


def likeness(one: str, other: str, /) -> float:
    """Return 1 for the same word or another form of it, 0.5 for a word of the same root or a part of a compound, else 0.

    Examples:
        >>> likeness("kostet", "kosten"), likeness("percentage", "percent"), likeness("cost", "coast")
        (1.0, 0.5, 0.0)
    """
    return _compared(one, other)[0]


def _compared(one: str, other: str) -> tuple[float, int]:
    """Return the likeness, and the number of letters that match. The number is negative if they match at the end of the words, not at the beginning."""
    if one == other:
        return 1.0, len(one)
    short, long = (one, other) if len(one) <= len(other) else (other, one)
    if len(short) == LEAST_PLURAL and long == f"{short}s":
        return 1.0, len(short)
    if len(short) < LEAST_COMMON or not (short.isalpha() and long.isalpha()):
        return 0.0, 0
    common = next((at for at, char in enumerate(short) if char != long[at]), len(short))
    if common >= LEAST_COMMON and len(long) - common <= 1:
        return 1.0, common
    if common >= max(LEAST_COMMON, LEAST_ROOT * len(short)):
        return HALF, common
    if len(short) >= LEAST_PART and long[-len(short) : -1] == short[:-1]:
        return HALF, -len(short)
    return 0.0, 0


@dataclass(frozen=True, slots=True)
class Matches:
    """How well a text's words match those of a question.

    Attributes:
        words: for each of the question's words that matches, 1 or 0.5.
        neighbours: pairs of the question's words that also stand side by side in the text, other than function words.
    """

    words: Mapping[str, float]
    neighbours: frozenset[tuple[str, str]]


class Wanted:
    """The words of a question that carry its meaning, each with its weight. The weights sum to 1.

    A word weighs the square root of its length, because longer words carry more information (S. Piantadosi, H. Tily, E. Gibson, "Word lengths are
    optimized for efficient communication", 2011). Names and numbers weigh double.

    Args:
        question: the question.
        around: words of the texts that may answer it. They help to recognise the language.
    """

    weights: Mapping[str, float]
    neighbours: frozenset[tuple[str, str]]
    language: Language

    def __init__(self, question: str, /, *, around: Iterable[str] = ()) -> None:
        words = split_words(_HOW.sub(" ", question[:MOST_CHARACTERS]))
        self.language = language_of([*words[: 2 * MOST_AROUND], *islice(around, MOST_AROUND)])
        kept = [word for word in words if self.carries_meaning(word)]
        kept = [word for word in kept if word not in self.language.asks] or kept
        allowed = {*islice(dict.fromkeys(kept), MOST_WORDS)}
        kept = [*takewhile(allowed.__contains__, kept)]
        names = {
            word
            for token in question[:MOST_CHARACTERS].split()[1:]
            if token.lstrip("\"'(«„“¿¡")[:1].isupper() or any(char.isdigit() for char in token)
            for word in split_words(token)
        }
        raw = {self._spelled(word): math.sqrt(len(word)) * (NAME_WEIGHT if word in names else 1.0) for word in kept}
        total = sum(raw.values())
        self.weights = {word: weight / total for word, weight in raw.items()}
        self.neighbours = frozenset(pairwise(map(self._spelled, kept)))
        self._known: dict[str, tuple[tuple[str, float, int], ...]] = {}

    def without(self, words: Iterable[str]) -> None:
        """Leave out words. The weights of the others sum to 1 again."""
        out = set(words)
        kept = {word: weight for word, weight in self.weights.items() if word not in out}
        total = sum(kept.values())
        self.weights = {word: weight / total for word, weight in kept.items()}
        self.neighbours = frozenset(pair for pair in self.neighbours if not out & set(pair))
        self._known.clear()
        self.__dict__.pop("_by_beginning", None)
        self.__dict__.pop("_by_end", None)

    def carries_meaning(self, word: str) -> bool:
        """Whether a word is neither a function word nor a single letter."""
        if word in self.language.function_words or (len(word) == 1 and word.isascii() and word.isalpha()):
            return False
        return not (_RUN.match(word) and _FUNCTION_CHARACTERS.search(word))

    def find(self, words: Sequence[str]) -> Matches:
        """Find the question's words among those of a text."""
        best: dict[str, float] = {}
        begun: dict[str, int] = {}
        ended: dict[str, int] = {}
        neighbours: set[tuple[str, str]] = set()
        last = ""
        for word in words:
            found = self._known.get(word)
            if found is None:
                found = self._known[word] = self._matching(word)
            for wanted, like, letters in found:
                if like > best.get(wanted, 0.0):
                    best[wanted] = like
                if like < 1.0 and len(word) < len(wanted):
                    part = begun if letters > 0 else ended
                    part[wanted] = max(abs(letters), part.get(wanted, 0))
            if found and found[0][1] == 1.0:
                if last:
                    neighbours.add((last, found[0][0]))
                last = found[0][0]
            elif last and self.carries_meaning(word):
                last = ""
        for wanted in begun.keys() & ended.keys():
            if begun[wanted] + ended[wanted] >= len(wanted) - MOST_LINKING:
                best[wanted] = 1.0
        return Matches(best, frozenset(neighbours & self.neighbours) if neighbours else frozenset())

    def coverage(self, own: Mapping[str, float], around: Mapping[str, float], *, around_weight: float) -> float:
        """Return the share of the question's words, by weight, that a text contains. Words that occur only in the texts around it count less.

        Args:
            own, around: the matching words of the text, and of the texts around it, as in `Matches.words`.
            around_weight: the weight of a word that occurs only in the texts around it.
        """
        return sum(
            self.weights[word] * max(own.get(word, 0.0), around_weight * around.get(word, 0.0))
            for word in {**own, **around}
        )

    def phrases(self, own: Matches) -> float:
        """Return the share of the question's pairs of neighbouring words that are neighbours in the text as well."""
        return len(own.neighbours) / len(self.neighbours) if self.neighbours else 0.0

    def _matching(self, word: str) -> tuple[tuple[str, float, int], ...]:
        """Return the question's words that a word matches, best first, each with its likeness and the matching letters."""
        word = self._spelled(word)
        candidates = {word} & self.weights.keys()
        candidates.update(self._by_beginning.get(word[:LEAST_PLURAL], ()))
        if len(word) >= LEAST_PART:
            candidates.update(self._by_end.get(word[-LEAST_PART:-1], ()))
        if not candidates:
            return ()
        found = [(wanted, *_compared(wanted, word)) for wanted in candidates]
        begun = max((letters for wanted, _, letters in found if letters > 0 and len(wanted) < len(word)), default=0)
        ended = max((-letters for wanted, _, letters in found if letters < 0 and len(wanted) < len(word)), default=0)
        if begun and ended and begun + ended >= len(word) - MOST_LINKING:  # a compound of two of the question's words
            found = [(wanted, 1.0 if len(wanted) < len(word) and like else like, n) for wanted, like, n in found]
        return tuple(sorted((one for one in found if one[1]), key=lambda one: (-one[1], one[0])))

    def _spelled(self, word: str) -> str:
        return self.language.percent if word == "%" else word

    @cached_property
    def _by_beginning(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for word in self.weights:
            found.setdefault(word[:LEAST_PLURAL], []).append(word)
        return found

    @cached_property
    def _by_end(self) -> dict[str, list[str]]:
        """For each sequence of four letters, the question's words that have it before their last letter. Words with a common end have the same sequence."""
        found: dict[str, list[str]] = {}
        for word in self.weights:
            if len(word) >= LEAST_PART:
                found.setdefault(word[-LEAST_PART:-1], []).append(word)
        return found
