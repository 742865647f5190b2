"""How words are weighed: one hidden after the other, or by the gradients of a checkpoint.

>>> ((weights, _),) = occlusion(model, "delete")([asked], [words_of(asked)], [0])  # doctest: +SKIP
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish_serve.errors import InputError, MissingExtraError
from burnish_serve.explaining.words import Words, hidden
from burnish_serve.runner import Runner
from burnish_serve.tasks import Asked, Logits, Task
from burnish_serve.tasks.fill_mask import special

METHODS = ("occlusion", "gradients")
WAYS = ("delete", "mask")
STEPS = 50
Weights = NDArray[np.float64]
Weigh = Callable[[Sequence[Asked], Sequence[Words], Sequence[int]], list[tuple[Weights, float | None]]]
"""``(rows, their words, which label of each) -> the words' weights and the convergence delta of each``."""


def log_odds(model: Runner, logits: Logits, column: int) -> Weights:
    """Return the log-odds of one label, float64 ``[rows]``; the output itself where a number is predicted.

    Args:
        model: says which kind of scores it gives.
        logits: float32 ``[rows, labels]``.
        column: which label.
    """
    values = logits.astype(np.float64) / model.reading.decoding.temperature
    own: Weights = values[:, column]
    if not exclusive(model.task) or values.shape[1] == 1:
        return own
    others: Weights = np.logaddexp.reduce(np.delete(values, column, axis=1), axis=1)
    return own - others


def exclusive(task: Task) -> bool:
    """Return whether a task's labels share one softmax."""
    return task.problem_type == "single_label_classification"


def occlusion(model: Runner, by: str) -> Weigh:
    """Return what weighs each word by how far the log-odds fall where it is hidden.

    Args:
        model: is asked each text once more a word, in batches.
        by: ``delete`` leaves words out, ``mask`` puts the mask in the place of each of their tokens.

    Raises:
        InputError: the mask is asked for, and the tokenizer has none.
    """
    token = special(model.encoder.tokenizer).mask if by == "mask" else None

    def weigh(
        asked: Sequence[Asked], read: Sequence[Words], columns: Sequence[int]
    ) -> list[tuple[Weights, float | None]]:
        variants = []
        for row, (words, tokens) in zip(asked, read, strict=True):
            variants.append(row)
            for number in range(len(words)):
                parts = (hidden(window, of == number, token) for window, of in zip(row.windows, tokens, strict=True))
                variants.append(row._replace(windows=tuple(parts)))
        outputs = model.outputs(variants)
        found: list[tuple[Weights, float | None]] = []
        start = 0
        for (words, _), column in zip(read, columns, strict=True):
            values = log_odds(model, outputs[start : start + 1 + len(words)], column)
            found.append((values[0] - values[1:], None))
            start += 1 + len(words)
        return found

    return weigh


def gradients(model: Runner, steps: int) -> Weigh:
    """Return what weighs each word by integrated gradients from a text of padding, summed over its tokens.

    Args:
        model: a checkpoint's.
        steps: points of the way at which the gradient is taken.

    Raises:
        MissingExtraError: the extra ``train`` is not installed.
    """
    attribute: Any = None
    for entry in importlib.metadata.entry_points(group="burnish.explanations", name="gradients"):
        try:
            attribute = entry.load()
        except ImportError as error:
            raise MissingExtraError("--method gradients", "train") from error
    if attribute is None:
        raise MissingExtraError("--method gradients", "train")

    def weigh(
        asked: Sequence[Asked], read: Sequence[Words], columns: Sequence[int]
    ) -> list[tuple[Weights, float | None]]:
        found: list[tuple[Weights, float | None]] = []
        for row, (words, tokens), column in zip(asked, read, columns, strict=True):
            if len(row.windows) > 1:
                raise InputError(f"{row.where} is read in windows: explain it by occlusion, or with --on-long truncate")
            (window,), (of,) = row.windows, tokens
            values, delta = attribute(model, window, hidden(window, of >= 0, model.pad_token_id), column, steps)
            weights = np.zeros(len(words))
            np.add.at(weights, of[of >= 0], values[of >= 0])
            found.append((weights, delta))
        return found

    return weigh
