"""What a task is: data and a few pure functions, so that train, export and serve need no code of their own for one.

>>> from burnish_serve.tasks import TASKS
>>> TASKS["text-classification"].label_column
'label'
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from burnish_serve.errors import InputError
from burnish_serve.rows import columns_of, field_text

Row = Mapping[str, Any]
Answer = Any
"""What transformers' pipeline of the same name gives for one row: a dict, or a list."""
Logits = npt.NDArray[np.float32]
Outputs = Sequence[Any]
"""What a model gave for each row: float32 ``[labels]``, or of each of its windows ``[tokens, channels]``."""
Ids = npt.NDArray[np.int64]


class Encoded(NamedTuple):
    """One text, pair of texts, or window of a long one, as the model reads it, not yet padded."""

    ids: Ids
    type_ids: Ids
    truncated: bool
    offsets: Ids | None = None
    """First character of each token and the one behind its last, in the text that it comes from: ``[tokens, 2]``."""
    part: int = 0
    """Which of the row's texts it is, where they are read apart."""
    words: Ids | None = None
    """The word of each token of the text that is asked about, counted in the whole text; -1 for other tokens."""
    start: int = 0
    """How many tokens of the text that is asked about stand before this window's first."""
    hidden: Ids | None = None
    """Where the row is asked in order to be scored: the token that a mask hides; -1 where none is hidden."""
    sequences: Ids | None = None
    """Where offsets are given: which of the row's texts each token comes from; -1 for special tokens."""


class Asked(NamedTuple):
    """A row on its way through a model."""

    row: dict[str, Any]
    """The row by the task's own columns."""
    texts: tuple[str, ...]
    """What is read of it."""
    windows: tuple[Encoded, ...]
    """One, or several where the text is longer than the model, or where its texts are read apart."""
    where: str = "row"
    """What messages call it."""

    @property
    def truncated(self) -> bool:
        """Return whether a part of it was not read."""
        return any(window.truncated for window in self.windows)

    @property
    def tokens(self) -> int:
        """Return how many tokens the model reads."""
        return sum(len(window.ids) for window in self.windows)


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """What turns one model's numbers into answers: fitted on dev rows by training, kept in the manifest."""

    thresholds: dict[str, float] = field(default_factory=dict)
    """Score from which a label is given, where a text may have several; 0.5 for those that are not named."""
    temperature: float = 1.0
    """What the logits are divided by before the softmax (Guo et al., 2017, arXiv:1706.04599)."""
    reject_label: str | None = None
    """The answer where the best label is not believed."""
    reject_below: float = 0.0
    """Score below which the best label is not believed."""
    score_range: tuple[float, ...] = ()
    """Least and greatest number among the train rows, where numbers are predicted."""
    no_answer_threshold: float | None = None
    """Logarithm of how much likelier than the best answer "no answer" must be to be given; None where none was fitted:
    then it is given only where that is asked for."""

    def __post_init__(self) -> None:
        """Make a tuple of the list that JSON has for it."""
        object.__setattr__(self, "score_range", tuple(self.score_range))


@dataclass(frozen=True, kw_only=True)
class Reading:
    """All that it takes to read a model's numbers."""

    labels: tuple[str, ...] = ()
    decoding: Decoding = field(default_factory=Decoding)
    tokenizer: Tokenizer | None = None
    """For tasks whose answers hold words."""

    @property
    def known(self) -> tuple[str, ...]:
        """Return the labels, and the one for rejection where it is none of them."""
        rejected = self.decoding.reject_label
        return self.labels if rejected is None or rejected in self.labels else (*self.labels, rejected)

    def with_decoding(self, decoding: Decoding) -> Reading:
        """Return the same with another decoding."""
        return dataclasses.replace(self, decoding=decoding)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One kind of question that a bundle answers."""

    name: str
    """Its name here, which is the Hugging Face pipeline's where one task has that pipeline to itself."""
    pipeline: str
    """The name of the Hugging Face pipeline whose answers it gives."""
    head: str
    """The head that train and export load, by the name that transformers' Auto classes use; empty for none."""
    problem_type: str | None = None
    """transformers' name of what the logits of a sequence mean."""
    columns: tuple[tuple[str, ...], ...]
    """The columns that a row may have, in the order of the tokenizer's arguments; the first full set is taken."""
    label_column: str
    """Column that holds what is right."""
    label_columns: tuple[str, ...] = ()
    """The same for each of `columns`, where it is not always one."""
    outputs: tuple[str, ...]
    """Names of the graph's outputs."""
    labelled: bool = True
    """Whether the outputs have names."""
    per_token: bool = False
    """Whether the outputs have a value for each token; several are laid side by side."""
    apart: bool = False
    """Whether two texts of a row are read each by itself, and not as a pair."""
    tokens: tuple[str, ...] = ()
    """Tokens that training adds to the vocabulary, and that a text is marked up with."""
    on_long: str = "truncate"
    """What becomes of a text that is longer than the model, where nobody says otherwise: a name in `ON_LONG`."""
    texts: Callable[[Mapping[str, Any], str], tuple[str, ...]] = lambda row, where: tuple(row.values())
    """``(row by the task's columns, where) -> what the model reads``; raises InputError."""
    check: Callable[[str, Any, str], None] | None = None
    """``(column, value, where)``: raises InputError for a value that is not what the column holds; None for text."""
    right: Callable[[Row, Mapping[str, Any], str, str], Any]
    """``(row, row by the task's columns, label column, where) -> what is right``; raises InputError."""
    names: Callable[[Any], Iterable[str]] = lambda right: ()
    """The labels that stand in what is right."""
    known: Callable[[Sequence[str]], Sequence[str]] = lambda labels: labels
    """The names that may stand in what is right, of a model's labels."""
    examine: Callable[[Asked, Reading], Asked] | None = None
    """``(row, reading) -> the row as it is asked to be scored``, where rows have no labels and are to be guessed."""
    keep: Callable[[Encoded, Reading], Any] | None = None
    """``(window, reading) -> tokens whose outputs are kept``, where those of all would be many; None keeps all."""
    remark: Callable[[Any, Any], str] = lambda right, label: ""
    """What should be told of a train row, by what is right and as it stood in the row; such rows are counted."""
    decode: Callable[..., list[Answer]]
    """``(asked, outputs, reading, **options) -> answers``, in numpy."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What may be asked of `decode`, with defaults."""
    predicted: Callable[[Answer], Any]
    """What an answer decides, without its scores: equal where two answers say the same."""
    agrees: Callable[[Any, Answer], bool] | None = None
    """``(right, answer)``: whether the answer is right; None where answers are only more or less right."""
    score: Callable[[Sequence[Any], Sequence[Answer], Reading], dict[str, Any]]
    """``(right, answers, reading) -> metrics``; needs the extra ``eval``."""
    metric: str
    """The metric that chooses a checkpoint and a variant; higher is better."""

    def asked(self, row: str | Row, where: str, text_column: str = "text") -> dict[str, Any]:
        """Return what is asked of a row, by the task's own columns.

        Args:
            row: a row, or a text where the task asks for one.
            where: file and line, for messages.
            text_column: the column of that row which stands for the task's ``text``.

        Raises:
            InputError: a column is missing or does not hold what it should.
        """
        if isinstance(row, str):
            if ("text",) not in self.columns:
                raise InputError(f"{where} is a text; {self.name} needs {self.columns_told}")
            return {"text": row}
        taken = {name: text_column if name == "text" else name for columns in self.columns for name in columns}
        found = {columns: sum(taken[name] in row for name in columns) for columns in reversed(self.columns)}
        columns = next(
            (names for names in self.columns if found[names] == len(names)), max(found, key=found.__getitem__)
        )
        for name in columns:
            if self.check is None or taken[name] not in row:
                field_text(row, taken[name], where)
            else:
                self.check(taken[name], row[taken[name]], where)
        return {name: row[taken[name]] for name in columns}

    def label_column_of(self, asked: Mapping[str, Any]) -> str:
        """Return the column that holds what is right for a row by the task's columns."""
        return self.label_columns[self.columns.index(tuple(asked))] if self.label_columns else self.label_column

    @property
    def columns_told(self) -> str:
        """Return the sets of columns for a message."""
        return " or ".join("the columns " + ", ".join(columns) for columns in self.columns)

    def check_names(self, right: Any, labels: Sequence[str], where: str) -> None:
        """Raise InputError where what is right names a label that a model does not know."""
        known = self.known(labels)
        for name in self.names(right):
            if name not in known:
                shown = ", ".join(map(repr, known[:10])) + (" …" if len(known) > 10 else "")
                raise InputError(f"{where}: the label {name!r} is unknown to the model; known are: {shown}")


def label_of(row: Row, column: str, where: str) -> Any:
    """Return what stands in the label column.

    Raises:
        InputError: there is no such column, or nothing stands in it.
    """
    if column not in row:
        raise InputError(f"{where}: no column {column!r}; the columns there are: {columns_of(row)}")
    if row[column] is None or row[column] == "":
        raise InputError(f"{where}: the label in column {column!r} is empty")
    return row[column]
