"""Scores of every label for rows that the model has not learned from: by a linear probe, or by cross-validation.

The probe is a logistic regression on an encoder's vectors, fitted without each fold in turn. It takes seconds where
training the encoder takes hours, and it has too few weights to learn wrong labels by heart.

>>> probed(rows, vectors, labels, folds=5, seed=42).shape  # doctest: +SKIP
(10003, 77)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish_serve.errors import InputError
from burnish_serve.rows import read_rows
from burnish_train.choose.folds import fold_of
from burnish_train.data import Example
from burnish_train.insight.vectors import Matrix

Scores = npt.NDArray[np.float64]
# Inverse of the ridge, for vectors of length 1: chosen on banking77 (docs/audit.md).
STRENGTH = 10.0
STEPS = 1000
ADDED = ("line", "fold", "answer", "correct", "scores")
"""Columns that cross-validation adds to a row."""


def probed(rows: Sequence[Example], vectors: Matrix, labels: Sequence[str], *, folds: int, seed: int) -> Scores:
    """Return each label's score for each row by probes that have not learned from it: ``[rows, labels]``.

    Rows with one text share a fold. Rows with one label each get a distribution over labels, others a score for each.

    Raises:
        InputError: there are fewer texts than folds, or no label has a row in each.
    """
    single = all(isinstance(row.right, str) for row in rows)
    known = [row.right for row in rows] if single else None
    fold = fold_of([row.texts for row in rows], folds=folds, seed=seed, labels=known)
    names = np.array(labels)
    scores = np.zeros((len(rows), len(labels)))
    for number in range(folds):
        held, rest = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        if known is not None:
            given = np.array(known)[rest]
            there = np.flatnonzero(np.isin(names, given))  # sorted as the classes of the probe are
            scores[np.ix_(held, there)] = _fitted(vectors[rest], given, vectors[held])
            continue
        for column, label in enumerate(labels):
            has = np.array([label in row.right for row in rows])[rest]
            varied = 0 < has.sum() < len(has)
            scores[held, column] = _fitted(vectors[rest], has, vectors[held])[:, 1] if varied else has.mean()
    return scores


def _fitted(vectors: Matrix, given: Any, held: Matrix) -> Any:
    """Return the probabilities of the classes, sorted, for held-out rows."""
    from sklearn.linear_model import LogisticRegression

    if len(set(given.tolist())) < 2:
        return np.ones((len(held), 1))
    return LogisticRegression(C=STRENGTH, max_iter=STEPS).fit(vectors, given).predict_proba(held)


def from_file(path: str, rows: Sequence[Example], labels: Sequence[str]) -> tuple[Scores | None, list[bool] | None]:
    """Return each label's score for each row, and whether its answer was right, as ``burnish cross-validate`` wrote.

    Raises:
        InputError: the file is not about these rows.
    """
    found = {row.get("line"): row for _, row in read_rows(path)}
    for one in rows:
        row, own = found.get(one.line), json.loads(json.dumps(one.row, default=str))
        if row is None or any(row.get(column) != value for column, value in own.items() if column not in ADDED):
            raise InputError(
                f"{path} does not hold the rows that are audited: line {one.line} differs; "
                "give the out-of-fold.jsonl of a burnish cross-validate on them"
            )
    told = [found[one.line] for one in rows]
    scored = all("scores" in row for row in told)
    scores = np.array([[row["scores"].get(label, 0.0) for label in labels] for row in told]) if scored else None
    return scores, [row["correct"] for row in told] if all("correct" in row for row in told) else None
