"""A stage before the labels: texts of one label are drawn together and others apart, which few rows are enough for.

Each batch holds several rows of several labels, and each row is compared with all others (supervised contrastive
learning, Khosla et al., 2020, arXiv:2004.11362). SetFit (Tunstall et al., 2022, arXiv:2209.11055) has shown that
sentence encoders learn more from few rows this way than from a head alone; the head begins with a linear probe of the
vectors that come out.

>>> batches(["a", "a", "b"], labels=2, rows=2, count=1, seed=0)  # doctest: +SKIP
[[0, 1, 2]]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

LABELS, ROWS = 16, 4
"""Of a batch: how many labels, and rows of each."""
TEMPERATURE = 0.07
"""Of Khosla et al.: the smaller, the more the nearest of other labels count."""


def batches(labels: Sequence[Any], *, count: int, seed: int) -> list[list[int]]:
    """Return so many batches of row numbers, with up to `ROWS` rows of `LABELS` labels each, drawn by a seed."""
    random = np.random.default_rng(seed)
    rows: dict[Any, list[int]] = {}
    for number, label in enumerate(labels):
        rows.setdefault(label, []).append(number)
    names = sorted(rows)
    found = []
    for _ in range(count):
        chosen = random.permutation(len(names))[:LABELS]
        drawn = [random.permutation(rows[names[number]])[:ROWS] for number in chosen]
        found.append([int(row) for some in drawn for row in some])
    return found


def loss_of(vectors: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return the supervised contrastive loss of vectors ``[rows, width]``; 0 where no two rows have one label."""
    unit = functional.normalize(vectors.float(), dim=-1)
    alike = unit @ unit.T / TEMPERATURE
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    scores = alike.masked_fill(itself, -torch.inf).log_softmax(-1)
    same = (labels[:, None] == labels[None, :]) & ~itself
    partners = same.sum(-1)
    each = -scores.masked_fill(~same, 0.0).sum(-1) / partners.clamp(min=1)
    return each.sum() / (partners > 0).sum().clamp(min=1)


def draw_together(
    model: Any,
    vectors_of: Callable[[list[int]], torch.Tensor],
    labels: Sequence[int],
    *,
    steps: int,
    rate: float,
    seed: int,
) -> None:
    """Train a model's encoder so that rows of one label have like vectors.

    Args:
        model: whose weights learn, in training mode from here on.
        vectors_of: numbers of rows -> their vectors ``[rows, width]``, with a gradient.
        labels: number of each row's label.
        steps: how many batches.
        rate: the highest learning rate; it rises for a tenth of the steps and falls to 0.
        seed: of the batches.
    """
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=rate)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(2, steps), pct_start=0.1)
    model.train()
    for batch in batches(labels, count=steps, seed=seed):
        optimizer.zero_grad()
        loss_of(vectors_of(batch), torch.tensor([labels[row] for row in batch])).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        plan.step()
    optimizer.zero_grad()
