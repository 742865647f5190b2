"""One label out of several for a text, or for a pair of texts: sentiment, intent, topic, entailment.

The answer has the shape of transformers' ``pipeline("text-classification")``: ``{"label": "positive", "score": 0.99}``.
Where a label for rejection is set, it is the answer when the best label's score is below what was fitted on dev rows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from burnish_serve.errors import InputError, MissingExtraError
from burnish_serve.tasks.scores import softmax
from burnish_serve.tasks.task import Answer, Asked, Logits, Reading, Row, Task, label_of

ONE_OR_TWO_TEXTS = (("text_a", "text_b"), ("text", "text_pair"), ("text",))
BINS = 15


def right(row: Row, asked: Mapping[str, Any], column: str, where: str) -> str:
    """Return the label of a row.

    Raises:
        InputError: there is none, or it is neither text nor a whole number.
    """
    label = label_of(row, column, where)
    if isinstance(label, dict | list | float):
        raise InputError(f"{where}: a label is text or a whole number, not {json.dumps(label)}")
    return str(label)


def decode(
    asked: Sequence[Asked],
    logits: Logits,
    reading: Reading,
    *,
    top_k: int | None = 1,
    reject_below: float | None = None,
) -> list[Answer]:
    """Return the best label of each row with its probability, or the ``top_k`` best as a list (all where None).

    Args:
        asked: the rows.
        logits: float32 ``[rows, labels]``.
        reading: labels, temperature and what is rejected.
        top_k: how many answers a row.
        reject_below: another limit than the one that was fitted; 0 rejects nothing.

    Raises:
        InputError: ``top_k`` is no number of answers.
    """
    check_top_k(top_k)
    decoding = reading.decoding
    if decoding.temperature != 1:
        logits = logits / np.float32(decoding.temperature)
    wanted = top_k and top_k + bool(decoding.reject_label)  # the label for rejection may stand among them
    ranked = rank(softmax(logits), reading.labels, wanted)
    if decoding.reject_label:
        below = decoding.reject_below if reject_below is None else reject_below
        ranked = [_rejecting(answers, decoding.reject_label, below)[:top_k] for answers in ranked]
    return [answers[0] for answers in ranked] if top_k == 1 else list(ranked)


def check_top_k(top_k: Any) -> None:
    """Raise InputError where ``top_k`` is neither a whole number from 1 nor None."""
    if top_k is not None and (type(top_k) is not int or top_k < 1):
        raise InputError(f"top_k must be a whole number from 1, or None for all, not {top_k!r}")


def rank(scores: Logits, labels: Sequence[str], top_k: int | None) -> list[list[dict[str, Any]]]:
    """Return the ``top_k`` best labels of each row with their scores ``[rows, labels]``, best first."""
    one = top_k == 1 and scores.shape[-1] > 0
    best = scores.argmax(-1)[:, None] if one else np.argsort(-scores, axis=-1, kind="stable")[:, :top_k]
    values = np.take_along_axis(scores, best, axis=-1).tolist()
    return [
        [{"label": labels[column], "score": score} for column, score in zip(columns, row_scores, strict=True)]
        for columns, row_scores in zip(best.tolist(), values, strict=True)
    ]


def _rejecting(ranked: list[dict[str, Any]], label: str, below: float) -> list[dict[str, Any]]:
    """Return the answers with the label for rejection first where the best one's score is below a limit.

    Its score is then the probability that the best label is wrong.
    """
    best = ranked[0]
    if best["label"] == label or best["score"] >= below:
        return ranked
    return [{"label": label, "score": 1 - best["score"]}, *(one for one in ranked if one["label"] != label)]


def first_of(answer: Answer) -> dict[str, Any]:
    """Return the best of a row's answers."""
    best: dict[str, Any] = answer[0] if isinstance(answer, list) else answer
    return best


def predicted(answer: Answer) -> str:
    """Return the label of an answer."""
    return str(first_of(answer)["label"])


def score(rights: Sequence[str], answers: Sequence[Answer], reading: Reading) -> dict[str, Any]:
    """Return accuracy, macro precision, recall and F1, calibration, and the first four per class with its rows.

    Macro means are over the classes that stand in ``rights`` or the answers, as scikit-learn counts them. Where a label
    for rejection is set: the accuracy on rows that have another label, and the recall of the rows that have it.

    Raises:
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.metrics import accuracy_score, precision_recall_fscore_support
    except ImportError as error:
        raise MissingExtraError("scoring", "eval") from error
    found = [predicted(answer) for answer in answers]
    order = {label: number for number, label in enumerate(reading.labels)}
    present = sorted(set(rights) | set(found), key=lambda label: order.get(label, len(order)))
    per_class = precision_recall_fscore_support(rights, found, labels=present, zero_division=0)
    precision, recall, f1, rows = (column.tolist() for column in per_class)
    hits = np.array([one == other for one, other in zip(rights, found, strict=True)])
    metrics: dict[str, Any] = {
        "accuracy": float(accuracy_score(rights, found)),
        "precision_macro": float(np.mean(precision)),
        "recall_macro": float(np.mean(recall)),
        "f1_macro": float(np.mean(f1)),
        "calibration_error": calibration_error(np.array([first_of(answer)["score"] for answer in answers]), hits),
    }
    if reading.decoding.reject_label:
        outside = np.array([one == reading.decoding.reject_label for one in rights])
        metrics["accuracy_in_scope"] = float(hits[~outside].mean()) if (~outside).any() else 0.0
        metrics["recall_rejected"] = float(hits[outside].mean()) if outside.any() else 0.0
    metrics["per_class"] = {
        label: {"precision": precision[i], "recall": recall[i], "f1": f1[i], "rows": rows[i]}
        for i, label in enumerate(present)
    }
    return metrics


def calibration_error(confidence: Any, hits: Any) -> float:
    """Return the expected calibration error in 15 bins of equal width (Naeini et al., 2015).

    Args:
        confidence: the score of each answer ``[rows]``.
        hits: whether it was right ``[rows]``.
    """
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, weights=confidence - hits, minlength=BINS)
    return float(np.abs(gaps).sum() / max(1, len(bins)))


TASK = Task(
    name="text-classification",
    pipeline="text-classification",
    head="SequenceClassification",
    problem_type="single_label_classification",
    columns=ONE_OR_TWO_TEXTS,
    label_column="label",
    outputs=("logits",),
    right=right,
    names=lambda label: (label,),
    decode=decode,
    options={"top_k": 1, "reject_below": None},
    predicted=predicted,
    agrees=lambda label, answer: label == predicted(answer),
    score=score,
    metric="accuracy",
)
