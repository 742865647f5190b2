"""Losses by the name of a head: what training minimizes, computed in float32 whatever the forward pass ran in.

>>> LOSSES["SequenceClassification"](logits, labels, 0.1)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float) -> torch.Tensor:
    """Return the mean cross-entropy of logits ``[rows, labels]`` against label numbers ``[rows]``.

    Args:
        logits: any float type.
        labels: int64.
        label_smoothing: share of the target spread evenly over all labels (Szegedy et al., 2016, arXiv:1512.00567).
    """
    return functional.cross_entropy(logits.float(), labels, label_smoothing=label_smoothing)


LOSSES: dict[str, Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]] = {
    "SequenceClassification": cross_entropy,
}
