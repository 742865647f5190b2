"""Which rows are held out together: the folds of a cross-validation, without any training.

Rows with one text always share a fold, or a model would be asked what it has learned by heart; so do rows of one group
(a speaker, a document, a customer), where groups are given. The splitting itself is scikit-learn's.

>>> fold_of(["a", "b", "a", "c"], folds=2, seed=0).tolist()  # doctest: +SKIP
[0, 1, 0, 1]
"""

from __future__ import annotations

import collections
import warnings
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish_serve.errors import InputError

Numbers = npt.NDArray[np.int64]


def fold_of(
    texts: Sequence[Hashable],
    *,
    folds: int | None,
    seed: int,
    labels: Sequence[str] | None = None,
    groups: Sequence[Hashable] | None = None,
) -> Numbers:
    """Return the number of each row's fold, from 0: int64 ``[rows]``.

    Args:
        texts: what is read of each row.
        folds: how many; None for leave-one-out: as many as there are texts, or groups where these are given.
        seed: of the order in which texts are dealt out.
        labels: of each row, where it has one: each fold then gets its share of each.
        groups: of each row.

    Raises:
        InputError: there are fewer texts, groups, or rows of every label than folds.
    """
    units, grouped = together(texts, groups), groups is not None
    count, what = int(units.max()) + 1, "groups" if grouped else "texts"
    if count < (folds or 2):
        raise InputError(f"{folds or 2} folds need so many different {what}; there are {count}")
    if folds is None:
        return units
    items = np.arange(len(units)) if grouped else np.unique(units, return_index=True)[1]  # rows, or each text's first
    wanted = None if labels is None else [labels[item] for item in items]
    if wanted and (most := max(collections.Counter(wanted).values())) < folds:
        raise InputError(
            f"{folds} folds are more than any label has {'rows' if grouped else 'texts'} ({most} at the most)"
        )
    found = np.full(len(items), -1, dtype=np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of labels with fewer rows than folds, which is for us to tell
        splits = _splitter(folds, seed, labelled=wanted is not None, grouped=grouped)
        for number, (_, held) in enumerate(splits.split(items, wanted, units if grouped else None)):
            found[held] = number
    if len(np.unique(found)) < folds:
        raise InputError(f"the rows cannot be split into {folds} folds with whole groups")
    return found if grouped else found[units]


def _splitter(folds: int, seed: int, *, labelled: bool, grouped: bool) -> Any:
    """Return what splits rows in whole groups, or texts; a text with two labels counts by its first."""
    from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold

    if grouped and not labelled:
        return GroupKFold(folds)  # by the groups' sizes alone
    kind: Any = StratifiedGroupKFold if grouped else StratifiedKFold if labelled else KFold
    return kind(folds, shuffle=True, random_state=seed)


def together(texts: Sequence[Hashable], groups: Sequence[Hashable] | None) -> Numbers:
    """Return a number for each row, the same for rows that must not be parted: int64 ``[rows]``, from 0 on.

    A text that stands in two groups makes one of them.
    """
    text = _numbered(texts)
    if groups is None:
        return text
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    group = _numbered(groups) + text.max() + 1  # texts and groups are the two sides of a graph, rows its edges
    nodes = int(group.max()) + 1
    _, parts = connected_components(coo_matrix((np.ones(len(text)), (text, group)), shape=(nodes, nodes)), False)
    return _numbered(parts[text].tolist())


def _numbered(values: Sequence[Hashable]) -> Numbers:
    """Return a number for each value, from 0 on, in the order in which they come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], dtype=np.int64)
