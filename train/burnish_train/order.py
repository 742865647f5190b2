"""The order in which rows are learned from: by length and at random, and the same for a seed and an epoch.

Trainer draws each epoch's order from the state of PyTorch's generator, which a resumed process does not have: inside an
epoch it would skip other rows than those it has seen. Here the order follows from seed and epoch alone.

>>> list(EpochSampler(2, [{"input_ids": [1, 2]}, {"input_ids": [1]}], seed=0))  # doctest: +SKIP
[0, 1]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class EpochSampler(LengthGroupedSampler):
    """Numbers of rows, rows of like length together.

    Args:
        batch_size: rows of a step.
        rows: each with ``input_ids``.
        seed: of the whole run.
    """

    def __init__(self, batch_size: int, rows: Sequence[Any], *, seed: int) -> None:
        super().__init__(batch_size, rows, model_input_name="input_ids")
        self._seed, self._epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; Trainer does, at the start of each."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the rows of the epoch, each once."""
        self.generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(super().__iter__())
