"""How right the spans of answers are: counted as seqeval and conlleval count them.

>>> score([[(0, 3, "PER")]], [[{"entity_group": "PER", "start": 0, "end": 3}]], Reading())["f1"]  # doctest: +SKIP
1.0
"""

from __future__ import annotations

import collections
from collections.abc import Sequence
from typing import Any

from burnish_serve.errors import InputError
from burnish_serve.tasks.tagged_rows import Span
from burnish_serve.tasks.task import Answer, Reading


def predicted(answer: Answer) -> tuple[Span, ...]:
    """Return the spans of an answer; of one without aggregation its tokens with their tags."""
    return tuple((one["start"], one["end"], one.get("entity_group") or one["entity"]) for one in answer)


def score(rights: Sequence[Sequence[Span]], answers: Sequence[Answer], reading: Reading) -> dict[str, Any]:
    """Return precision, recall and F1 of spans, their F1 as a mean over types, and all of them per type.

    A span is found where row, start, end and type are equal, as seqeval and conlleval count; what has nothing to be
    counted is 0. Types are those that stand in ``rights`` or the answers.

    Raises:
        InputError: the answers are of single tokens.
    """
    if any("entity" in one for answer in answers for one in answer):
        raise InputError("spans are scored: take another aggregation than none")
    due, given, hits = (collections.Counter[str]() for _ in range(3))
    for right, answer in zip(rights, answers, strict=True):
        if not right and not answer:
            continue
        wanted, found = set(right), set(predicted(answer))
        due.update(kind for *_, kind in wanted)
        given.update(kind for *_, kind in found)
        hits.update(kind for *_, kind in wanted & found)
    kinds = sorted(due.keys() | given.keys())
    per_class = {kind: {**_shares(hits[kind], given[kind], due[kind]), "spans": due[kind]} for kind in kinds}
    return {
        **_shares(hits.total(), given.total(), due.total()),
        "f1_macro": sum(shares["f1"] for shares in per_class.values()) / max(1, len(kinds)),
        "per_class": per_class,
    }


def _shares(hits: int, given: int, due: int) -> dict[str, float]:
    """Return precision, recall and F1."""
    return {"precision": hits / max(1, given), "recall": hits / max(1, due), "f1": 2 * hits / max(1, given + due)}
