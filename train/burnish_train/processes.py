"""Several processes that learn together, as ``torchrun`` and ``accelerate launch`` start them; and one alone.

Each reads all rows and takes its share of every batch; the first alone touches folders and speaks.

>>> with first_alone():  # doctest: +SKIP
...     prepare(folder)
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator

from burnish_serve import machine


def number() -> int:
    """Return which process this is, from 0."""
    return int(os.environ.get("RANK", "0"))


def count() -> int:
    """Return how many processes learn together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def hush() -> None:
    """Let none but the first process write to standard output."""
    if number():
        sys.stdout = io.StringIO()


def num_threads() -> int:
    """Return the CPU threads of this process: its share of the machine's."""
    return max(1, machine.num_threads() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def join(*, cuda: bool) -> None:
    """Meet the other processes, where there are any: gloo joins CPUs, NCCL GPUs."""
    if count() > 1:
        import accelerate

        accelerate.PartialState(cpu=not cuda)


def wait() -> None:
    """Go on when all processes are here."""
    if count() > 1:
        import accelerate

        accelerate.PartialState().wait_for_everyone()


@contextlib.contextmanager
def first_alone() -> Iterator[bool]:
    """Let the first process do something before the others go on; the value says whether this is the first."""
    first = number() == 0
    if not first:
        wait()
    try:
        yield first
    finally:
        if first:
            wait()
