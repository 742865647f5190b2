"""Scores: answers against labels, with intervals that say how far a test of this size can be believed.

Shares of right answers have Wilson's interval (Wilson, 1927), which holds near 0 and 1 and for few rows; other metrics
have the percentile bootstrap over rows (Efron, 1979).

>>> evaluate(model, examples).metrics["accuracy"]  # doctest: +SKIP
0.931
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish_serve.errors import InputError
from burnish_serve.rows import columns_of, read_rows
from burnish_serve.runner import Runner
from burnish_serve.tasks import Task

RESAMPLES = 200
SHARES = ("accuracy",)
Z95 = 1.959963984540054  # the standard normal's 97.5 % point


@dataclass(frozen=True)
class Labelled:
    """A row with its text and what is right."""

    row: dict[str, Any]
    asked: dict[str, str]
    label: str


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found."""

    metrics: dict[str, Any]
    """The task's metrics by name."""
    intervals: dict[str, tuple[float, float]]
    """95 % interval of each metric that is one number."""
    rows: list[dict[str, Any]]
    """Each row with ``answer`` and ``correct`` added."""


def read_labelled(
    path: str, task: Task, labels: Sequence[str], *, text_column: str = "text", label_column: str = "label"
) -> list[Labelled]:
    """Return the labelled rows of a file.

    Raises:
        InputError: a column is missing, a label is not one of the model's, or there are no rows.
    """
    known, examples = set(labels), []
    for number, row in read_rows(path):
        where = f"{path}:{number}"
        asked = task.texts(row, text_column, where)
        if label_column not in row:
            raise InputError(f"{where}: no column {label_column!r}; the columns there are: {columns_of(row)}")
        label = str(row[label_column])
        if label not in known:
            shown = ", ".join(map(repr, labels[:10])) + (" …" if len(labels) > 10 else "")
            raise InputError(f"{where}: the label {label!r} is unknown to the model; known are: {shown}")
        examples.append(Labelled(row, asked, label))
    if not examples:
        raise InputError(f"{path} has no rows")
    return examples


def evaluate(model: Runner, examples: Sequence[Labelled]) -> Evaluation:
    """Return the scores of a model on labelled rows.

    Raises:
        MissingExtraError: scikit-learn is not installed (extra ``eval``).
    """
    right = [example.label for example in examples]
    model.task.score(right[:1], right[:1], model.labels)  # a missing extra is said before the work, not after it
    answers = model([example.asked for example in examples])
    predicted = [str(answer["label"]) for answer in answers if isinstance(answer, dict)]
    metrics = model.task.score(right, predicted, model.labels)
    rows = [
        {**example.row, "answer": answer, "correct": found == example.label}
        for example, answer, found in zip(examples, answers, predicted, strict=True)
    ]
    return Evaluation(
        metrics=metrics, intervals=_intervals(model.task, right, predicted, model.labels, metrics), rows=rows
    )


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share seen on so many rows."""
    centre = share + Z95**2 / (2 * rows)
    half = Z95 * math.sqrt(share * (1 - share) / rows + Z95**2 / (4 * rows**2))
    scale = 1 + Z95**2 / rows
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _intervals(
    task: Task, right: Sequence[str], predicted: Sequence[str], labels: Sequence[str], metrics: dict[str, Any]
) -> dict[str, tuple[float, float]]:
    names = [name for name, value in metrics.items() if isinstance(value, float)]
    random = np.random.default_rng(0)
    draws: list[dict[str, Any]] = []
    for _ in range(RESAMPLES):
        rows = random.integers(0, len(right), len(right))
        draws.append(task.score([right[i] for i in rows], [predicted[i] for i in rows], labels))
    intervals = {}
    for name in names:
        if name in SHARES:
            intervals[name] = wilson(metrics[name], len(right))
        else:
            low, high = np.percentile([draw[name] for draw in draws], [2.5, 97.5])
            intervals[name] = (float(low), float(high))
    return intervals
