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

from burnish_serve.rows import field_text

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

    def texts(self, row: Row, text_column: str, where: str) -> dict[str, str]:
        """Return what the model reads of a row, by the task's own columns.

        Args:
            row: a row of a file.
            text_column: the column of that file which stands for the task's, where it has one alone.
            where: file and line, for messages.

        Raises:
            InputError: a column is missing or holds no text.
        """
        taken = {self.text_columns[0]: text_column} if len(self.text_columns) == 1 else {}
        return {name: field_text(row, taken.get(name, name), where) for name in self.text_columns}
