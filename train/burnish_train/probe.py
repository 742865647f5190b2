"""A new head starts where a linear probe of the frozen encoder ends.

A head of random weights sends large, blind gradients into the encoder and bends what it knows; one that is right
already does not (Kumar et al., 2022, arXiv:2202.10054). In training the head sees its vectors through dropout, and one
that was fitted without may trust differences of large numbers that dropout tears apart: so the probe sees it too, which
is also the better measure against overfitting (Wager et al., 2013, arXiv:1307.1493).

>>> with Inputs(model.classifier) as vectors:  # doctest: +SKIP
...     model(**batch)
>>> fit(model.classifier, torch.cat(vectors), lambda logits: cross_entropy(logits, labels), 0.1)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

STEPS = 100
DECAY = 1e-4
# How often each vector is seen, each time with other parts dropped; fewer times where there are many vectors.
COPIES = 4
MOST_VECTORS = 40_000


class Inputs:
    """What a layer is given, while this context lasts: a list of tensors.

    Args:
        layer: the layer.
    """

    def __init__(self, layer: torch.nn.Module) -> None:
        self._layer = layer
        self._seen: list[torch.Tensor] = []

    def __enter__(self) -> list[torch.Tensor]:
        """Begin to look."""
        self._hook = self._layer.register_forward_pre_hook(lambda _, given: self._seen.append(given[0].float()))
        return self._seen

    def __exit__(self, *_: Any) -> None:
        """Look no longer."""
        self._hook.remove()


def fit(
    head: torch.nn.Linear,
    vectors: torch.Tensor,
    loss_of: Callable[[torch.Tensor], torch.Tensor],
    dropout: float = 0.0,
) -> None:
    """Give a linear layer the weights with the least loss on vectors, by L-BFGS with a little decay.

    Args:
        head: the layer.
        vectors: float32 ``[rows, width]`` that it is given.
        loss_of: the loss of training, for logits ``[rows, labels]``.
        dropout: share of the vectors' elements that training drops.
    """
    copies = max(1, min(COPIES, MOST_VECTORS // len(vectors))) if dropout else 1
    centre, spread = vectors.mean(0), vectors.std()
    seen = [(torch.nn.functional.dropout(vectors, dropout) - centre) / spread for _ in range(copies)]
    weight = torch.zeros_like(head.weight, requires_grad=True)
    bias = torch.zeros_like(head.bias, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        losses = torch.stack([loss_of(scaled @ weight.T + bias) for scaled in seen])
        value = losses.mean() + DECAY * (weight**2).sum()
        value.backward()
        return value

    solver.step(loss)
    with torch.no_grad():
        head.weight.copy_(weight / spread)
        head.bias.copy_(bias - (weight / spread) @ centre)
