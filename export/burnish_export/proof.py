"""The proof: a graph against PyTorch in float32, over batches and lengths of many sizes with ragged padding.

A single input proves nothing: exporters were seen to be exact on one shape and wrong on padded batches of another. Real
rows are used where there are enough, and random ids for the rest.

>>> prove(make_cases(reference, rows, vocab_size=30522), candidate, exact=True)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from burnish_serve.errors import ProofError
from burnish_serve.runner import Runner
from burnish_serve.tasks import Logits
from burnish_serve.text import Encoded

BATCHES = (1, 2, 7, 32)
LENGTHS = (1, 2, 3, 17, 64)
MAX_TOKENS = 16_384
# A float32 graph may differ from PyTorch by rounding alone: this share of the largest logit.
TOLERANCE = 1e-5
INVARIANCE_ROWS = 32


class Case(NamedTuple):
    """One batch with the answers that are due."""

    shape: tuple[int, int]
    batch: list[Encoded]
    logits: Logits


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was compared and how far apart it was."""

    shapes: tuple[tuple[int, int], ...]
    """(batch, length) of each batch compared."""
    max_difference: float
    """Largest difference of a logit."""
    scale: float
    """Largest logit of the reference, by absolute value."""
    label_changes: int
    """Rows whose best label differs."""
    rows: int
    """Rows compared."""


def proof_shapes(max_length: int) -> tuple[tuple[int, int], ...]:
    """Return the (batch, length) pairs of a proof, for a model that reads so many tokens."""
    lengths = sorted({*(length for length in LENGTHS if length < max_length), max_length})
    return tuple((rows, length) for rows in BATCHES for length in lengths if rows * length <= MAX_TOKENS)


def make_cases(reference: Runner, real: Sequence[Encoded], vocab_size: int) -> list[Case]:
    """Return the batches of a proof with PyTorch's answers, to hold every variant against.

    Args:
        reference: PyTorch in float32.
        real: encoded real rows, used where they are long enough.
        vocab_size: ids are drawn below this.
    """
    random = np.random.default_rng(0)
    cases = []
    for rows, length in proof_shapes(reference.encoder.max_length):
        batch = [_row(random, real, length, number, vocab_size) for number in range(rows)]
        cases.append(Case((rows, length), batch, reference.run_batch(batch)))
    return cases


def prove(cases: Sequence[Case], candidate: Runner, *, exact: bool) -> Proof:
    """Hold a graph against PyTorch.

    Args:
        cases: from `make_cases`.
        candidate: the graph.
        exact: whether the graph must agree up to rounding (float32); else the differences are only counted.

    Raises:
        ProofError: an exact graph differs by more than `TOLERANCE` of the logits' scale, or changes the label of a row
            whose margin is larger than twice that; or any graph gives a number that is not finite.
    """
    wanted = np.concatenate([case.logits for case in cases])
    got = np.concatenate([candidate.run_batch(case.batch) for case in cases])
    return compare(wanted, got, candidate.variant, tuple(case.shape for case in cases), exact=exact)


def compare(wanted: Logits, got: Logits, name: str, shapes: tuple[tuple[int, int], ...] = (), *, exact: bool) -> Proof:
    """Return the differences between two arrays of logits ``[rows, labels]``; see `prove`."""
    if wanted.shape != got.shape or not np.isfinite(got).all():
        raise ProofError(
            f"{name} gives logits that are not numbers, or {got.shape} of them where {wanted.shape} are due"
        )
    difference = float(np.abs(wanted - got).max(initial=0))
    scale = float(np.abs(wanted).max(initial=0))
    changed = wanted.argmax(-1) != got.argmax(-1)
    allowed = TOLERANCE * scale
    if exact:
        best = np.sort(wanted, axis=-1)
        margin = best[:, -1] - best[:, -2] if wanted.shape[-1] > 1 else np.full(len(wanted), np.inf)
        flips = int((changed & (margin > 2 * allowed)).sum())
        if difference > allowed or flips:
            raise ProofError(
                f"{name} does not answer as the model does: logits differ by up to {difference:.2g}, rounding is "
                f"{allowed:.2g}, and {flips} of {len(wanted)} rows get another label; nothing was written"
            )
    return Proof(
        shapes=shapes, max_difference=difference, scale=scale, label_changes=int(changed.sum()), rows=len(wanted)
    )


def is_batch_invariant(runner: Runner, rows: Sequence[Encoded]) -> bool:
    """Return whether rows get the same logits alone as together, up to rounding of float32."""
    rows = rows[:INVARIANCE_ROWS]
    together = runner.run_batch(rows)
    alone = np.concatenate([runner.run_batch([row]) for row in rows])
    return bool(np.abs(together - alone).max() <= TOLERANCE * np.abs(together).max())


def _row(random: np.random.Generator, real: Sequence[Encoded], length: int, number: int, vocab_size: int) -> Encoded:
    """Return a row of a batch: the first as long as the batch, the others ragged; every second one real text."""
    if number:
        length = int(random.integers(max(1, length // 3), length + 1))
    if real and number % 2 == 0:
        joined = np.concatenate([real[int(i)].ids for i in random.integers(0, len(real), 1 + length // 8)])
        if len(joined) >= length:
            return Encoded(joined[:length], np.zeros(length, dtype=np.int64), truncated=False)
    return Encoded(random.integers(0, vocab_size, length), np.zeros(length, dtype=np.int64), truncated=False)
