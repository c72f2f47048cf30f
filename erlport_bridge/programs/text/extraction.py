"""Find facts in text, deterministically: the sentences nearest to a query, numbers, dates and listed items.

The embedded model and the ``search_text`` tool share this module. Every function is linear in the length of the text,
and looks at a long text in pieces: a regular expression keeps the GIL until it has read its whole text.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])[ \t]+(?=\S)")
_WORD: Final = re.compile(r"[^\W_]+")
# A number is not part of a word or of a version. Longer runs of digits are identifiers, and slow to convert.
_NUMBER: Final = re.compile(
    r"(?<![\w.])-?\d{1,3}(?:,\d{3}){1,6}(?:\.\d{1,15})?(?![\w,])|(?<![\w.])-?\d{1,18}(?:\.\d{1,15})?(?!\w)"
)
_ISO_DATE: Final = re.compile(r"(?<!\d)(\d{4})-(\d{2})-(\d{2})(?!\d)")
_MONTHS: Final = (
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
)
_DAY_MONTH_YEAR: Final = re.compile(rf"\b(\d{{1,2}})(?:st|nd|rd|th)? ({'|'.join(_MONTHS)}),? (\d{{4}})\b", re.I)
_MONTH_DAY_YEAR: Final = re.compile(rf"\b({'|'.join(_MONTHS)}) (\d{{1,2}})(?:st|nd|rd|th)?,? (\d{{4}})\b", re.I)

_STOP_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can could did do does for from give had has have how i in is it "
        "its me my of on or our please so tell than that the their them then there these they this to was we "
        "were what when where which who whom whose why will with would you your",
    )
)

# BM25's k1 and b at their usual values: k1 saturates the term frequency, b penalizes long sentences.
_SATURATION: Final = 1.2
_LENGTH_WEIGHT: Final = 0.75


_MAX_PIECE_CHARACTERS: Final = 32_768
# Where a long text is cut: the first of these that is in the piece.
_CUTS: Final = ("\n", ". ", " ")


def _pieces(text: str) -> Iterator[str]:
    """Yield a long text in pieces, cut at the end of a line, a sentence or a word."""
    start = 0
    while len(text) - start > _MAX_PIECE_CHARACTERS:
        end = start + _MAX_PIECE_CHARACTERS
        found = (text.rfind(cut, start, end) for cut in _CUTS)
        end = next((place + 1 for place in found if place > start), end)
        yield text[start:end]
        start = end
    yield text[start:] if start else text


def sentences(text: str) -> list[str]:
    """Split a text into sentences, with single spaces between words. The end of a line also ends a sentence."""
    return [
        " ".join(sentence.split())
        for piece in _pieces(text)
        for line in piece.splitlines()
        for sentence in _SENTENCE_END.split(line)
        if not sentence.isspace() and sentence
    ]


def words(text: str) -> list[str]:
    """Return the words of a text without stop words, in lower case, plurals as singulars."""
    found = (word for piece in _pieces(text) for word in _WORD.findall(piece.lower()))
    return [_stem(word) for word in found if word not in _STOP_WORDS]


def _stem(word: str) -> str:
    if len(word) > 4 and word.endswith("ies"):
        return word[:-3] + "y"
    if len(word) > 4 and word.endswith(("sses", "shes", "ches", "xes", "zes")):
        return word[:-2]
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


class Passages:
    """An inverted index of a text's sentences: built once in the length of the text; a query costs its matches."""

    def __init__(self, text: str) -> None:
        # A repeated sentence (in a text, and in what an earlier stage took from it) adds nothing, but would make its
        # words look common.
        self.sentences = list(dict.fromkeys(sentences(text)))
        self._lengths: list[int] = []
        self._occurrences: dict[str, dict[int, int]] = {}  # word -> index of the sentence -> count
        for index, sentence in enumerate(self.sentences):
            found = words(sentence)
            self._lengths.append(len(found))
            for word in found:
                counts = self._occurrences.setdefault(word, {})
                counts[index] = counts.get(index, 0) + 1
        self._mean_length = sum(self._lengths) / len(self._lengths) if self._lengths else 0.0

    def scores(self, query: Mapping[str, float]) -> dict[int, float]:
        """Return the BM25 score of each sentence that shares a word with a query of weighted words, by index."""
        scores: dict[int, float] = {}
        for word, weight in query.items():
            counts = self._occurrences.get(word, {})
            rarity = math.log(1 + (len(self.sentences) - len(counts) + 0.5) / (len(counts) + 0.5))
            for index, count in counts.items():
                length = self._lengths[index] / self._mean_length
                held_back = _SATURATION * (1 - _LENGTH_WEIGHT + _LENGTH_WEIGHT * length)
                score = weight * rarity * count * (_SATURATION + 1) / (count + held_back)
                scores[index] = scores.get(index, 0.0) + score
        return scores

    def nearest(self, query: Mapping[str, float]) -> list[int]:
        """Return the indices of the sentences that share a word with the query: nearest first, equals in order."""
        scores = self.scores(query)
        return sorted(scores, key=lambda index: (-scores[index], index))

    def ranked(self, query: Mapping[str, float]) -> list[int]:
        """Return the indices of all sentences: the result of :meth:`nearest`, then the others in the text's order."""
        nearest = self.nearest(query)
        matched = set(nearest)
        return nearest + [index for index in range(len(self.sentences)) if index not in matched]


def weighted_query(*parts: tuple[str, float]) -> dict[str, float]:
    """Return a query (word -> weight) from texts and their weights; a word in several texts has the greatest weight."""
    query: dict[str, float] = {}
    for text, weight in parts:
        for word in words(text):
            query[word] = max(weight, query.get(word, 0.0))
    return query


def nearest_sentences(text: str, query: str, limit: int) -> list[str]:
    """Return at most ``limit`` sentences that share a word with the query, nearest first."""
    passages = Passages(text)
    return [passages.sentences[index] for index in passages.nearest(weighted_query((query, 1.0)))[:limit]]


def numbers(text: str) -> list[int | float]:
    """Return the numbers of a text in its order; ``1,234`` is one number, digits in dates and names are skipped."""
    found = []
    for piece in _pieces(text):
        for date in (_ISO_DATE, _DAY_MONTH_YEAR, _MONTH_DAY_YEAR):
            piece = date.sub(" ", piece)
        found += [match[0].replace(",", "") for match in _NUMBER.finditer(piece)]
    return [float(number) if "." in number else int(number) for number in found]


def dates(text: str) -> list[datetime.date]:
    """Return the dates of a text: ISO dates, then ``20 July 1969``, then ``July 20, 1969``; each form in text order."""
    parts: Iterable[tuple[str, int, str]] = [
        *((match[1], int(match[2]), match[3]) for match in _matches(_ISO_DATE, text)),
        *((match[3], _month(match[2]), match[1]) for match in _matches(_DAY_MONTH_YEAR, text)),
        *((match[3], _month(match[1]), match[2]) for match in _matches(_MONTH_DAY_YEAR, text)),
    ]
    found = []
    for year, month, day in parts:
        try:
            found.append(datetime.date(int(year), month, int(day)))
        except ValueError:  # such as 2023-02-31
            continue
    return found


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    return (match for piece in _pieces(text) for match in pattern.finditer(piece))


def _month(name: str) -> int:
    return _MONTHS.index(name.lower()) + 1


_LIST_INTRODUCTION: Final = re.compile(r":\s|\b(?:are|include|includes|including|namely)\s", re.I)
_LIST_SEPARATOR: Final = re.compile(r",\s*(?:and\s|or\s)?|\s(?:and|or)\s")
_MAX_WORDS_OF_AN_ITEM: Final = 4


def listed_items(sentence: str) -> list[str]:
    """Return the items that a sentence lists (``"The colours are red, green and blue."``), or an empty list."""
    introduction = _LIST_INTRODUCTION.search(sentence)
    rest = sentence[introduction.end() :] if introduction else sentence
    items = [item.strip(" .!?;") for item in _LIST_SEPARATOR.split(rest)]
    items = [item for item in items if item]
    is_list = len(items) > 1 and all(len(item.split()) <= _MAX_WORDS_OF_AN_ITEM for item in items)
    return items if is_list else []
