"""From one vector a token to what the head of a text reads: the mean, the vectors at the entities' markers, or both.

``first`` is the architecture's own way (the vector of the first token, through its own head) and needs nothing here.
All is written so that numpy arrays and torch tensors both go through it, and as sums over tokens with weights that the
export makes products of: so a text's vectors have the same bits alone and in any batch.

>>> mean(np.ones((1, 3, 4)), np.array([[1, 1, 0]])).shape  # doctest: +SKIP
(1, 4)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

ENTITY_STARTS = ("<e1>", "<e2>")


def mean(hidden: Any, attention_mask: Any) -> Any:
    """Return the mean of each text's token vectors (Reimers and Gurevych, 2019, arXiv:1908.10084).

    Args:
        hidden: ``[rows, length, width]``, floating point.
        attention_mask: ``[rows, length]``, 1 for a token and 0 for padding; every row has a token.

    Returns:
        ``[rows, width]``.
    """
    weights = _weights(attention_mask, hidden)
    return (hidden * weights).sum(1) / weights.sum(1)


def at_token(hidden: Any, attention_mask: Any, input_ids: Any, number: int) -> Any:
    """Return the vector at one token of each text (Baldini Soares et al., 2019, arXiv:1906.03158).

    Args:
        hidden: ``[rows, length, width]``, floating point.
        attention_mask: ``[rows, length]``.
        input_ids: ``[rows, length]``.
        number: the token's id.

    Returns:
        ``[rows, width]``; zeros for a text without the token, the mean where it stands several times.
    """
    weights = _weights(attention_mask * (input_ids == number), hidden)
    count = weights.sum(1)
    return (hidden * weights).sum(1) / (count + (count == 0))


def _weights(flags: Any, hidden: Any) -> Any:
    """Return ``[rows, length]`` of 0 and 1 as floating point ``[rows, length, 1]``, in whichever library."""
    return flags[:, :, None] * (hidden[:, :, :1] * 0 + 1)


@dataclass(frozen=True)
class Pooling:
    """Which vectors of a text a head reads, side by side."""

    tokens: tuple[str, ...] = ()
    """Those at these tokens, which the task adds to the vocabulary (`Task.tokens`)."""
    whole: bool = False
    """Behind them the mean of all tokens."""

    @property
    def count(self) -> int:
        """Return how many vectors there are."""
        return len(self.tokens) + self.whole

    def vectors(self, hidden: Any, attention_mask: Any, input_ids: Any, numbers: Sequence[int]) -> list[Any]:
        """Return the vectors of each text, each ``[rows, width]``.

        Args:
            hidden: ``[rows, length, width]``, floating point.
            attention_mask: ``[rows, length]``.
            input_ids: ``[rows, length]``.
            numbers: the ids of `tokens`.
        """
        found = [at_token(hidden, attention_mask, input_ids, number) for number in numbers]
        return [*found, mean(hidden, attention_mask)] if self.whole else found


POOLINGS = {
    "mean": Pooling(whole=True),
    "markers": Pooling(ENTITY_STARTS),
    "markers-mean": Pooling(ENTITY_STARTS, whole=True),
}
"""The poolings of ours by name, as ``burnish train --pooling`` has them."""
