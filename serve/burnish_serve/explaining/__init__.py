"""Which words made the answer: each word's weight, by occlusion or by integrated gradients.

A weight is in units of log-odds, the logarithm of p / (1 - p) for a label of score p: where a softmax is saturated the
score hardly moves, and the log-odds still do. For a number that is predicted, it is in units of that number.

- Occlusion hides one word at a time and looks how far the log-odds fall (Zeiler and Fergus, 2014, arXiv:1311.2901; for
  words Li et al., 2016, arXiv:1612.08220). It asks the model alone, so it explains bundles too, without PyTorch.
- Integrated gradients add up the gradient on the way from a text of padding to the text (Sundararajan et al., 2017,
  arXiv:1703.01365). They need the checkpoint and the extra ``train``, which brings them (`burnish_train.insight`).

>>> from burnish_serve import load
>>> explain(load("bundle/"), ["great film"])[0].words  # doctest: +SKIP
[{'word': 'great', 'start': 0, 'end': 5, 'weight': 3.96}, {'word': 'film', 'start': 6, 'end': 10, 'weight': -1.32}]
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from burnish_serve.errors import InputError
from burnish_serve.explaining.methods import METHODS, STEPS, WAYS, gradients, occlusion
from burnish_serve.explaining.words import words_of
from burnish_serve.runner import Runner, windows
from burnish_serve.tasks import TASKS, Asked, Row

# Rows whose variants are computed side by side: enough for full batches of short texts, little memory for long ones.
ROWS = 16


class Explanation(NamedTuple):
    """Why a row has an answer."""

    row: int
    """Which of the rows that were given, from 0; a row has several explanations where it has several labels."""
    answer: dict[str, Any]
    """What is explained: ``label`` and ``score``."""
    words: list[dict[str, Any]]
    """``word``, ``start``, ``end`` and ``weight`` of each, in order, and ``column`` where the row has two texts."""
    texts: dict[str, str]
    """The texts in which the words stand, by column."""
    convergence_delta: float | None = None
    """How far the sum of integrated gradients is from what it should be; None for occlusion."""

    def told(self) -> dict[str, Any]:
        """Return what is written to a file for it, besides the row itself."""
        delta = {} if self.convergence_delta is None else {"convergence_delta": self.convergence_delta}
        return {"answer": self.answer, "words": self.words, **delta}


def explain(
    model: Runner,
    rows: Sequence[str | Row],
    *,
    method: str | None = None,
    by: str | None = None,
    steps: int | None = None,
    label: str | None = None,
) -> list[Explanation]:
    """Return which words made the answers to rows.

    What is explained is the best label; of several labels each that is given, and the best where none is. A label for
    rejection has no words: of a row that is rejected, the label that came nearest is explained.

    Args:
        model: of a bundle, or of a checkpoint.
        rows: texts, or rows with the task's columns.
        method: ``occlusion`` or ``gradients``; None for gradients where PyTorch computes.
        by: how occlusion hides a word, ``delete`` or ``mask``; None for ``delete``.
        steps: at how many points of the way gradients are taken; None for 50.
        label: what to explain in every row, whatever its answer.

    Raises:
        InputError: the task has no score of a text to explain, or the model no such label, or no gradients.
        MissingExtraError: gradients are asked for, and the extra ``train`` is not installed.
    """
    named = ((f"row {number}", row) for number, row in enumerate(rows, 1))
    return list(explained(model, named, method=method, by=by, steps=steps, label=label))


def explained(
    model: Runner,
    rows: Iterable[tuple[str, str | Row]],
    *,
    method: str | None = None,
    by: str | None = None,
    steps: int | None = None,
    label: str | None = None,
) -> Iterator[Explanation]:
    """Yield what `explain` returns, for any iterable of (what messages call a row, the row), in constant memory."""
    method = method or default_method(model)
    if method not in METHODS:
        raise InputError(f"no method is named {method!r}; there are: {', '.join(METHODS)}")
    if by not in (None, *WAYS):
        raise InputError(f"a word is not hidden by {by!r}; there are: {', '.join(WAYS)}")
    if method == "gradients" and by is not None:
        raise InputError("--by says how occlusion hides a word; gradients hide none, so leave it out")
    if method == "occlusion" and steps is not None:
        raise InputError("--steps is for gradients; occlusion has none, so leave it out")
    _check(model, label)
    weigh = gradients(model, steps or STEPS) if method == "gradients" else occlusion(model, by or WAYS[0])
    start = 0
    for some in windows(rows, ROWS):
        asked = model.encode([row for _, row in some], [name for name, _ in some], offsets=True)
        wanted = [(place, one) for place, answers in enumerate(_answers(model, asked, label)) for one in answers]
        places = [place for place, _ in wanted]
        read = [words_of(row, model.task.tokens) for row in asked]
        columns = [model.labels.index(answer["label"]) for _, answer in wanted]
        found = weigh([asked[place] for place in places], [read[place] for place in places], columns)
        for (place, answer), (weights, delta) in zip(wanted, found, strict=True):
            row, words = asked[place], []
            for word, weight in zip(read[place].words, weights.tolist(), strict=True):
                words.append({"word": word.text, "start": word.start, "end": word.end, "weight": weight})
                if len(row.texts) > 1:
                    words[-1]["column"] = word.column
            texts = {column: row.row[column] for column in list(row.row)[: len(row.texts)]}
            yield Explanation(start + place, answer, words, texts, delta)
        start += len(some)


def default_method(model: Runner) -> str:
    """Return ``gradients`` where PyTorch computes, and ``occlusion`` elsewhere."""
    return "gradients" if model.variant == "pytorch" else "occlusion"


def _check(model: Runner, label: str | None) -> None:
    """Raise InputError where a model's answers are not explained, or where it has no such label."""
    if model.task.problem_type is None:
        known = ", ".join(task.name for task in TASKS.values() if task.problem_type)
        raise InputError(f"{model.task.name} has no score of a text to explain; the tasks that have are: {known}")
    if label is not None and label not in model.labels:
        shown = ", ".join(map(repr, model.labels[:10])) + (" …" if len(model.labels) > 10 else "")
        raise InputError(f"the label {label!r} is unknown to the model; known are: {shown}")


def _answers(model: Runner, asked: Sequence[Asked], label: str | None) -> list[list[dict[str, Any]]]:
    """Return the labels of each row that are to be explained, with their scores."""
    outputs = model.outputs(asked)
    options = {"reject_below": 0.0} if "reject_below" in model.task.options else {}
    ranked = model.decode(asked, outputs, top_k=None, **options)
    if label is not None:
        return [[one for one in answers if one["label"] == label] for answers in ranked]
    if model.task.problem_type != "multi_label_classification":
        return [answers[:1] for answers in ranked]
    return [given or answers[:1] for given, answers in zip(model.decode(asked, outputs), ranked, strict=True)]
