"""The answer to a question, as it stands in a text, or that the text holds none.

An answer has the shape of transformers' ``pipeline("question-answering")``, which ended with transformers 4:
``{"score": 0.98, "start": 34, "end": 40, "answer": "Berlin"}``, where ``start`` and ``end`` count the characters of the
context. A context that is longer than the model is read in windows that overlap.

>>> model({"question": "Where do I live?", "context": "My name is Wolfgang and I live in Berlin"})  # doctest: +SKIP
[{'score': 0.98, 'start': 34, 'end': 40, 'answer': 'Berlin'}]
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from burnish_serve.errors import InputError
from burnish_serve.tasks.answer_scores import rate
from burnish_serve.tasks.task import Answer, Asked, Encoded, Ids, Logits, Reading, Row, Task, label_of
from burnish_serve.tasks.text_classification import first_of


class Gold(NamedTuple):
    """A right answer."""

    text: str
    start: int
    """The character of the context that it begins with."""


def right(row: Row, asked: Mapping[str, Any], column: str, where: str) -> tuple[Gold, ...]:
    """Return the right answers of a row, none where the context does not hold the answer.

    A list of ``{"text", "start"}`` (or ``answer_start``), or SQuAD's ``{"text": [...], "answer_start": [...]}``; in CSV
    the same as JSON.

    Raises:
        InputError: there is no such column, it holds something else, or an answer does not stand where it says.
    """
    value = label_of(row, column, where)
    if isinstance(value, str):  # as CSV holds it
        try:
            value = json.loads(value)
        except ValueError:
            value = None
    if isinstance(value, dict):
        value = _listed(value)
    if not isinstance(value, list):
        said = json.dumps(row[column], ensure_ascii=False, default=str)[:200]
        raise InputError(
            f'{where}: column {column!r} must hold a list of {{"text": …, "start": …}}, empty where there is no '
            f"answer, not {said}"
        )
    return tuple(_gold(item, str(asked["context"]), where) for item in value)


def _listed(columns: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Return answers that are given as columns, as SQuAD's are on the Hub; None where they are not."""
    starts = columns.get("answer_start", columns.get("start"))
    texts = columns.get("text")
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        return None
    return [{"text": text, "start": start} for text, start in zip(texts, starts, strict=True)]


def _gold(item: Any, context: str, where: str) -> Gold:
    """Return one right answer, once it was found where it says that it stands."""
    fields = item if isinstance(item, dict) else {}
    text, start = fields.get("text"), fields.get("start", fields.get("answer_start"))
    if not isinstance(text, str) or not isinstance(start, int) or isinstance(start, bool):
        said = json.dumps(item, ensure_ascii=False, default=str)[:200]
        raise InputError(f'{where}: an answer is {{"text": a text, "start": a whole number}}, not {said}')
    if not text:
        raise InputError(f"{where}: an answer is empty; a question without an answer has an empty list of answers")
    if not 0 <= start < len(context):
        raise InputError(
            f"{where}: the answer {text!r} starts at character {start}, and the context has {len(context)} characters, "
            f"counted from 0"
        )
    found = context[start : start + len(text)]
    if found != text:
        place = context.find(text)
        hint = f"; it stands at {place}" if place >= 0 else "; it is not in the context"
        raise InputError(f"{where}: the answer {text!r} does not stand at character {start}, where {found!r} is{hint}")
    return Gold(text, start)


def decode(
    asked: Sequence[Asked],
    outputs: Sequence[Sequence[Logits]],
    reading: Reading,
    *,
    top_k: int | None = 1,
    max_answer_len: int = 15,
    handle_impossible_answer: bool | None = None,
    align_to_words: bool = True,
) -> list[Answer]:
    """Return the best answer of each row, or the ``top_k`` best as a list (all where None).

    Args:
        asked: the rows.
        outputs: of each row its windows' float32 ``[tokens, 2]``: how likely each token is the first, and the last.
        reading: the threshold of "no answer".
        top_k: how many answers a row.
        max_answer_len: tokens of an answer at the most.
        handle_impossible_answer: whether "no answer", the empty text, may be the answer; None for where a threshold
            was fitted.
        align_to_words: whether answers begin and end with whole words of the tokenizer.

    Raises:
        InputError: ``top_k`` or ``max_answer_len`` is no number from 1.
    """
    for name, value in (("top_k", 1 if top_k is None else top_k), ("max_answer_len", max_answer_len)):
        if not isinstance(value, int) or value < 1:
            raise InputError(f"question-answering: {name} must be a whole number from 1, not {value!r}")
    threshold = reading.decoding.no_answer_threshold
    handle = threshold is not None if handle_impossible_answer is None else handle_impossible_answer
    worth = math.exp(-(threshold or 0.0))
    answers: list[Answer] = []
    for row, windows in zip(asked, outputs, strict=True):
        found, null = candidates(
            row, windows, top_k=top_k, max_answer_len=max_answer_len, align_to_words=align_to_words
        )
        keys = [one["score"] for one in found]
        if handle or not found:
            found.append({"score": null, "start": 0, "end": 0, "answer": ""})
            keys.append(null * worth)
        ranked = [found[place] for place in sorted(range(len(found)), key=lambda place: -keys[place])]
        answers.append(ranked[0] if top_k == 1 else ranked[:top_k])
    return answers


def candidates(
    row: Asked,
    windows: Sequence[Logits],
    *,
    top_k: int | None = 1,
    max_answer_len: int = 15,
    align_to_words: bool = True,
) -> tuple[list[dict[str, Any]], float]:
    """Return the answers that a row's windows offer, and the score of "no answer".

    As transformers 4.57 does it: each window's best spans by the product of the probabilities of start and end, made
    whole words, and the scores of equal texts added up (Chen et al., 2017, arXiv:1704.00051, for the product). "No
    answer" has the least score that a window gives to its first token.

    Args:
        row: the row.
        windows: its windows' float32 ``[tokens, 2]``.
        top_k: how many answers are wanted; None for all.
        max_answer_len: tokens of an answer at the most.
        align_to_words: whether answers are made whole words.
    """
    limit = top_k * 2 + 10 if top_k is not None and align_to_words else top_k
    context = row.texts[1]
    found: dict[str, dict[str, Any]] = {}
    least = math.inf
    for window, logits in zip(row.windows, windows, strict=True):
        starts, ends, scores, null = spans(window, logits, limit, max_answer_len)
        least = min(least, null)
        for start, end, score in zip(*characters(window, starts, ends, align_to_words), scores.tolist(), strict=True):
            text = context[start:end]
            same = found.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
            same["score"] += score
    return list(found.values()), least


def spans(
    window: Encoded, logits: Logits, limit: int | None, longest: int
) -> tuple[Ids, Ids, NDArray[np.float64], float]:
    """Return first and last tokens of a window's best spans with their scores, and the score of its first token.

    Args:
        window: the window.
        logits: float32 ``[tokens, 2]``.
        limit: how many spans; None for all.
        longest: tokens of a span at the most.
    """
    context = context_of(window)
    special = not offsets_of(window)[:1].any()  # BERT's [CLS], which speaks for "no answer"
    logits = logits[np.r_[np.arange(int(special)), context]].astype(np.float64)
    chances = np.exp(logits - logits.max(axis=0, initial=-np.inf))
    chances = chances / chances.sum(axis=0)
    null = float(chances[0].prod()) if special else 0.0
    first, last = chances[int(special) :].T
    if not len(context):
        return context, context, first, null
    width = min(longest, len(context))
    band = (first[:, None] * sliding_window_view(np.pad(last, (0, width - 1)), width)).ravel()
    best = np.arange(len(band))
    if limit is not None and limit < len(band):
        best = np.argpartition(-band, limit)[:limit]
    best = best[np.lexsort((best, -band[best]))]
    best = best[band[best] > 0]  # beyond the last token, or not to be believed at all
    return context[best // width], context[best // width + best % width], band[best], null


def characters(window: Encoded, starts: Ids, ends: Ids, align_to_words: bool) -> tuple[list[int], list[int]]:
    """Return where spans begin in the context, and where they have ended, in characters.

    Args:
        window: the window.
        starts: the first token of each.
        ends: the last token of each.
        align_to_words: whether to take in the rest of the words that they begin and end in, as far as the window goes.
    """
    offsets = offsets_of(window)
    if align_to_words:
        context = context_of(window)
        words = _words(window)
        starts = context[np.searchsorted(words[context], words[starts], side="left")]
        ends = context[np.searchsorted(words[context], words[ends], side="right") - 1]
    return offsets[starts, 0].tolist(), offsets[ends, 1].tolist()


def context_of(window: Encoded) -> Ids:
    """Return the places of the context's tokens."""
    return np.flatnonzero(_words(window) >= 0)


def _words(window: Encoded) -> Ids:
    return cast(Ids, window.words)  # tasks that look at tokens are given words and offsets


def offsets_of(window: Encoded) -> Ids:
    """Return where in its own text each token begins and has ended, ``[tokens, 2]``."""
    return cast(Ids, window.offsets)


def predicted(answer: Answer) -> tuple[int, int, str]:
    """Return where the best answer stands and what it says."""
    best = first_of(answer)
    return best["start"], best["end"], best["answer"]


def agrees(golds: Sequence[Gold], answer: Answer) -> bool:
    """Return whether the best answer is one of the right ones, as SQuAD compares them."""
    return rate(tuple(gold.text for gold in golds), first_of(answer)["answer"])[0] == 1


def score(rights: Sequence[Sequence[Gold]], answers: Sequence[Answer], reading: Reading) -> dict[str, Any]:
    """Return the means of exact match and F1; see `burnish_serve.tasks.answer_scores`."""
    rated = [
        rate(tuple(gold.text for gold in golds), first_of(answer)["answer"])
        for golds, answer in zip(rights, answers, strict=True)
    ]
    exact, f1 = np.mean(rated, axis=0).tolist()
    return {"exact_match": exact, "f1": f1}


TASK = Task(
    name="question-answering",
    pipeline="question-answering",
    head="QuestionAnswering",
    columns=(("question", "context"),),
    label_column="answers",
    outputs=("start_logits", "end_logits"),
    labelled=False,
    per_token=True,
    on_long="window",
    right=right,
    decode=decode,
    options={"top_k": 1, "max_answer_len": 15, "handle_impossible_answer": None, "align_to_words": True},
    predicted=predicted,
    agrees=agrees,
    score=score,
    metric="f1",
)
