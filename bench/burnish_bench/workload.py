"""What is measured on: the user's own rows, or the bundle's golden rows, and random tokens for the sweep.

>>> read_workload("reviews.jsonl", TASKS["text-classification"], max_rows=4096).rows[0]  # doctest: +SKIP
{'text': 'great film'}
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from burnish_bench.config import TuneConfig
from burnish_serve.bundle import Bundle
from burnish_serve.errors import InputError
from burnish_serve.rows import read_rows
from burnish_serve.tasks import Asked, Encoded, Row, Task, task_named

# Golden rows are a handful: repeated to this many texts, a call is long enough to fill several batches.
GOLDEN_TEXTS = 256


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Rows to measure on."""

    source: str
    """The file, or ``golden rows``."""
    rows: tuple[Row, ...]
    """What one call answers, with the task's text columns and no others."""
    distinct: int
    """Rows before they were repeated."""
    cut: bool = False
    """Whether the file has more rows than were taken."""


def workload_of(bundle: Bundle, config: TuneConfig) -> Workload:
    """Return the rows that a config names, or the bundle's golden rows; see the two below for errors."""
    if config.data is None:
        return golden_workload(bundle)
    task = task_named(bundle.manifest.task)
    return read_workload(config.data, task, max_rows=config.max_rows, text_column=config.text_column)


def read_workload(path: str, task: Task, *, max_rows: int, text_column: str = "text") -> Workload:
    """Return the first rows of a file.

    Args:
        path: a file of rows, or ``-`` for standard input.
        task: says which columns hold text.
        max_rows: rows that are taken at the most.
        text_column: the column to read where the task has one text.

    Raises:
        InputError: the file is missing, cannot be read, lacks the column, or has no rows.
    """
    first = itertools.islice(read_rows(path), max_rows + 1)
    rows: list[Row] = [task.asked(row, f"{path}:{number}", text_column) for number, row in first]
    if not rows:
        raise InputError(f"{path} has no rows")
    kept = tuple(rows[:max_rows])
    return Workload(source=path, rows=kept, distinct=len(kept), cut=len(rows) > max_rows)


def golden_workload(bundle: Bundle) -> Workload:
    """Return a bundle's golden rows, repeated to `GOLDEN_TEXTS`.

    Raises:
        InputError: the bundle has none.
    """
    golden = bundle.manifest.golden_rows
    if not golden:
        raise InputError(f"{bundle.folder} has no golden rows to measure on: give your own with --data")
    rows = tuple(itertools.islice(itertools.cycle(golden), max(GOLDEN_TEXTS, len(golden))))
    return Workload(source="golden rows", rows=rows, distinct=len(golden))


def random_batch(encoded: Sequence[Asked], batch_size: int, length: int) -> list[Encoded]:
    """Return rows of random tokens, ids ``[length]`` each, drawn from those of real rows so that all are in the model.

    Args:
        encoded: rows to draw from.
        batch_size: how many rows.
        length: tokens of a row.
    """
    known = np.concatenate([window.ids for row in encoded for window in row.windows])
    random = np.random.default_rng(0)
    types = np.zeros(length, dtype=np.int64)
    return [Encoded(random.choice(known, length), types, False) for _ in range(batch_size)]
