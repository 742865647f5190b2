"""What is fitted on dev rows once a model is trained: temperature, thresholds, and below which score to reject.

>>> temperature(logits, labels)  # doctest: +SKIP
1.31
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from burnish_serve.tasks import Logits
from burnish_serve.tasks.scores import sigmoid, softmax

# A model without a mistake on dev would ask for a temperature of 0, where all scores are 1 and tell nothing any more.
LEAST_TEMPERATURE = 0.25
# Scores from here on are never rejected: so near to 1, int8 and float32 differ in the last bits.
SURE = 0.999

Numbers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def temperature(logits: Logits, right: Numbers) -> float:
    """Return what to divide logits by so that scores are shares of right answers (Guo et al., 2017, arXiv:1706.04599).

    Args:
        logits: float32 ``[rows, labels]``.
        right: numbers of the right labels ``[rows]``.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        scores = softmax(logits.astype(np.float64) / np.exp(log_temperature))
        return float(-np.log(np.maximum(scores[np.arange(len(right)), right], 1e-12)).mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(LEAST_TEMPERATURE), 3), method="bounded").x))


def reject_below(logits: Logits, right: Numbers, outside: int, max_drop: float) -> float:
    """Return the highest score to reject below, up to `SURE`, at which not too many right answers are lost.

    Args:
        logits: calibrated, float32 ``[rows, labels]``.
        right: numbers of the right labels ``[rows]``.
        outside: number of the label that rejection answers with; -1 where the model has none.
        max_drop: share of the rows with other labels that may be answered rightly without rejection and not with it.
    """
    scores = softmax(logits)
    best, confidence = scores.argmax(-1), scores.max(-1)
    inside = right != outside
    hits = np.sort(confidence[(best == right) & (best != outside)])
    lost = int(max_drop * inside.sum())
    if not len(hits):
        return 0.0
    return float(min(hits[min(lost, len(hits) - 1)], SURE))


def thresholds(logits: Logits, right: Flags, labels: Sequence[str]) -> dict[str, float]:
    """Return for each label the threshold with the best F1 on the rows; 0.5 where a label has none.

    Args:
        logits: float32 ``[rows, labels]``.
        right: whether a row has a label ``[rows, labels]``.
        labels: their names.
    """
    scores = sigmoid(logits)
    found = {}
    for number, label in enumerate(labels):
        order = np.argsort(-scores[:, number], kind="stable")
        hits = np.cumsum(right[order, number])
        if not len(hits) or not hits[-1]:
            found[label] = 0.5
            continue
        ranked = np.append(scores[order, number].astype(np.float64), 0.0)
        f1 = np.where(ranked[:-1] > ranked[1:], 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1]), 0.0)
        last = int(np.argmax(f1))  # rows of one score are given a label all or none
        found[label] = float((ranked[last] + ranked[last + 1]) / 2)
    return found
