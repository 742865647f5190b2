"""What a task is: data and a few pure functions, so that train, export and serve need no code of their own for one.

>>> from burnish_serve.tasks import TASKS
>>> TASKS["text-classification"].label_column
'label'
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Row = Mapping[str, Any]
Answer = dict[str, Any] | list[dict[str, Any]]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question that a bundle answers."""

    name: str
    """The name of the Hugging Face pipeline."""
    head: str
    """The head that train and export load, by the name that transformers' Auto classes use."""
    text_columns: tuple[str, ...]
    """Columns that hold what the model reads, in the order of the tokenizer's arguments."""
    label_column: str
    """Column that holds what is right."""
    outputs: tuple[str, ...]
    """Names of the graph's outputs."""
    decode: Callable[[Logits, Sequence[str], str, int | None], list[list[dict[str, Any]]]]
    """``(logits [n, labels], labels, problem_type, top_k) -> answers``: for each row, its best answers, best first."""
    score: Callable[[Sequence[str], Sequence[str], Sequence[str]], dict[str, Any]]
    """``(right, predicted, labels) -> metrics``; needs the extra ``eval``."""
    metric: str
    """The metric that chooses a checkpoint and a variant; higher is better."""
