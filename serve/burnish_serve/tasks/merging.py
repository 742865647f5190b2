"""A text that was read in windows, as if it had been read whole: each token from the window that shows most around it.

>>> window = lambda words, start: Encoded(ids, types, False, words=np.array(words), start=start)  # doctest: +SKIP
>>> places([window([-1, 0, 1, 2, -1], 0), window([-1, 1, 2, 3, -1], 1)])  # doctest: +SKIP
array([1, 2, 7, 8])
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish_serve.tasks.task import Encoded, Ids


def places(windows: Sequence[Encoded]) -> Ids:
    """Return where to read each token of a text, in its windows laid end to end: int64 ``[tokens]``.

    A token that stands in several windows is read in that where it is farthest from an edge at which text was cut off.
    """
    if len(windows) == 1:
        return np.flatnonzero(words_of(windows[0]) >= 0)
    own = [np.flatnonzero(words_of(window) >= 0) for window in windows]
    count = max(window.start + len(tokens) for window, tokens in zip(windows, own, strict=True))
    found, room = np.zeros(count, dtype=np.int64), np.full(count, -1, dtype=np.int64)
    before = 0
    for window, tokens in zip(windows, own, strict=True):
        end = window.start + len(tokens)
        here = np.arange(window.start, end)
        # The start and end of the text are no edges, yet may be counted as such: a neighbour's edge is nearer still.
        distance = np.minimum(here - window.start, end - 1 - here)
        better = here[distance > room[here]]
        room[better] = distance[better - window.start]
        found[better] = before + tokens[better - window.start]
        before += len(window.ids)
    return found


def words_of(window: Encoded) -> Ids:
    """Return the word of each token of a window."""
    if window.words is None:
        raise AssertionError("tokens are classified in texts that were encoded with offsets")
    return window.words
