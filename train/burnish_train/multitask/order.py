"""The order of several tasks' batches: each holds rows of one task, and they are mixed by seed and epoch.

A task gets batches in proportion to the rows that it has, raised to 1 / temperature (Raffel et al., 2019,
arXiv:1910.10683). At 1 each row comes once an epoch. Above it a large task goes on in the next epoch where it stopped,
and a small one begins again in the middle of an epoch: no row comes again before all others of its task have come.

>>> shares([30, 10], 1.0), shares([30, 10], 2.0)
([30, 10], [25, 15])
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from burnish_train.order import EpochBatches


class MixedBatches(EpochBatches):
    """Numbers of the rows of each batch, where the rows of all tasks are laid end to end.

    Args:
        batch_size: rows of a batch.
        tasks: rows of each task, with ``input_ids``.
        seed: of the whole run.
        temperature: see `shares`.
    """

    def __init__(self, batch_size: int, tasks: Sequence[Sequence[Any]], *, seed: int, temperature: float) -> None:
        self._tasks = [EpochBatches(batch_size, rows, seed=seed) for rows in tasks]
        self._starts = np.cumsum([0, *(len(rows) for rows in tasks)]).tolist()
        self._counts = shares([len(batches) for batches in self._tasks], temperature)
        self._seed, self._epoch = seed, 0

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return sum(self._counts)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the rows of each batch."""
        order = np.repeat(np.arange(len(self._tasks)), self._counts)
        streams = [self._stream(number) for number in range(len(self._tasks))]
        for number in np.random.default_rng([self._seed, self._epoch]).permutation(order):
            yield next(streams[number])

    def _stream(self, number: int) -> Iterator[list[int]]:
        """Yield the batches of a task without end, from where the epoch before this one stopped."""
        batches, start = self._tasks[number], self._starts[number]
        turn, done = divmod(self._epoch * self._counts[number], len(batches))
        while True:
            batches.set_epoch(turn)
            yield from ([start + row for row in batch] for batch in list(batches)[done:])
            turn, done = turn + 1, 0


def shares(batches: Sequence[int], temperature: float) -> list[int]:
    """Return how many batches of each task make an epoch of about as many as there are.

    Args:
        batches: of all rows of each task.
        temperature: 1 for all of them, infinity for as many of each task.
    """
    rates = np.asarray(batches, dtype=np.float64) ** (1 / temperature)
    counts = np.round(rates / rates.sum() * sum(batches)).astype(int)
    return np.maximum(counts, 1).tolist()
