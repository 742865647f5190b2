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
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float,
    weights: torch.Tensor | None = None,
    gamma: float = 0.0,
) -> torch.Tensor:
    """Return the mean cross-entropy of logits ``[rows, labels]`` against label numbers ``[rows]``.

    Args:
        logits: any float type.
        labels: int64; rows with `IGNORED` count for nothing, and 0 is the loss where there are no others.
        label_smoothing: share of the target spread evenly over all labels (Szegedy et al., 2016, arXiv:1512.00567).
        weights: of each label ``[labels]``.
        gamma: a row counts ``(1 - score of its label) ** gamma`` (Lin et al., 2017, arXiv:1708.02002).
    """
    kept = labels != IGNORED
    numbers = labels.clamp(min=0)
    where = None if weights is None else weights.to(logits.device)
    each = functional.cross_entropy(
        logits.float(), labels, where, label_smoothing=label_smoothing, ignore_index=IGNORED, reduction="none"
    )
    if gamma:
        each = each * (1 - logits.float().softmax(-1).gather(-1, numbers[:, None])[:, 0]) ** gamma
    of_row = kept.float() if where is None else where[numbers] * kept
    return each.sum() / of_row.sum().clamp(min=torch.finfo(torch.float32).tiny)


def binary_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    label_smoothing: float,
    weights: torch.Tensor | None = None,
    gamma: float = 0.0,
) -> torch.Tensor:
    """Return the mean binary cross-entropy of logits ``[rows, labels]`` against shares of 0 to 1 of the same shape.

    Args:
        logits: any float type.
        labels: float32.
        label_smoothing: how far the targets are moved towards one half.
        weights: of a label's positive rows ``[labels]``.
        gamma: a label of a row counts ``(1 - score of what is right) ** gamma``.
    """
    where = None if weights is None else weights.to(logits.device)
    smooth = labels * (1 - label_smoothing) + label_smoothing / 2
    if not gamma:
        return functional.binary_cross_entropy_with_logits(logits.float(), smooth, pos_weight=where)
    each = functional.binary_cross_entropy_with_logits(logits.float(), smooth, pos_weight=where, reduction="none")
    wrong = (logits.float().sigmoid() - labels).abs()
    return (wrong**gamma * each).mean()


def softmax_divergence(logits: torch.Tensor, others: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return the mean divergence of scores from others, both logits ``[rows, labels]``.

    It is multiplied by the square of the temperature, so that gradients stay as long (Hinton et al., 2015,
    arXiv:1503.02531).
    """
    ours, theirs = (part.float().div(temperature).log_softmax(-1) for part in (logits, others))
    return functional.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2


def sigmoid_divergence(logits: torch.Tensor, others: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """Return the same for labels that stand each for itself, a mean over all of them."""
    ours, theirs = logits.float() / temperature, others.float() / temperature
    wanted = theirs.sigmoid()
    apart = functional.binary_cross_entropy_with_logits(ours, wanted)
    return (apart - functional.binary_cross_entropy_with_logits(theirs, wanted)) * temperature**2


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
