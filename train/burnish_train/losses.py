"""Losses: what training minimizes, computed in float32 whatever the forward pass ran in.

>>> cross_entropy(logits, labels, 0.1)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

IGNORED = -100
CLASS_WEIGHTS = ("none", "balanced", "sqrt")


def cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean cross-entropy of logits ``[rows, labels]`` against label numbers ``[rows]``.

    Args:
        logits: any float type.
        labels: int64; rows with `IGNORED` count for nothing.
        label_smoothing: share of the target spread evenly over all labels (Szegedy et al., 2016, arXiv:1512.00567).
        weights: of each label ``[labels]``.
    """
    where = None if weights is None else weights.to(logits.device)
    return functional.cross_entropy(
        logits.float(), labels, weight=where, label_smoothing=label_smoothing, ignore_index=IGNORED
    )


def binary_cross_entropy(
    logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean binary cross-entropy of logits ``[rows, labels]`` against shares of 0 to 1 of the same shape.

    Args:
        logits: any float type.
        labels: float32.
        label_smoothing: how far the targets are moved towards one half.
        weights: of a label's positive rows ``[labels]``.
    """
    where = None if weights is None else weights.to(logits.device)
    smooth = labels * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(logits.float(), smooth, pos_weight=where)


def mean_squared_error(numbers: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean squared error of numbers ``[rows]``."""
    return functional.mse_loss(numbers.float(), wanted)


def class_weights(counts: Sequence[int], rows: int, method: str) -> torch.Tensor | None:
    """Return the weight of each class by its rows: ``balanced`` as scikit-learn's, ``sqrt`` its square root."""
    if method == "none":
        return None
    weights = rows / (len(counts) * torch.tensor(counts, dtype=torch.float32).clamp(min=1))
    return weights.sqrt() if method == "sqrt" else weights


def positive_weights(counts: Sequence[int], rows: int, method: str) -> torch.Tensor | None:
    """Return the weight of each label's positive rows: negatives over positives, or its square root."""
    if method == "none":
        return None
    positive = torch.tensor(counts, dtype=torch.float32).clamp(min=1)
    weights = (rows - positive) / positive
    return weights.sqrt() if method == "sqrt" else weights
