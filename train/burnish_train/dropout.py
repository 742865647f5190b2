"""Dropout for CPUs: random bits taken eight bytes at a time.

PyTorch draws one number for each element, one after another, and where a model is small that takes a third of a
training step on a CPU. Sixteen random bits decide as well which elements stay (Srivastava et al., 2014, JMLR 15).

>>> with FastDropout():  # doctest: +SKIP
...     model(**inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

STEPS = 1 << 16
"""Values of the bits that decide about one element."""
PER_DRAW = 4
"""Elements that one random 64-bit integer decides about."""


def dropout(tensor: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """Return what `torch.nn.functional.dropout` would, with ``p`` rounded to a multiple of 2 to the power of -16."""
    zeroed = round(p * STEPS)
    if not training or not zeroed or zeroed == STEPS:
        return torch.nn.functional.dropout(tensor, p, training, inplace)
    count = tensor.numel()
    drawn = torch.empty(-(-count // PER_DRAW), dtype=torch.int64).random_(-(1 << 63), None)
    stays = drawn.view(torch.int16)[:count].view(tensor.shape) >= zeroed - STEPS // 2
    scale = stays.to(tensor.dtype).mul_(STEPS / (STEPS - zeroed))
    return tensor.mul_(scale) if inplace else tensor * scale


class FastDropout(TorchFunctionMode):
    """Within it, every call of `torch.nn.functional.dropout` on CPU tensors is ours."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, or `dropout` in its place."""
        ours = func is torch.nn.functional.dropout and args and args[0].device.type == "cpu"
        return (dropout if ours else func)(*args, **(kwargs or {}))
