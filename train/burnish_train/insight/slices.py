"""Where a model is worse than elsewhere: accuracy by length, by class, and by a column of the user's own.

>>> by_column(["phone", "mail", "mail"], [True, False, True], "channel")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from burnish_serve.evaluation import wilson
from burnish_train.data import Example

BUCKETS = 4
# A column of more values than this is no slicing.
MOST_VALUES = 100


def slices(rows: Sequence[Example], correct: Sequence[bool], column: str | None) -> list[dict[str, Any]]:
    """Return the slices of the rows with their accuracy and its Wilson interval, the surely worst first.

    They are ordered by the interval's upper end, so that a slice of one wrong row does not stand before a bad one of a
    hundred.
    """
    found = by_column(_buckets(rows), correct, "length")
    if all(isinstance(row.right, str) for row in rows):
        found += by_column([row.right for row in rows], correct, "class")
    if column:
        found += by_column([str(row.row.get(column)) for row in rows], correct, column)
    return sorted(found, key=lambda one: (one["high"], one["by"], one["value"]))


def by_column(values: Sequence[str], correct: Sequence[bool], name: str) -> list[dict[str, Any]]:
    """Return the accuracy for each value."""
    groups: dict[str, list[bool]] = {}
    for value, right in zip(values, correct, strict=True):
        groups.setdefault(value, []).append(right)
    found = []
    for value, hits in groups.items():
        low, high = wilson(sum(hits) / len(hits), len(hits))
        counts = {"rows": len(hits), "correct": sum(hits), "accuracy": sum(hits) / len(hits)}
        found.append({"by": name, "value": value, **counts, "low": low, "high": high})
    return found


def _buckets(rows: Sequence[Example]) -> list[str]:
    """Return the bucket of each row's length in characters; the buckets hold a quarter of the rows each, about."""
    lengths = np.array([sum(map(len, row.texts)) for row in rows])
    edges = np.unique(np.quantile(lengths, np.arange(1, BUCKETS) / BUCKETS, method="lower"))
    bucket = np.searchsorted(edges, lengths)
    names = {}
    for number in np.unique(bucket):
        inside = lengths[bucket == number]
        names[number] = f"{inside.min()} to {inside.max()} characters"
    return [names[number] for number in bucket]
