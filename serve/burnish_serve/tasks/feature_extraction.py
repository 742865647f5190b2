"""A vector for a text: the mean of its tokens' vectors, of length 1, so that a product of two is their cosine.

The answer for a text is a list of numbers, as sentence-transformers' ``encode`` gives it; for a pair of texts it is
their similarity, ``{"score": 0.83}``, and labelled pairs are what such a model is trained and scored on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from burnish_serve.errors import InputError
from burnish_serve.tasks.pooling import mean
from burnish_serve.tasks.regression import correlations, right
from burnish_serve.tasks.task import Answer, Asked, Logits, Outputs, Reading, Task
from burnish_serve.tasks.text_classification import ONE_OR_TWO_TEXTS


def decode(asked: Sequence[Asked], outputs: Outputs, reading: Reading) -> list[Answer]:
    """Return the vector of each text, or the cosine of each pair's.

    Args:
        asked: the rows.
        outputs: of each row its windows' float32 ``[tokens, width]``.
        reading: not used.
    """
    answers: list[Answer] = []
    for row, windows in zip(asked, outputs, strict=True):
        vectors = _vectors(row, windows)
        answers.append({"score": float(vectors[0] @ vectors[1])} if len(vectors) == 2 else vectors[0].tolist())
    return answers


def _vectors(row: Asked, windows: Sequence[Logits]) -> list[Logits]:
    """Return the vector of each text of a row; of a long one's windows the mean, by their tokens."""
    sums: list[Any] = [0.0 for _ in row.texts]
    for window, hidden in zip(row.windows, windows, strict=True):
        pooled = mean(hidden[None], np.ones((1, len(hidden)), dtype=np.int64))[0]
        sums[window.part] = sums[window.part] + pooled * np.float32(len(hidden))
    return [(total / max(float(np.linalg.norm(total)), 1e-12)).astype(np.float32) for total in sums]


def score(rights: Sequence[float], answers: Sequence[Answer], reading: Reading) -> dict[str, Any]:
    """Return the correlations of labelled pairs with their cosines.

    Raises:
        InputError: the rows are single texts.
        MissingExtraError: SciPy is not installed.
    """
    if any(isinstance(answer, list) for answer in answers):
        raise InputError("vectors are scored on pairs: rows with text_a, text_b and score")
    found = correlations(rights, [answer["score"] for answer in answers])
    return {name: found[name] for name in ("spearman", "pearson")}


TASK = Task(
    name="feature-extraction",
    pipeline="feature-extraction",
    head="",
    columns=ONE_OR_TWO_TEXTS,
    label_column="score",
    outputs=("last_hidden_state",),
    labelled=False,
    per_token=True,
    apart=True,
    right=right,
    decode=decode,
    predicted=lambda answer: None,
    score=score,
    metric="spearman",
)
