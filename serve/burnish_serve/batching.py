"""Batches by length: texts of like length together, each batch as large as its budget of padded tokens allows.

Work in a batch is rows times the longest row, so sorting by length leaves almost no padding, and a budget of tokens
instead of rows keeps every batch near the size at which the processor is busiest.

>>> [batch.tolist() for batch in plan([3, 9, 4], max_tokens=10)]
[[1], [2, 0]]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.intp]
Ids = npt.NDArray[np.int64]


def plan(
    lengths: Sequence[int] | npt.NDArray[np.intp], max_tokens: int, run_tokens: int | None = None
) -> list[Indices]:
    """Return the rows of each batch, longest first; every row stands in exactly one.

    Args:
        lengths: tokens of each row.
        max_tokens: padded tokens (rows x longest) of a batch at the most; a longer row is a batch of its own.
        run_tokens: what a run costs by itself, in tokens: a batch is cut in two, and its parts again, where that saves
            more padding than this; None cuts none.
    """
    sizes = np.asarray(lengths, dtype=np.intp)
    order = np.argsort(-sizes, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        rows = max(1, max_tokens // max(1, int(sizes[order[start]])))
        batch = order[start : start + rows]
        batches += [batch] if run_tokens is None else _cut(batch, sizes[batch].tolist(), run_tokens)
        start += rows
    return batches


def _cut(batch: Indices, own: list[int], run_tokens: int) -> list[Indices]:
    """Return a batch, whose rows have ``own`` tokens, in the parts that are worth a run of their own."""
    saved = [(own[0] - size) * (len(own) - place) for place, size in enumerate(own)]
    place = saved.index(max(saved))
    if saved[place] <= run_tokens:
        return [batch]
    return [*_cut(batch[:place], own[:place], run_tokens), *_cut(batch[place:], own[place:], run_tokens)]


def padding(lengths: Sequence[int], max_tokens: int, run_tokens: int | None = None) -> float:
    """Return the share of all padded tokens of a plan that is padding."""
    padded = sum(len(batch) * lengths[int(batch[0])] for batch in plan(lengths, max_tokens, run_tokens))
    return 1 - sum(lengths) / padded


def pad(rows: Sequence[Ids], value: int) -> Ids:
    """Return rows of ids as one int64 array ``[rows, longest]``, filled up on the right with ``value``."""
    padded = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for line, row in zip(padded, rows, strict=True):
        line[: len(row)] = row
    return padded


def mask(rows: Sequence[Ids]) -> Ids:
    """Return the attention mask of `pad`'s result: 1 where a row has a token, else 0; int64 ``[rows, longest]``."""
    lengths = np.array([len(row) for row in rows])
    return (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
