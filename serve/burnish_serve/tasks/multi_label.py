"""Any number of labels for a text: emotions, topics, tags.

An answer is a list in the shape of transformers' ``pipeline("text-classification", top_k=None)``, best first, of the
labels whose scores reach their thresholds; ``top_k`` gives so many of the best, whatever their scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from burnish_serve.errors import InputError, MissingExtraError
from burnish_serve.tasks.scores import sigmoid
from burnish_serve.tasks.task import Answer, Asked, Logits, Reading, Row, Task
from burnish_serve.tasks.text_classification import ONE_OR_TWO_TEXTS, check_top_k, first_of, rank

THRESHOLD = 0.5


def right(row: Row, asked: Mapping[str, Any], column: str, where: str) -> frozenset[str]:
    """Return the labels of a row, none or several.

    Raises:
        InputError: there is no such column, or it holds no list of labels.
    """
    labels = row.get(column)
    if isinstance(labels, str) and labels.lstrip().startswith("["):  # as CSV holds a list
        try:
            labels = json.loads(labels)
        except ValueError:
            labels = None
    if not isinstance(labels, list) or any(isinstance(label, dict | list | float) or label is None for label in labels):
        raise InputError(f"{where}: column {column!r} must hold a list of labels, not {json.dumps(row.get(column))}")
    return frozenset(map(str, labels))


def decode(
    asked: Sequence[Asked], logits: Logits, reading: Reading, *, top_k: int | str | None = "threshold"
) -> list[Answer]:
    """Return the labels of each row with their probabilities, best first.

    Args:
        asked: the rows.
        logits: float32 ``[rows, labels]``.
        reading: labels and thresholds.
        top_k: ``threshold`` for those that reach theirs, a number for so many (1 for a dict alone), None for all.
    """
    if top_k != "threshold":
        check_top_k(top_k)
    ranked = rank(sigmoid(logits), reading.labels, top_k if isinstance(top_k, int) else None)
    if top_k == "threshold":
        limits = reading.decoding.thresholds
        return [[one for one in row if one["score"] >= limits.get(one["label"], THRESHOLD)] for row in ranked]
    return [answers[0] for answers in ranked] if top_k == 1 else list(ranked)


def predicted(answer: Answer) -> frozenset[str]:
    """Return the labels of an answer."""
    return frozenset(one["label"] for one in (answer if isinstance(answer, list) else [first_of(answer)]))


def score(rights: Sequence[frozenset[str]], answers: Sequence[Answer], reading: Reading) -> dict[str, Any]:
    """Return micro, macro and sample F1, the share of rows with exactly the right labels, and F1 per class.

    Macro F1 is the mean over all labels of the model, as the papers on such data count it.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import f1_score, precision_recall_fscore_support
    except ImportError as error:
        raise MissingExtraError("scoring", "eval") from error
    found = [predicted(answer) for answer in answers]
    wanted, given = (_matrix(rows, reading.labels) for rows in (rights, found))
    per_class = precision_recall_fscore_support(wanted, given, average=None, zero_division=0)
    precision, recall, f1, rows = (column.tolist() for column in per_class)
    return {
        "f1_macro": float(np.mean(f1)),
        "f1_micro": float(f1_score(wanted, given, average="micro", zero_division=0)),
        "f1_samples": float(f1_score(wanted, given, average="samples", zero_division=0)),
        "accuracy": float(np.mean([one == other for one, other in zip(rights, found, strict=True)])),
        "per_class": {
            label: {"precision": precision[i], "recall": recall[i], "f1": f1[i], "rows": rows[i]}
            for i, label in enumerate(reading.labels)
        },
    }


def _matrix(rows: Sequence[frozenset[str]], labels: Sequence[str]) -> Any:
    """Return 1 where a row has a label: int64 ``[rows, labels]``."""
    return np.array([[label in row for label in labels] for row in rows], dtype=np.int64)


TASK = Task(
    name="multi-label-classification",
    pipeline="text-classification",
    head="SequenceClassification",
    problem_type="multi_label_classification",
    columns=ONE_OR_TWO_TEXTS,
    label_column="labels",
    outputs=("logits",),
    right=right,
    names=sorted,
    decode=decode,
    options={"top_k": "threshold"},
    predicted=predicted,
    agrees=lambda labels, answer: labels == predicted(answer),
    score=score,
    metric="f1_macro",
)
