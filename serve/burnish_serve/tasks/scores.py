"""From logits to scores between 0 and 1.

>>> softmax(np.zeros((1, 2), dtype=np.float32)).tolist()
[[0.5, 0.5]]
"""

from __future__ import annotations

import numpy as np

from burnish_serve.tasks.task import Logits


def softmax(logits: Logits) -> Logits:
    """Return the softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    scores: Logits = shifted / shifted.sum(axis=-1, keepdims=True)
    return scores


def sigmoid(logits: Logits) -> Logits:
    """Return 1 / (1 + exp(-x)), without its overflow."""
    scores: Logits = np.exp(-np.logaddexp(np.float32(0), -logits))
    return scores
