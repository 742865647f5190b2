"""What question answering learns from: the first and the last token of the answer in each window of the context.

A window that does not hold the whole answer, and every window of a question without one, points at its first token
(Devlin et al., 2019, arXiv:1810.04805). Of several right answers the first is learned from.

>>> target = Answers(task, config, (), train)  # doctest: +SKIP
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from burnish_serve.tasks import Asked, Decoding, Encoded, Outputs
from burnish_serve.tasks.answer_scores import rate
from burnish_serve.tasks.question_answering import candidates, context_of, offsets_of
from burnish_train import losses
from burnish_train.data import Example
from burnish_train.targets import Supervised

# Beyond this a logarithm of two scores says no more.
MOST = 50.0


class Answers(Supervised):
    """The first and the last token of an answer."""

    @classmethod
    def labels_of(cls, names: Sequence[str], config: Any) -> tuple[str, ...]:
        """Return none: the outputs have no names."""
        return ()

    def values(self, example: Example, asked: Asked) -> list[Any]:
        """Return (first, last) token of the answer in each window; None for all where the answer has no tokens."""
        if not example.right:
            return [(0, 0)] * len(asked.windows)
        return positions(asked.windows, example.right[0].text, example.right[0].start)

    def stack(self, values: Sequence[Any], length: int) -> torch.Tensor:
        """Return first and last tokens, int64 ``[windows, 2]``."""
        return torch.tensor(values, dtype=torch.int64)

    def loss(self, outputs: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean of the cross-entropies of start and end ``[windows, length]``; padding is no choice."""
        padding = inputs["attention_mask"] == 0
        both = (outputs.start_logits, outputs.end_logits)
        start, end = (
            losses.cross_entropy(logits.float().masked_fill(padding, -math.inf), labels[:, side], 0.0)
            for side, logits in enumerate(both)
        )
        return (start + end) / 2

    def apart(
        self, outputs: Any, others: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor], temperature: float
    ) -> torch.Tensor:
        """Return the divergence of the scores of start and end from the others'; padding is no choice."""
        padding = inputs["attention_mask"] == 0
        least = torch.finfo(torch.float32).min / 2  # divided by a temperature, and a difference of two, it stays finite
        start, end = (
            losses.softmax_divergence(
                outputs[name].float().masked_fill(padding, least),
                others[name].float().masked_fill(padding, least),
                temperature,
            )
            for name in ("start_logits", "end_logits")
        )
        return (start + end) / 2

    def fit(self, asked: Sequence[Asked], outputs: Outputs, examples: Sequence[Example]) -> Decoding:
        """Return the threshold of "no answer" with the best F1, where there are questions without one."""
        if all(example.right for example in examples):
            return Decoding()
        differences, answered, unanswered = [], [], []
        for row, windows, example in zip(asked, outputs, examples, strict=True):
            found, null = candidates(row, windows)
            best: dict[str, Any] = max(found, key=lambda one: one["score"], default={"score": 0.0, "answer": ""})
            differences.append(_log(null) - _log(best["score"]))
            texts = tuple(gold.text for gold in example.right)
            answered.append(rate(texts, best["answer"])[1])
            unanswered.append(rate(texts, "")[1])
        return Decoding(no_answer_threshold=threshold(differences, answered, unanswered))


def positions(windows: Sequence[Encoded], text: str, start: int) -> list[tuple[int, int] | None]:
    """Return (first, last) token of an answer in each window; (0, 0) where the window does not hold all of it.

    Args:
        windows: of a question and a context.
        text: the answer.
        start: the character of the context that it begins with.

    Returns:
        As many as windows; None for each where no window has a token of the answer (a space, for example).
    """
    end = start + len(text.rstrip())
    held: list[tuple[int, int, int, int] | None] = []
    for window in windows:
        first, last = offsets_of(window).T
        context = context_of(window)
        places = context[(first[context] < end) & (last[context] > start)]
        if not len(places):
            held.append(None)
            continue
        one, other = int(places[0]), int(places[-1])
        cut = window.truncated and last[other] < end and other == context[-1]
        held.append(None if cut else (int(first[one]), int(last[other]), one, other))
    extents = [found for found in held if found]
    if not extents:
        return [(0, 0) if window.truncated else None for window in windows]
    whole = (min(found[0] for found in extents), max(found[1] for found in extents))
    return [found[2:] if found and found[:2] == whole else (0, 0) for found in held]


def threshold(differences: Sequence[float], answered: Sequence[float], unanswered: Sequence[float]) -> float:
    """Return above which difference to answer "no answer", so that the sum of the scores is greatest.

    Args:
        differences: of each question, logarithm of the score of "no answer" less that of the best answer's.
        answered: what each question scores with its best answer.
        unanswered: what it scores with "no answer".

    Returns:
        Half-way between two differences, the one nearest to 0 where several are as good.
    """
    order = np.argsort(differences, kind="stable")
    ranked = np.asarray(differences, dtype=np.float64)[order]
    gains = np.asarray(answered, dtype=np.float64)[order] - np.asarray(unanswered, dtype=np.float64)[order]
    totals = np.concatenate([[0.0], np.cumsum(gains)])  # with the first so many questions answered
    cuts = np.concatenate([[ranked[0] - 1], (ranked[1:] + ranked[:-1]) / 2, [ranked[-1]]])
    apart = np.concatenate([[True], ranked[1:] > ranked[:-1], [True]])
    best = np.flatnonzero(apart & (totals >= totals[apart].max() - 1e-9))
    return float(cuts[best[np.argmin(np.abs(cuts[best]))]])


def _log(score: float) -> float:
    return max(math.log(score), -MOST) if score > 0 else -MOST
