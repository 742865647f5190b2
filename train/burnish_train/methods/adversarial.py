"""Word vectors moved to where it hurts most: a batch that is read again so teaches answers that small moves leave.

Miyato et al., 2017, arXiv:1605.07725.

>>> words = model.get_input_embeddings().weight  # doctest: +SKIP
>>> with moved(words, words.grad, 1.0):  # doctest: +SKIP
...     loss(batch).backward()
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def moved(weight: torch.nn.Parameter, slope: torch.Tensor, length: float) -> Iterator[None]:
    """Move a weight by so much along a slope, while this context lasts; nowhere where that is not finite.

    Args:
        weight: is what it was afterwards.
        slope: of the same shape; in fp16 it overflows in steps that the optimizer leaves out.
        length: of the move.
    """
    before, norm = weight.detach().clone(), float(slope.norm())
    if math.isfinite(norm):
        with torch.no_grad():
            weight.add_(slope, alpha=length / max(norm, 1e-12))
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)
