"""Which students to try, in which order: the largest that should be fast enough first, since it loses least.

How fast a student will be is guessed from how much it computes; the bundle's own speed decides afterwards.

>>> students(6, 2.0)[0]
Student(layers=3, feed_forward=0.75)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHARES = (1.0, 0.75, 0.5, 0.25)
# What a layer of a BERT computes: a third in attention's projections, the rest in its feed-forward; and what is done
# once for a text, tokens, vectors and head, in layers: measured on int8 bundles of 6 layers, 384 wide (bench/LOG.md).
ATTENTION = 0.45
ONCE = 0.35


@dataclass(frozen=True, order=True)
class Student:
    """How much of its teacher a student keeps."""

    layers: int
    feed_forward: float
    heads: float = 1.0

    @property
    def cost(self) -> float:
        """Return what it computes for a text, in layers of the teacher."""
        return ONCE + self.layers * (ATTENTION * self.heads + (1 - ATTENTION) * self.feed_forward)

    @property
    def name(self) -> str:
        """Return what its folder is called."""
        return f"{self.layers}-layers-{self.feed_forward:g}" + (f"-heads-{self.heads:g}" if self.heads < 1 else "")


def students(layers: int, speedup: float, heads: float = 1.0) -> list[Student]:
    """Return the students of a teacher with so many layers that should be so many times as fast, the largest first.

    Each keeps the same share of its heads. Of students that cost the same, the deeper is the better one.
    """
    every = [Student(count, share, heads) for count in range(1, layers + 1) for share in SHARES]
    most = Student(layers, 1.0).cost / speedup
    return sorted((one for one in every if one.cost <= most), key=lambda one: (-round(one.cost, 1), -one.layers))


def smaller(left: Sequence[Student], reached: float) -> list[Student]:
    """Return the students to try after the first of these, which reached a share of the speed that was asked for.

    Where it was too slow, so would be all that compute nearly as much: how fast this machine is on these texts is
    known now, and no guess any more.
    """
    most = left[0].cost * min(1.0, reached)
    return [one for one in left[1:] if one.cost <= most]
