"""Word vectors moved to where it hurts most: a batch that is read again so teaches answers that small moves leave.

Miyato et al., 2017, arXiv:1605.07725.

>>> with moved(model.get_input_embeddings().weight, 1.0):  # doctest: +SKIP
...     loss(batch).backward()
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def moved(weight: torch.nn.Parameter, length: float) -> Iterator[None]:
    """Move a weight by so much along its gradient, while this context lasts."""
    slope = torch.zeros_like(weight) if weight.grad is None else weight.grad
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(slope, alpha=length / max(float(slope.norm()), 1e-12))
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)
