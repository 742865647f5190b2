"""Which target each task learns from: one explicit dict, above the rooms that the targets stand in.

>>> KINDS["regression"].labels_of((), config)  # doctest: +SKIP
('score',)
"""

from __future__ import annotations

from burnish_train.answers import Answers
from burnish_train.masking import Masked
from burnish_train.tags import Tags
from burnish_train.targets import Classes, Number, Several, Similarity, Target

KINDS: dict[str, type[Target]] = {
    "text-classification": Classes,
    "relation-extraction": Classes,
    "multi-label-classification": Several,
    "regression": Number,
    "feature-extraction": Similarity,
    "token-classification": Tags,
    "question-answering": Answers,
    "fill-mask": Masked,
}
