"""How fast a run learns: tokens a second, and how much of what the machine multiplies at best that is.

The share is model FLOPs utilization (Chowdhery et al., 2022, arXiv:2204.02311): six operations for each weight that is
no word vector and each token that is no padding, forward and back, without attention's own products. The best is not
taken from a data sheet, it is the machine's own product of two large matrices in the precision of the run.

>>> peak("cpu", "fp32") > 1e9
True
"""

from __future__ import annotations

import time
from typing import Any

import torch
import transformers

from burnish_train import processes

FLOPS_OF_WEIGHT = 6
"""Operations for each weight and token: a product and a sum, once forward and twice back."""
SIDE = {"cpu": 1024, "cuda": 4096}
"""Rows and columns of the matrices whose product is timed."""
TRIES = 5


class Speed(transformers.TrainerCallback):
    """Counts the tokens of all batches, and the seconds of all epochs without their evaluation."""

    def __init__(self) -> None:
        self._tokens: torch.Tensor | None = None
        self._seconds = 0.0
        self._since: float | None = None

    def add(self, attention_mask: torch.Tensor) -> None:
        """Count the tokens of a batch; nothing waits for a GPU."""
        count = attention_mask.sum()
        self._tokens = count if self._tokens is None else self._tokens + count

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to count seconds."""
        self._since = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the seconds of an epoch."""
        self._seconds, self._since = self._counted(), None

    @property
    def own_tokens_per_second(self) -> float:
        """Return the tokens of this process's batches a second, since the run began or went on; 0 where none were."""
        seconds = self._counted()
        return int(self._tokens) / seconds if self._tokens is not None and seconds else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Return the tokens a second of all processes, whose batches are alike."""
        return processes.count() * self.own_tokens_per_second

    def _counted(self) -> float:
        return self._seconds + (0.0 if self._since is None else time.perf_counter() - self._since)


def figures(speed: Speed, model: torch.nn.Module, device: str, precision: str) -> dict[str, float]:
    """Return what a run's record says of its speed.

    Args:
        speed: of this process.
        model: that learned.
        device: ``cpu`` or ``cuda``.
        precision: of the run.
    """
    vectors = {
        id(weight) for part in model.modules() if isinstance(part, torch.nn.Embedding) for weight in part.parameters()
    }
    weights = sum(weight.numel() for weight in model.parameters() if id(weight) not in vectors)
    best = peak(device, precision)
    return {
        "tokens_per_second": round(speed.tokens_per_second, 1),
        "peak_flops": best,
        "share_of_peak": round(FLOPS_OF_WEIGHT * weights * speed.own_tokens_per_second / best, 6),
    }


def peak(device: str, precision: str) -> float:
    """Return the operations a second of the product of two large matrices, the best of some.

    Args:
        device: ``cpu`` or ``cuda``.
        precision: ``fp32``, ``bf16`` or ``fp16``.
    """
    side = SIDE[device]
    kind = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    matrix = torch.full((side, side), 1 / side, dtype=kind, device=device)
    found = []
    for _ in range(TRIES):
        started = time.perf_counter()
        product = matrix @ matrix
        float(product[0, 0])  # waits for it
        found.append(2 * side**3 / (time.perf_counter() - started))
    return max(found)
