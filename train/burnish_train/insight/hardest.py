"""How far a model is from what is right, row by row, so that the rows that it finds hardest can be looked at.

Rows that cost most are where labels are wrong, where two labels overlap, or where something is to be learned that the
train rows do not show. The losses are those of training without label smoothing and class weights, in float64, from
outputs that were computed already.

>>> losses(dev)  # doctest: +SKIP
array([0.02, 4.31, 0.11])
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish_train.insight.answered import Answered
from burnish_train.losses import IGNORED

Floats = npt.NDArray[np.float64]


def losses(dev: Answered) -> Floats:
    """Return the loss of each row ``[rows]``; NaN for a row that nothing can be learned from."""
    return LOSSES[dev.task.name](dev)


def hardest(dev: Answered, count: int) -> list[tuple[int, float]]:
    """Return number and loss of the rows with the greatest loss, greatest first."""
    lost = losses(dev)
    order = [int(number) for number in np.argsort(-lost, kind="stable") if np.isfinite(lost[number])]
    return [(number, float(lost[number])) for number in order[:count]]


def _of_label(dev: Answered) -> Floats:
    """Return the cross-entropies of the right labels, as the answers' scores have it."""
    scores = _log_softmax(np.asarray(dev.outputs) / dev.reading.decoding.temperature)
    right = np.array([dev.target.numbers.get(example.right, -1) for example in dev.examples])
    return np.where(right < 0, np.nan, -scores[np.arange(len(right)), right])


def _of_labels(dev: Answered) -> Floats:
    """Return the mean binary cross-entropy of all labels."""
    logits = np.asarray(dev.outputs, dtype=np.float64)
    wanted = np.array([dev.target.value(example) for example in dev.examples])
    return (np.logaddexp(0, logits) - logits * wanted).mean(axis=1)


def _of_number(dev: Answered) -> Floats:
    """Return the squared errors; of pairs, those of their cosines."""
    wanted = np.array([dev.target.value(example) for example in dev.examples], dtype=np.float64)
    return (np.array([answer["score"] for answer in dev.answers]) - wanted) ** 2


def _of_tags(dev: Answered) -> Floats:
    """Return the mean cross-entropies of the words' tags."""

    def lost(logits: Any, value: Any) -> Floats:
        words = np.flatnonzero(value != IGNORED)
        return -_log_softmax(logits)[words, value[words]]

    return _of_windows(dev, lost)


def _of_places(dev: Answered) -> Floats:
    """Return the means of the cross-entropies of an answer's first and last token."""
    return _of_windows(dev, lambda logits, value: -_log_softmax(logits, axis=0)[list(value), [0, 1]])


def _of_windows(dev: Answered, lost: Callable[[Any, Any], Floats]) -> Floats:
    """Return the mean of what is lost in each row's windows."""
    rows = []
    for example, asked, windows in zip(dev.examples, dev.asked, dev.outputs or [], strict=True):
        values = dev.target.values(example, asked)
        some = [lost(logits, value) for logits, value in zip(windows, values, strict=True) if value is not None]
        rows.append(np.concatenate(some).mean() if some else np.nan)
    return np.array(rows, dtype=np.float64)


def _log_softmax(logits: Any, axis: int = -1) -> Floats:
    from scipy.special import log_softmax

    return np.asarray(log_softmax(np.asarray(logits, dtype=np.float64), axis=axis))


LOSSES: dict[str, Callable[[Answered], Floats]] = {
    "text-classification": _of_label,
    "relation-extraction": _of_label,
    "multi-label-classification": _of_labels,
    "regression": _of_number,
    "feature-extraction": _of_number,
    "token-classification": _of_tags,
    "question-answering": _of_places,
}
"""Of each task whose rows can be ranked; masked words are many a row, and chosen at random."""
