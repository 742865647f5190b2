"""The proof: a graph against PyTorch in float32, over batches and lengths of many sizes with ragged padding.

A single input proves nothing: exporters were seen to be exact on one shape and wrong on padded batches of another. Real
rows are used where there are enough, and random ids for the rest. What is compared are the decisions that the outputs
stand for: a label of a text, a label of each real token, a start and an end among the real tokens.

>>> prove(make_cases(TorchSession(network), network, rows), session, "fp32", exact=True)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from burnish_export.network import Network
from burnish_serve.batching import Ids
from burnish_serve.errors import ProofError
from burnish_serve.session import Session
from burnish_serve.tasks import Encoded, Logits

BATCHES = (1, 2, 7, 32)
LENGTHS = (1, 2, 3, 17, 64)
MAX_TOKENS = 16_384
MAX_VALUES = 2**24
# A float32 graph may differ from PyTorch by rounding alone: this share of the largest logit.
TOLERANCE = 1e-5
INVARIANCE_ROWS = 32


class Case(NamedTuple):
    """One batch with the answers that are due."""

    shape: tuple[int, int]
    feed: dict[str, Ids]
    wanted: list[Logits]
    """The reference's `decisions`."""


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
    """Decisions that differ."""
    decisions: int
    """Decisions compared: a label of a text or token, a start, an end."""


def proof_shapes(max_length: int, width: int = 1) -> tuple[tuple[int, int], ...]:
    """Return the (batch, length) pairs of a proof.

    Args:
        max_length: tokens that the model reads at the most.
        width: numbers that it gives for each token.
    """
    most = min(MAX_TOKENS, max(MAX_VALUES // width, max_length))
    lengths = sorted({*(length for length in LENGTHS if length < max_length), max_length})
    return tuple((rows, length) for rows in BATCHES for length in lengths if rows * length <= most)


def make_cases(reference: Session, network: Network, real: Sequence[Encoded]) -> list[Case]:
    """Return the batches of a proof with PyTorch's answers, to hold every variant against.

    Args:
        reference: PyTorch in float32.
        network: knows the inputs, and how much the model reads.
        real: encoded real rows, used where they are long enough.
    """
    random = np.random.default_rng(0)
    cases = []
    for rows, length in proof_shapes(network.max_length, network.width):
        batch = [_row(random, real, length, number, network.config.vocab_size) for number in range(rows)]
        feed = network.feed(batch)
        cases.append(Case((rows, length), feed, decisions(network.outputs, reference.run(None, feed), feed)))
    return cases


def prove(cases: Sequence[Case], session: Session, outputs: Sequence[str], name: str, *, exact: bool) -> Proof:
    """Hold a graph against PyTorch.

    Args:
        cases: from `make_cases`.
        session: the graph.
        outputs: names of its outputs.
        name: of the variant, for messages.
        exact: whether the graph must agree up to rounding (float32); else the differences are only counted.

    Raises:
        ProofError: an exact graph differs by more than `TOLERANCE` of the logits' scale, or changes a decision whose
            margin is larger than twice that; or any graph gives a number that is not finite.
    """
    wanted = [matrix for case in cases for matrix in case.wanted]
    got = [matrix for case in cases for matrix in decisions(outputs, session.run(outputs, case.feed), case.feed)]
    return compare(wanted, got, name, tuple(case.shape for case in cases), exact=exact)


def compare(
    wanted: Sequence[Logits],
    got: Sequence[Logits],
    name: str,
    shapes: tuple[tuple[int, int], ...] = (),
    *,
    exact: bool,
) -> Proof:
    """Return the differences between two lists of logits ``[decisions, choices]``, NaN where no choice is; see `prove`.

    Raises:
        ProofError: see `prove`.
    """
    difference, scale, changes, total, margins = 0.0, 0.0, 0, 0, []
    for right, ours in zip(wanted, got, strict=True):
        if right.shape != ours.shape or not (np.isfinite(ours) == np.isfinite(right)).all():
            raise ProofError(
                f"{name} gives logits that are not numbers, or {ours.shape} of them where {right.shape} are due"
            )
        difference = max(difference, float(np.nanmax(np.abs(right - ours), initial=0)))
        scale = max(scale, float(np.nanmax(np.abs(right), initial=0)))
        changed = np.nanargmax(right, -1) != np.nanargmax(ours, -1)
        changes, total = changes + int(changed.sum()), total + len(changed)
        margins.append(_margins(right)[changed])
    allowed = TOLERANCE * scale
    flips = int((np.concatenate([*margins, [0.0]]) > 2 * allowed).sum())
    if exact and (difference > allowed or flips):
        raise ProofError(
            f"{name} does not answer as the model does: logits differ by up to {difference:.2g}, rounding is "
            f"{allowed:.2g}, and {flips} of {total} labels change; nothing was written"
        )
    return Proof(shapes=shapes, max_difference=difference, scale=scale, label_changes=changes, decisions=total)


def decisions(names: Sequence[str], outputs: Sequence[Logits], feed: dict[str, Ids]) -> list[Logits]:
    """Return the logits of each decision, a matrix ``[decisions, choices]`` for each output, padding left out.

    Args:
        names: ``logits`` of a sequence ``[rows, labels]`` or of tokens ``[rows, length, labels]``, or ``start_logits``
            and ``end_logits`` ``[rows, length]``, whose choices are the tokens.
        outputs: the arrays.
        feed: the batch; its mask says which tokens are real.
    """
    real = feed["attention_mask"].astype(bool)
    matrices = []
    for name, array in zip(names, outputs, strict=True):
        if array.ndim == 3:
            matrices.append(array[real])
        else:
            matrices.append(array if name == "logits" else np.where(real, array, np.float32(np.nan)))
    return matrices


def is_batch_invariant(session: Session, network: Network, rows: Sequence[Encoded], *, exact: bool = False) -> bool:
    """Return whether rows get the same logits alone as together: to the last bit, or up to rounding of float32."""

    def answers(batch: Sequence[Encoded]) -> list[Logits]:
        feed = network.feed(batch)
        found = decisions(network.outputs, session.run(network.outputs, feed), feed)
        return [matrix[np.isfinite(matrix)] for matrix in found]

    rows = rows[:INVARIANCE_ROWS]
    alone = [np.concatenate(parts) for parts in zip(*(answers([row]) for row in rows), strict=True)]
    pairs = zip(answers(rows), alone, strict=True)
    allowed = 0.0 if exact else TOLERANCE
    return all(np.abs(one - other).max() <= allowed * np.abs(one).max() for one, other in pairs)


def _margins(logits: Logits) -> npt.NDArray[np.float32]:
    """Return the distance between the best and the second choice of each decision; infinite where there is one."""
    if logits.shape[-1] < 2:
        return np.full(len(logits), np.inf, dtype=np.float32)
    ordered = np.sort(np.where(np.isnan(logits), -np.inf, logits), axis=-1)
    margins: npt.NDArray[np.float32] = ordered[:, -1] - ordered[:, -2]
    return margins


def _row(random: np.random.Generator, real: Sequence[Encoded], length: int, number: int, vocab_size: int) -> Encoded:
    """Return a row of a batch: the first as long as the batch, the others ragged; every second one real text."""
    if number:
        length = int(random.integers(max(1, length // 3), length + 1))
    if real and number % 2 == 0:
        joined = np.concatenate([real[int(i)].ids for i in random.integers(0, len(real), 1 + length // 8)])
        if len(joined) >= length:
            return Encoded(joined[:length], np.zeros(length, dtype=np.int64), truncated=False)
    segments = (np.arange(length) >= random.integers(1, length + 1)).astype(np.int64)
    return Encoded(random.integers(0, vocab_size, length), segments, truncated=False)
