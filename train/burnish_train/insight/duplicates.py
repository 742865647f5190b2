"""Texts that stand twice: the same but for case, width and spaces, or near in the encoder's vectors.

Nearness is the cosine of the vectors, so what is near is a matter of the encoder and of the threshold. Comparing all
with all costs the square of the rows: 10,000 take seconds, a million would take hours.

>>> normal(" Ｇreat  FILM ")
'great film'
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from burnish_train.data import Example
from burnish_train.insight.vectors import Matrix

# Rows compared with all others at a time.
BLOCK = 1024


def normal(text: str) -> str:
    """Return a text without what people do not see as a difference: NFKC, folded case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def keys(rows: Sequence[Example]) -> list[tuple[str, ...]]:
    """Return what makes two rows the same."""
    return [tuple(normal(text) for text in row.texts) for row in rows]


def same(rows: Sequence[Example]) -> list[dict[str, Any]]:
    """Return the groups of rows with one text, those whose labels differ first."""
    groups: dict[tuple[str, ...], list[Example]] = {}
    for key, row in zip(keys(rows), rows, strict=True):
        groups.setdefault(key, []).append(row)
    found = [
        {
            "lines": [row.line for row in group],
            "labels": [row.label for row in group],
            "differ": any(row.right != group[0].right for row in group),
            "texts": list(group[0].texts),
        }
        for group in groups.values()
        if len(group) > 1
    ]
    return sorted(found, key=lambda one: (not one["differ"], one["lines"]))


def near(rows: Sequence[Example], vectors: Matrix, threshold: float) -> list[dict[str, Any]]:
    """Return pairs of rows with other texts that are near, those whose labels differ first, then the nearest.

    Of each row's neighbours two are told at the most: the nearest, and the nearest with another label.

    Args:
        rows: the rows.
        vectors: of length 1, ``[rows, width]``.
        threshold: least cosine.
    """
    key, right = _numbered(keys(rows)), _numbered([row.label for row in rows])
    pairs: dict[tuple[int, int], float] = {}
    for start, cosines in _cosines(vectors, vectors):
        here = np.arange(start, start + len(cosines))
        cosines[key[here][:, None] == key] = -2
        for _ in range(2):
            best = cosines.argmax(1)
            for first, second, value in zip(here, best, cosines[np.arange(len(here)), best], strict=True):
                if value >= threshold:
                    pairs[min(first, second), max(first, second)] = float(value)
            cosines[right[here][:, None] == right] = -2
    found = [
        {**_pair(rows[i], rows[j], value), "lines": [rows[i].line, rows[j].line]} for (i, j), value in pairs.items()
    ]
    return sorted(found, key=lambda one: (not one["differ"], -one["cosine"], one["lines"]))


def leaks(
    train: Sequence[Example], held: Sequence[Example], vectors: Matrix, other: Matrix, threshold: float
) -> list[dict[str, Any]]:
    """Return the held-out rows whose text, or one near it, stands in train too; the same ones first.

    Args:
        train: the rows that are learned from.
        held: those to be scored on.
        vectors: of train, of length 1.
        other: of the held-out rows.
        threshold: least cosine.
    """
    places = {key: place for place, key in reversed(list(enumerate(keys(train))))}
    known = keys(held)
    found = []
    for start, cosines in _cosines(other, vectors):
        for number, row in enumerate(cosines, start):
            place = places.get(known[number], int(row.argmax()))
            is_same = known[number] in places
            if is_same or row[place] >= threshold:
                pair = _pair(held[number], train[place], float(row[place]))
                lines = {"line": held[number].line, "train_line": train[place].line}
                found.append({"kind": "same" if is_same else "near", **lines, **pair})
    return sorted(found, key=lambda one: (one["kind"] != "same", -one["cosine"], one["line"]))


def _pair(one: Example, other: Example, cosine: float) -> dict[str, Any]:
    return {
        "cosine": round(min(cosine, 1.0), 4),
        "labels": [one.label, other.label],
        "differ": one.right != other.right,
        "texts": [list(one.texts), list(other.texts)],
    }


def _cosines(some: Matrix, all_: Matrix) -> Iterator[tuple[int, Matrix]]:
    """Yield the first row of each block, and its cosines with all: ``[block, rows]``."""
    for start in range(0, len(some), BLOCK):
        yield start, some[start : start + BLOCK] @ all_.T


def _numbered(values: Sequence[Any]) -> Any:
    """Return a number for each value of JSON, the same for equal ones."""
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(json.dumps(value, sort_keys=True, default=str), len(seen)) for value in values])
