"""Spans in a text, each with a type: names of people and places, slots of a request, terms.

An answer has the shape of transformers' ``pipeline("token-classification")``: a list of ``{"entity_group": "PER",
"score": 0.99, "word": "ada", "start": 0, "end": 3}``, or, with the aggregation ``none``, of one dict a token. ``start``
and ``end`` count characters of the user's own text. A text that is longer than the model is read in windows, and each
token is taken from the window that shows most of what stands around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish_serve.errors import InputError
from burnish_serve.tasks import tagged_rows
from burnish_serve.tasks.grouping import STRATEGIES, Labels, Scored
from burnish_serve.tasks.merging import words_of
from burnish_serve.tasks.pieces import Pieces
from burnish_serve.tasks.span_scores import predicted, score
from burnish_serve.tasks.tagging import kinds_of
from burnish_serve.tasks.task import Answer, Asked, Outputs, Reading, Task


def decode(
    asked: Sequence[Asked], outputs: Outputs, reading: Reading, *, aggregation_strategy: str = "first"
) -> list[Answer]:
    """Return the spans of each row, in the order of the text.

    Args:
        asked: the rows.
        outputs: of each row its windows' float32 ``[tokens, labels]``.
        reading: labels and tokenizer.
        aggregation_strategy: ``none`` for tokens, ``simple`` for runs of tokens, or for runs of whole words whose label
            is that of the ``first`` token, the best of the ``average`` scores, or that of the token with the ``max``
            score. Words are those that the tokenizer makes, or the row's own tokens.

    Raises:
        InputError: there is no such strategy.
    """
    if aggregation_strategy not in STRATEGIES:
        raise InputError(f"no aggregation is named {aggregation_strategy!r}; there are: {', '.join(STRATEGIES)}")
    answers: list[Answer] = [[] for _ in asked]
    labels = Labels.of(reading.labels)
    pieces = Pieces.of(reading.tokenizer)
    for number in _not_outside(asked, outputs, labels.outside):
        text = Scored.of(asked[number], outputs[number], pieces)
        answers[number] = (
            text.tokens(labels) if aggregation_strategy == "none" else text.spans(labels, aggregation_strategy)
        )
    return answers


def _not_outside(asked: Sequence[Asked], outputs: Outputs, outside: int) -> list[int]:
    """Return the rows in which some token's best label is another than that for no span: few, of most data."""
    if not asked:
        return []
    best = np.concatenate([logits for row in outputs for logits in row]).argmax(-1)
    words = np.concatenate([words_of(window) for row in asked for window in row.windows])
    rows = np.repeat(np.arange(len(asked)), [row.tokens for row in asked])
    found: list[int] = np.unique(rows[(best != outside) & (words >= 0)]).tolist()
    return found


TASK = Task(
    name="token-classification",
    pipeline="token-classification",
    head="TokenClassification",
    columns=(("tokens",), ("text",)),
    label_column="tags",
    label_columns=("tags", "spans"),
    outputs=("logits",),
    per_token=True,
    on_long="window",
    texts=tagged_rows.texts,
    check=tagged_rows.check,
    right=tagged_rows.right,
    names=lambda spans: sorted({kind for *_, kind in spans}),
    known=kinds_of,
    remark=tagged_rows.remark,
    decode=decode,
    options={"aggregation_strategy": "first"},
    predicted=predicted,
    agrees=lambda spans, answer: spans == predicted(answer),
    score=score,
    metric="f1",
)
