"""A new head starts where a linear probe of the frozen encoder ends.

A head of random weights sends large, blind gradients into the encoder and bends what it knows; one that is right
already does not (Kumar et al., 2022, arXiv:2202.10054).

>>> with Inputs(model.classifier) as vectors:  # doctest: +SKIP
...     model(**batch)
>>> fit(model.classifier, torch.cat(vectors), lambda logits: cross_entropy(logits, labels))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

STEPS = 100
DECAY = 1e-4


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


def fit(head: torch.nn.Linear, vectors: torch.Tensor, loss_of: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Give a linear layer the weights with the least loss on vectors, by L-BFGS with a little decay.

    Args:
        head: the layer.
        vectors: float32 ``[rows, width]`` that it is given.
        loss_of: the loss of training, for logits ``[rows, labels]``.
    """
    centre, spread = vectors.mean(0), vectors.std()
    scaled = (vectors - centre) / spread
    weight = torch.zeros_like(head.weight, requires_grad=True)
    bias = torch.zeros_like(head.bias, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        solver.zero_grad()
        value = loss_of(scaled @ weight.T + bias) + DECAY * (weight**2).sum()
        value.backward()
        return value

    solver.step(loss)
    with torch.no_grad():
        head.weight.copy_(weight / spread)
        head.bias.copy_(bias - (weight / spread) @ centre)
