"""Windows of the lines of a file, answered: what `burnish predict` does with a runner.

>>> answering = Answering(load("bundle/"), "rows.jsonl", "text", {}, keep_errors=True)  # doctest: +SKIP
>>> for window in windows(lines_of("rows.jsonl", keep_errors=True), 4096):  # doctest: +SKIP
...     answered = answering(window)
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from burnish_serve.errors import InputError
from burnish_serve.rows import count_lines, read_rows
from burnish_serve.runner import Runner
from burnish_serve.tasks import Asked

Line = tuple[int, dict[str, Any] | InputError]
"""Number of a line, and its row or what is wrong with it."""


class Answered(NamedTuple):
    """A window of lines with its answers."""

    rows: list[dict[str, Any]]
    """The rows as they were, with their answers."""
    wrong: list[dict[str, Any]]
    """What could not be answered: line, error, and the row where there is one."""
    truncated: int
    """How many texts were cut."""
    repeated: int
    """How many rows ask what an earlier one of the window asks, whose answer they have."""
    lines: int
    """How many lines it was."""


class Answering:
    """Answers windows of lines.

    Args:
        model: the runner.
        name: of the input, for messages.
        column: that holds the text.
        options: of the task.
        keep_errors: whether rows that cannot be answered are set aside; else the first of them is an error.
    """

    def __init__(self, model: Runner, name: str, column: str, options: Mapping[str, Any], *, keep_errors: bool) -> None:
        self._model = model
        self._name = name
        self._column = column
        self._options = options
        self._keep_errors = keep_errors

    def __call__(self, window: Sequence[Line]) -> Answered:
        """Return a window of lines with its answers.

        Raises:
            InputError: a row cannot be asked, and such rows are not set aside.
        """
        rows = [(number, row) for number, row in window if not isinstance(row, InputError)]
        wrong: list[dict[str, Any]] = [
            {"line": number, "error": str(error)} for number, error in window if isinstance(error, InputError)
        ]
        try:
            asked = self._asked(rows)
        except InputError:
            if not self._keep_errors:
                raise
            rows, asked, refused = self._one_by_one(rows)
            wrong = sorted([*wrong, *refused], key=_line)
        distinct = list({id(one): one for one in asked}.values())
        answers = dict(zip(map(id, distinct), self._model.answers(distinct, **self._options), strict=True))
        answered = [{**row, "answer": answers[id(one)]} for (_, row), one in zip(rows, asked, strict=True)]
        for row, one in zip(answered, asked, strict=True):
            answer = row["answer"]
            if one.truncated and isinstance(answer, list) and not any(isinstance(part, dict) for part in answer):
                row["truncated"] = True  # an answer that cannot say so itself
        repeated = len(asked) - len(distinct)
        return Answered(answered, wrong, sum(one.truncated for one in asked), repeated, len(window))

    def _asked(self, rows: list[tuple[int, dict[str, Any]]]) -> list[Asked]:
        """Return rows as they are asked; those that ask the same are one object, encoded once."""
        task = self._model.task
        places: dict[str, int] = {}
        own: list[dict[str, Any]] = []
        where, place_of = [], []
        for number, row in rows:
            name = f"{self._name}:{number}"
            asked = task.asked(row, name, self._column)
            place = places.setdefault(json.dumps(asked, default=repr), len(places))
            if place == len(own):
                own.append(asked)
                where.append(name)
            place_of.append(place)
        encoded = self._model.encode(own, where)
        return [encoded[place] for place in place_of]

    def _one_by_one(
        self, rows: list[tuple[int, dict[str, Any]]]
    ) -> tuple[list[tuple[int, dict[str, Any]]], list[Asked], list[dict[str, Any]]]:
        """Return the rows that can be asked, as they are asked, and what is wrong with the others."""
        kept, asked, wrong = [], [], []
        for number, row in rows:
            try:
                asked += self._asked([(number, row)])
                kept.append((number, row))
            except InputError as error:
                wrong.append({"line": number, "error": str(error), "row": row})
        return kept, asked, wrong


def lines_of(source: str, *, keep_errors: bool) -> Iterator[Line]:
    """Yield the lines of a file; those that cannot be read with what is wrong, where that is kept."""
    wrong: list[Line] = []
    rows = read_rows(source, (lambda line, error: wrong.append((line, error))) if keep_errors else None)
    for number, row in rows:
        yield from wrong
        wrong.clear()
        yield number, row
    yield from wrong


def bounds_of(source: str, shard: tuple[int, int]) -> tuple[int, int]:
    """Return the line before a shard's first, and its last, for ``(which, of how many)`` from 1."""
    which, count = shard
    lines = count_lines(source)
    return lines * (which - 1) // count, lines * which // count


def within(lines: Iterable[Line], bounds: tuple[int, int]) -> Iterator[Line]:
    """Yield the lines behind the first of two numbers, up to the second."""
    first, last = bounds
    inside = itertools.takewhile(lambda line: line[0] <= last, lines)
    return itertools.dropwhile(lambda line: line[0] <= first, inside)


def _line(refused: Mapping[str, Any]) -> int:
    return int(refused["line"])
