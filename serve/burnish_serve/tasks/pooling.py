"""From one vector a token to one vector a text: written so that numpy arrays and torch tensors both go through it.

``first`` is the architecture's own way (the vector of the first token, through its own head) and needs nothing here.

>>> mean(np.ones((1, 3, 4)), np.array([[1, 1, 0]])).shape  # doctest: +SKIP
(1, 4)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def mean(hidden: Any, attention_mask: Any) -> Any:
    """Return the mean of each text's token vectors (Reimers and Gurevych, 2019, arXiv:1908.10084).

    Args:
        hidden: ``[rows, length, width]``, floating point.
        attention_mask: ``[rows, length]``, 1 for a token and 0 for padding; every row has a token.

    Returns:
        ``[rows, width]``.
    """
    weights = attention_mask[:, :, None] * (hidden[:, :, :1] * 0 + 1)  # in hidden's own type, whichever library's
    return (hidden * weights).sum(1) / weights.sum(1)


POOLINGS: dict[str, Callable[[Any, Any], Any]] = {"mean": mean}
