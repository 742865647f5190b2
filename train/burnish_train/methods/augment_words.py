"""A text as words and what stands between them, and two ways to change it: words change places, or are left out.

Both are operations of EDA (Wei and Zou, 2019, arXiv:1901.11196). Characters of scripts that write no spaces are words
by themselves, so that Chinese stays without spaces; other words are what stands between spaces, without the punctuation
around them. What is not changed keeps its spaces and punctuation.

>>> Words.of("Wake me, please!").words
('Wake', 'me', 'please')
>>> Words.of("我住在Berlin").words
('我', '住', '在', 'Berlin')
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Han, kana and bopomofo, with the marks that choose a variant or a voice of the character before them.
_CHARACTERS = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312f\u31f0-\u31ff\u3400-\u4dbf"
    "\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARKS = "\ufe00-\ufe0f\u3099\u309a\U000e0100-\U000e01ef"
_PUNCTUATION = "\u3000-\u3004\u3008-\u303f\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65"
_CHARACTER = re.compile(f"[{_CHARACTERS}][{_MARKS}]*")
_PIECE = re.compile(rf"{_CHARACTER.pattern}|[^\s{_CHARACTERS}{_PUNCTUATION}]+")
_APART = re.compile(rf"[\s{_PUNCTUATION}]")


@dataclass(frozen=True)
class Words:
    """A text in parts."""

    words: tuple[str, ...]
    gaps: tuple[str, ...]
    """What stands before the first word, between each two, and behind the last: one more than there are words."""

    @classmethod
    def of(cls, text: str) -> Words:
        """Return a text in parts, which together are the text."""
        words, gaps, end = [], [], 0
        for piece in _PIECE.finditer(text):
            first, last = piece.span()
            while first < last and _is_around(text[first]):
                first += 1
            while first < last and _is_around(text[last - 1]):
                last -= 1
            if first < last:
                words.append(text[first:last])
                gaps.append(text[end:first])
                end = last
        return cls(tuple(words), (*gaps, text[end:]))

    @property
    def text(self) -> str:
        """Return the whole; words that spaces keep apart get one where nothing else would stand between them."""
        parts = [self.gaps[0]]
        for number, word in enumerate(self.words):
            gap = self.gaps[number + 1]
            joins = number + 1 < len(self.words) and not _APART.search(gap)
            if joins and not is_character(word) and not is_character(self.words[number + 1]):
                gap += " "
            parts += [word, gap]
        return "".join(parts)

    def with_words(self, words: Mapping[int, str]) -> Words:
        """Return the same with other words at some places."""
        return Words(tuple(words.get(place, word) for place, word in enumerate(self.words)), self.gaps)

    def without(self, place: int) -> Words:
        """Return the same without a word, and without the space before it; behind it where there is none before."""
        before, behind = self.gaps[place : place + 2]
        shorter = before.rstrip()
        gap = shorter + (behind if shorter != before else behind.lstrip())
        words = self.words[:place] + self.words[place + 1 :]
        return Words(words, (*self.gaps[:place], gap, *self.gaps[place + 2 :]))


def is_character(word: str) -> bool:
    """Return whether a word is one character of a script that writes no spaces."""
    return _CHARACTER.fullmatch(word) is not None


def some(count: int, share: float, random: np.random.Generator) -> list[int]:
    """Return places of a share of so many words, at least of one where there is any, in order."""
    return sorted(random.permutation(count)[: max(1, round(share * count))].tolist())


def swap(text: str, share: float, random: np.random.Generator) -> str:
    """Return a text in which a share of the words have changed places with their neighbours, no word twice.

    Args:
        text: the text.
        share: of its words; one pair at least changes places, where there is one.
        random: decides.
    """
    parts = Words.of(text)
    changed: dict[int, str] = {}
    for place in random.permutation(max(0, len(parts.words) - 1)).tolist():
        if changed and len(changed) + 2 > round(share * len(parts.words)):
            break
        if place not in changed and place + 1 not in changed:
            changed |= {place: parts.words[place + 1], place + 1: parts.words[place]}
    return parts.with_words(changed).text


def delete(text: str, share: float, random: np.random.Generator) -> str:
    """Return a text without a share of its words: one at least, but never all of them.

    Args:
        text: the text.
        share: of its words.
        random: decides.
    """
    parts = Words.of(text)
    for place in reversed(some(len(parts.words), share, random)[: len(parts.words) - 1]):
        parts = parts.without(place)
    return parts.text


def _is_around(character: str) -> bool:
    """Return whether a character is punctuation, a sign or a control, which at its ends is no part of a word."""
    return unicodedata.category(character)[0] in "PSZC" and not is_character(character)  # of a newer Unicode
