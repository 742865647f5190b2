"""How near an answer's text is to the right ones: exact match and F1 as SQuAD's own script counts them.

English is compared by words, without case, punctuation and articles (Rajpurkar et al., 2016, arXiv:1606.05250). Where
the right answer holds characters that are written without spaces between words (Chinese, Japanese), both are compared
by character, and what stands between such characters by word, as CMRC 2018 splits it (Cui et al., 2019,
arXiv:1810.07366); F1 counts common characters as SQuAD counts common words, where CMRC counts the longest common run.

>>> rate(("the Sunlit Hall",), "a sunlit room")
(0.0, 0.5)
"""

from __future__ import annotations

import functools
import re
import string
import unicodedata
from collections import Counter

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
# Kana, Han with its extensions and compatibility forms.
BY_CHARACTER = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
# Ratings that are remembered: intervals are found by scoring the same rows again and again.
REMEMBERED = 2**17


@functools.lru_cache(maxsize=REMEMBERED)
def rate(rights: tuple[str, ...], text: str) -> tuple[float, float]:
    """Return exact match and F1 of a text against the right one that it is nearest to, each between 0 and 1.

    Args:
        rights: the right answers; none where the question has no answer, and then the empty text is right.
        text: the answer.
    """
    rated = [_rate(right, text) for right in rights or ("",)]
    return max(exact for exact, _ in rated), max(f1 for _, f1 in rated)


def _rate(right: str, text: str) -> tuple[float, float]:
    split = by_character if BY_CHARACTER.search(right) else by_word
    wanted, given = split(right), split(text)
    exact = float(wanted == given)
    common = sum((Counter(wanted) & Counter(given)).values())
    if not wanted or not given:
        return exact, exact
    return exact, 2 * common / (len(wanted) + len(given))


def by_word(text: str) -> list[str]:
    """Return the words that SQuAD compares."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def by_character(text: str) -> list[str]:
    """Return the characters, and between them the words, that are compared in Chinese."""
    marked = BY_CHARACTER.sub(r" \g<0> ", text.lower())
    return "".join(one for one in marked if unicodedata.category(one)[0] not in "PS").split()
