"""One label out of several for a text: sentiment, intent, topic.

The answer has the shape of transformers' ``pipeline("text-classification")``: ``{"label": "positive", "score": 0.99}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from burnish_serve.errors import MissingExtraError
from burnish_serve.tasks.task import Logits, Task


def decode(logits: Logits, labels: Sequence[str], problem_type: str, top_k: int | None) -> list[list[dict[str, Any]]]:
    """Return the ``top_k`` best labels of each row (all where None) with their probabilities, best first.

    Args:
        logits: float32 ``[rows, labels]``.
        labels: name of each column.
        problem_type: transformers' name: ``single_label_classification`` (softmax) or one with a sigmoid a label.
        top_k: how many answers a row; None for all.
    """
    if problem_type == "single_label_classification":
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        scores = shifted / shifted.sum(axis=-1, keepdims=True)
    else:
        scores = np.exp(-np.logaddexp(0, -logits))  # 1 / (1 + exp(-x)) without its overflow
    best = np.argsort(-scores, axis=-1, kind="stable")[:, :top_k]
    values = np.take_along_axis(scores, best, axis=-1).tolist()
    return [
        [{"label": labels[column], "score": score} for column, score in zip(columns, row_scores, strict=True)]
        for columns, row_scores in zip(best.tolist(), values, strict=True)
    ]


def score(right: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Return accuracy, macro precision, recall and F1, and the same per class with its number of rows.

    Macro means are over the classes that stand in ``right`` or ``predicted``, as scikit-learn counts them.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import accuracy_score, precision_recall_fscore_support
    except ImportError as error:
        raise MissingExtraError("scoring", "eval") from error
    present = sorted(set(right) | set(predicted), key=list(labels).index)
    per_class = precision_recall_fscore_support(right, predicted, labels=present, zero_division=0)
    precision, recall, f1, rows = (column.tolist() for column in per_class)
    return {
        "accuracy": float(accuracy_score(right, predicted)),
        "precision_macro": float(np.mean(precision)),
        "recall_macro": float(np.mean(recall)),
        "f1_macro": float(np.mean(f1)),
        "per_class": {
            label: {"precision": precision[i], "recall": recall[i], "f1": f1[i], "rows": rows[i]}
            for i, label in enumerate(present)
        },
    }


TASK = Task(
    name="text-classification",
    head="SequenceClassification",
    text_columns=("text",),
    label_column="label",
    outputs=("logits",),
    decode=decode,
    score=score,
    metric="accuracy",
)
