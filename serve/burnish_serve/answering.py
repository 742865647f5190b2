"""Windows of the lines of a file, answered: what `burnish predict` does with a runner.

>>> answering = Answering(load("bundle/"), "rows.jsonl", "text", {})  # doctest: +SKIP
>>> for window in windows(lines_of("rows.jsonl", keep_errors=True), 4096):  # doctest: +SKIP
...     answering(window, job, keep_errors=True)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from burnish_serve.errors import InputError
from burnish_serve.job import Job
from burnish_serve.rows import count_lines, read_rows
from burnish_serve.runner import Runner
from burnish_serve.tasks import Asked

Line = tuple[int, dict[str, Any] | InputError]
"""Number of a line, and its row or what is wrong with it."""


class Answering:
    """Answers windows of lines.

    Args:
        model: the runner.
        name: of the input, for messages.
        column: that holds the text.
        options: of the task.
    """

    def __init__(self, model: Runner, name: str, column: str, options: Mapping[str, Any]) -> None:
        self._model = model
        self._name = name
        self._column = column
        self._options = options

    def __call__(self, window: list[Line], job: Job, *, keep_errors: bool) -> None:
        """Answer a window of lines, each row with its answer added, or with what is wrong with it beside it."""
        rows = [(number, row) for number, row in window if not isinstance(row, InputError)]
        wrong: list[dict[str, Any]] = [
            {"line": number, "error": str(error)} for number, error in window if isinstance(error, InputError)
        ]
        try:
            asked = self._asked(rows)
        except InputError:
            if not keep_errors:
                raise
            rows, asked, refused = self._one_by_one(rows)
            wrong = sorted([*wrong, *refused], key=_line)
        answers = self._model.answers(asked, **self._options)
        answered = [{**row, "answer": answer} for (_, row), answer in zip(rows, answers, strict=True)]
        for row, one in zip(answered, asked, strict=True):
            answer = row["answer"]
            if one.truncated and isinstance(answer, list) and not any(isinstance(part, dict) for part in answer):
                row["truncated"] = True  # an answer that cannot say so itself
        job.writer.write(answered)
        if wrong:
            job.refuse(wrong)
        job.counts["truncated"] += sum(one.truncated for one in asked)
        job.save(len(window))

    def _asked(self, rows: list[tuple[int, dict[str, Any]]]) -> list[Asked]:
        where = [f"{self._name}:{number}" for number, _ in rows]
        task = self._model.task
        own = [task.asked(row, place, self._column) for (_, row), place in zip(rows, where, strict=True)]
        return self._model.encode(own, where)

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
    """Return the line before a shard's first, and its last."""
    which, count = shard
    lines = count_lines(source)
    return lines * (which - 1) // count, lines * which // count


def _line(refused: Mapping[str, Any]) -> int:
    return int(refused["line"])
