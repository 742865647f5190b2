"""The words of a row, where they stand, and which of the model's tokens are each of them.

A word is what stands between spaces; of scripts that write none, such as Chinese, it is one character, or several where
they are one token. A task's own markers are no words, and so they are never hidden.

>>> [match[0] for match in pattern(()).finditer("重置我的 PIN, please 🙂")]
['重', '置', '我', '的', 'PIN,', 'please', '🙂']
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from burnish_serve.tasks import Asked, Encoded
from burnish_serve.tasks.answer_scores import BY_CHARACTER
from burnish_serve.tasks.task import Ids


class Word(NamedTuple):
    """One word of a row's texts."""

    text: str
    start: int
    """Its first character in the row's text, in code points."""
    end: int
    """The one behind its last."""
    column: str
    """The column that holds the text."""


class Words(NamedTuple):
    """The words of a row, and the tokens of each."""

    words: list[Word]
    tokens: tuple[Ids, ...]
    """Of each of the row's windows, the number of each token's word; -1 for special tokens and markers."""


@functools.lru_cache(maxsize=16)
def pattern(markers: tuple[str, ...]) -> re.Pattern[str]:
    """Return what finds the words of a text, and its markers as the group ``marker``."""
    marker, character = "|".join(map(re.escape, markers)) or "(?!)", BY_CHARACTER.pattern
    return re.compile(rf"(?P<marker>{marker})|{character}|(?:(?!{marker}|{character})\S)+")


def words_of(asked: Asked, markers: tuple[str, ...] = ()) -> Words:
    """Return the words of a row that was encoded with offsets.

    Each token of a text belongs to the word in which it begins, or to the next one where it begins with a space; so
    each is of one word, and what all words weigh together is what all tokens weigh. Words that share a token are one.

    Args:
        asked: the row, from `Runner.encode` with ``offsets=True``.
        markers: what stands in a text and is no word (`Task.tokens`).
    """
    words: list[Word] = []
    tokens = [np.full(len(window.ids), -1, dtype=np.int64) for window in asked.windows]
    for sequence, (column, text) in enumerate(zip(asked.row, asked.texts, strict=False)):  # spans stand behind a text
        places = [np.flatnonzero(_known(window.sequences) == sequence) for window in asked.windows]
        offsets = [_known(window.offsets)[own] for window, own in zip(asked.windows, places, strict=True)]
        spans = _joined([(*match.span(), bool(match["marker"])) for match in pattern(markers).finditer(text)], offsets)
        numbers, inserted = [], 0
        for start, end, is_marker in spans:
            if is_marker:
                inserted += end - start + 1 if text != asked.row[column] else 0  # put there by the task, with a space
                numbers.append(-1)
            else:
                numbers.append(len(words))
                words.append(Word(text[start:end], start - inserted, end - inserted, column))
        if spans:
            ends = np.array([end for _, end, _ in spans])
            for of_token, own, offset in zip(tokens, places, offsets, strict=True):
                begins_in = np.searchsorted(ends, offset[:, 0], side="right")
                of_token[own] = np.array(numbers)[np.minimum(begins_in, len(spans) - 1)]
    return Words(words, tuple(tokens))


def _joined(spans: list[tuple[int, int, bool]], offsets: list[Ids]) -> list[tuple[int, int, bool]]:
    """Return (first character, the one behind the last, whether it is a marker) with those made one that share a token.

    Args:
        spans: in order.
        offsets: of each window, the characters of its tokens: ``[tokens, 2]``.
    """
    starts, ends = (np.array([span[side] for span in spans], dtype=np.int64) for side in (0, 1))
    with_next = np.zeros(len(spans), dtype=np.bool_)
    for offset in offsets:
        first = np.searchsorted(ends, offset[:, 0], side="right")
        last = np.searchsorted(starts, offset[:, 1], side="left") - 1
        for place in np.flatnonzero(last > first):
            with_next[first[place] : last[place]] = True
    found: list[tuple[int, int, bool]] = []
    for (start, end, marker), joins in zip(spans, [False, *with_next[:-1].tolist()], strict=False):
        if joins and not marker and not found[-1][2]:
            found[-1] = (found[-1][0], end, False)
        else:
            found.append((start, end, marker))
    return found


def hidden(window: Encoded, places: NDArray[np.bool_], token: int | None) -> Encoded:
    """Return a window with some of its tokens replaced by another one, or left out where that is None.

    Args:
        window: as the model reads it.
        places: which tokens: ``[tokens]``.
        token: an id, such as the mask's.
    """
    if token is None:
        return Encoded(window.ids[~places], window.type_ids[~places], window.truncated)
    return Encoded(np.where(places, token, window.ids), window.type_ids, window.truncated)


def _known(values: Ids | None) -> Ids:
    if values is None:
        raise RuntimeError("a row is explained after it was encoded with offsets")
    return values
