"""The order in which rows are learned from: by length and at random, and the same for a seed and an epoch.

Trainer draws each epoch's order from the state of PyTorch's generator, which a resumed process does not have: inside an
epoch it would skip other rows than those it has seen. Here the order follows from seed and epoch alone. Where several
processes learn, each takes its share of every batch, and all of them together take each row once.

>>> list(EpochBatches(2, [{"input_ids": [1, 2]}, {"input_ids": [1]}], seed=0))  # doctest: +SKIP
[[0, 1]]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from burnish_serve.errors import InputError


class EpochBatches(Sampler[list[int]]):
    """Numbers of the rows of each batch, rows of like length together.

    Args:
        batch_size: rows of a batch of one process.
        rows: each with ``input_ids``.
        seed: of the whole run.
        processes: how many learn together.
        process: which of them this is, from 0.

    Raises:
        InputError: there are fewer rows than processes.
    """

    def __init__(
        self, batch_size: int, rows: Sequence[Any], *, seed: int, processes: int = 1, process: int = 0
    ) -> None:
        if len(rows) < processes:
            raise InputError(f"{len(rows)} rows to learn from are too few for {processes} processes")
        self._lengths = [len(row["input_ids"]) for row in rows]
        self._size = batch_size * processes
        self._seed, self._epoch = seed, 0
        self._processes, self._process = processes, process

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next; Trainer does, at the start of each."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self._bounds())

    def __iter__(self) -> Iterator[list[int]]:
        """Yield this process's rows of each batch."""
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        order = get_length_grouped_indices(self._lengths, self._size, generator=generator)
        for start, end in self._bounds():
            yield order[start:end][self._process :: self._processes]

    def _bounds(self) -> list[tuple[int, int]]:
        """Return where each batch of all processes begins and ends; a last one of too few rows joins its neighbour."""
        starts = list(range(0, len(self._lengths), self._size))
        if len(starts) > 1 and len(self._lengths) - starts[-1] < self._processes:
            starts.pop()
        return list(zip(starts, [*starts[1:], len(self._lengths)], strict=True))


class EpochLoader(DataLoader[Any]):
    """A loader that tells its batches which epoch it is."""

    def __init__(self, rows: Any, batches: EpochBatches, **rest: Any) -> None:
        super().__init__(rows, batch_sampler=batches, **rest)
        self._batches = batches

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes next."""
        self._batches.set_epoch(epoch)
