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
from burnish_serve.rows import read_rows
from burnish_serve.runner import Runner
from burnish_serve.tasks import Answer, Reading, Task

RESAMPLES = 200
SHARES = ("accuracy", "exact_match")
Z95 = 1.959963984540054  # the standard normal's 97.5 % point


@dataclass(frozen=True)
class Labelled:
    """A row with its text and what is right."""

    row: dict[str, Any]
    asked: dict[str, Any]
    """The row by the task's own columns."""
    right: Any


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found."""

    metrics: dict[str, Any]
    """The task's metrics by name."""
    intervals: dict[str, tuple[float, float]]
    """95 % interval of each metric that is one number."""
    rows: list[dict[str, Any]]
    """Each row with ``answer`` added, and ``correct`` where the task knows right from wrong."""


def read_labelled(
    path: str, task: Task, labels: Sequence[str], *, text_column: str = "text", label_column: str | None = None
) -> list[Labelled]:
    """Return the labelled rows of a file.

    Raises:
        InputError: a column is missing, a label is not one of the model's, or there are no rows.
    """
    examples = []
    for number, row in read_rows(path):
        where = f"{path}:{number}"
        asked = task.asked(row, where, text_column)
        task.texts(asked, where)  # what cannot be read is said with its line
        right = task.right(row, asked, label_column or task.label_column_of(asked), where)
        task.check_names(right, labels, where)
        examples.append(Labelled(row, asked, right))
    if not examples:
        raise InputError(f"{path} has no rows")
    return examples


def evaluate(model: Runner, examples: Sequence[Labelled], **options: Any) -> Evaluation:
    """Return the scores of a model on labelled rows; ``options`` as in `Runner.__call__`.

    Raises:
        MissingExtraError: scikit-learn is not installed (extra ``eval``).
    """
    task = model.task
    asked = model.examine([example.asked for example in examples])
    first = model.answers(asked[:1], **options)
    task.score([examples[0].right], first, model.reading)  # a missing extra is said before the work, not after it
    answers = model.answers(asked, **options)
    right = [example.right for example in examples]
    metrics = task.score(right, answers, model.reading)
    rows = [{**example.row, "answer": answer} for example, answer in zip(examples, answers, strict=True)]
    if task.agrees:
        for row, wanted in zip(rows, right, strict=True):
            row["correct"] = task.agrees(wanted, row["answer"])
    return Evaluation(metrics=metrics, intervals=intervals(task, model.reading, right, answers, metrics), rows=rows)


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share seen on so many rows."""
    centre = share + Z95**2 / (2 * rows)
    half = Z95 * math.sqrt(share * (1 - share) / rows + Z95**2 / (4 * rows**2))
    scale = 1 + Z95**2 / rows
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def intervals(
    task: Task, reading: Reading, right: Sequence[Any], answers: Sequence[Answer], metrics: dict[str, Any]
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each metric that is one number: Wilson's of shares, bootstrapped of others."""
    names = [name for name, value in metrics.items() if isinstance(value, float)]
    random = np.random.default_rng(0)
    draws: list[dict[str, Any]] = []
    for _ in range(RESAMPLES):
        rows = random.integers(0, len(right), len(right))
        draws.append(task.score([right[i] for i in rows], [answers[i] for i in rows], reading))
    found = {}
    for name in names:
        if name in SHARES:
            found[name] = wilson(metrics[name], len(right))
        else:
            low, high = np.percentile([draw[name] for draw in draws], [2.5, 97.5])
            found[name] = (float(low), float(high))
    return found
