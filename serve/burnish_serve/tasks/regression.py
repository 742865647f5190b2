"""A number for a text, or for a pair of texts: similarity, quality, stars.

The answer has the shape of transformers' ``pipeline("text-classification")`` for such a model: the number itself, as
``{"label": "score", "score": 3.8}``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from burnish_serve.errors import InputError, MissingExtraError
from burnish_serve.tasks.task import Answer, Asked, Logits, Reading, Row, Task, label_of
from burnish_serve.tasks.text_classification import ONE_OR_TWO_TEXTS, check_top_k, first_of


def right(row: Row, asked: Mapping[str, Any], column: str, where: str) -> float:
    """Return the number of a row.

    Raises:
        InputError: there is none, or it is not finite.
    """
    value = label_of(row, column, where)
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: column {column!r} must hold a number, not {json.dumps(value)}")
    return number


def decode(asked: Sequence[Asked], logits: Logits, reading: Reading, *, top_k: int | None = 1) -> list[Answer]:
    """Return the number of each row.

    Args:
        asked: the rows.
        logits: float32 ``[rows, 1]``.
        reading: the label's name.
        top_k: 1 for a dict a row; more, or None, for a list of it.

    Raises:
        InputError: ``top_k`` is no number of answers.
    """
    check_top_k(top_k)
    answers = [{"label": reading.labels[0], "score": value} for value in logits[:, 0].tolist()]
    return list(answers) if top_k == 1 else [[answer] for answer in answers]


def score(rights: Sequence[float], answers: Sequence[Answer], reading: Reading) -> dict[str, Any]:
    """Return Spearman's and Pearson's correlation, the mean squared and the mean absolute error.

    A correlation with what never changes is 0.

    Raises:
        MissingExtraError: SciPy is not installed.
    """
    return correlations(rights, [first_of(answer)["score"] for answer in answers])


def correlations(rights: Sequence[float], numbers: Sequence[float]) -> dict[str, Any]:
    """Return the metrics of `score` for numbers."""
    try:
        from scipy.stats import pearsonr, spearmanr
    except ImportError as error:
        raise MissingExtraError("scoring", "eval") from error
    wanted, given = np.asarray(rights, dtype=np.float64), np.asarray(numbers, dtype=np.float64)
    varied = len(wanted) > 1 and wanted.std() > 0 and given.std() > 0
    return {
        "spearman": float(spearmanr(wanted, given).statistic) if varied else 0.0,
        "pearson": float(pearsonr(wanted, given).statistic) if varied else 0.0,
        "mean_squared_error": float(np.mean((wanted - given) ** 2)),
        "mean_absolute_error": float(np.mean(np.abs(wanted - given))),
    }


TASK = Task(
    name="regression",
    pipeline="text-classification",
    head="SequenceClassification",
    problem_type="regression",
    columns=ONE_OR_TWO_TEXTS,
    label_column="score",
    outputs=("logits",),
    right=right,
    decode=decode,
    options={"top_k": 1},
    predicted=lambda answer: None,
    score=score,
    metric="spearman",
)
