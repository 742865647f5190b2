"""A request that waits for its batch: what it asks, until when, how large it may be, and how it is told.

>>> waiting = Waiting(["great film"], {}, deadline, loop.create_future())  # doctest: +SKIP
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from burnish_serve.http.refusal import Refusal
from burnish_serve.tasks import Answer

# A guess for the tokens of a row before it is tokenized; how a batch is really cut is decided behind that.
CHARACTERS_OF_TOKEN = 4
ENDS_OF_ROW = 2


class Answered(NamedTuple):
    """What became of a request."""

    answers: list[Answer]
    truncated: list[int]
    """Places of the rows that were cut."""


class Waiting:
    """A request that waits, or is computed."""

    __slots__ = ("deadline", "gone", "longest", "options", "result", "rows", "since", "size")

    def __init__(self, rows: Sequence[Any], options: Mapping[str, Any], deadline: float, result: Any) -> None:
        self.rows = rows
        self.options = options
        self.deadline = deadline
        self.result: asyncio.Future[Answered] = result
        self.since = time.monotonic()
        sizes = [_characters(row) // CHARACTERS_OF_TOKEN + ENDS_OF_ROW for row in rows]
        self.size = sum(sizes)
        self.longest = max(sizes)
        self.gone = False


def too_late(waiting: Waiting) -> None:
    """Tell a request, in the event loop, that its deadline has passed."""
    waiting.gone = True
    if not waiting.result.done():
        waiting.result.set_exception(Refusal(504, "deadline", "the request's deadline has passed"))


def _characters(row: Any) -> int:
    """Return how many characters of text a row has."""
    values = row.values() if isinstance(row, Mapping) else [row]
    return sum(len(value) for value in values if isinstance(value, str))
