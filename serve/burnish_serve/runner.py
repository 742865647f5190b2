"""The runner: rows in, answers out, in order, in batches of like length, from any number of threads.

What computes the outputs is a constructor argument: ONNX Runtime for a bundle, PyTorch for the checkpoint that it is
compared with, a stand-in in tests. All tokenize, batch and decode here, so a difference between two of them is a
difference of the models.

>>> from burnish_serve import load
>>> model = load("bundle/")  # doctest: +SKIP
>>> model(["great film", "dull"])  # doctest: +SKIP
[{'label': 'positive', 'score': 0.99}, {'label': 'negative', 'score': 0.97}]
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from burnish_serve import batching
from burnish_serve.batching import Ids, Indices
from burnish_serve.callers import Callers
from burnish_serve.errors import InputError
from burnish_serve.session import Session
from burnish_serve.tasks import Answer, Asked, Decoding, Encoded, Logits, Outputs, Reading, Row, Task
from burnish_serve.text import TextEncoder

# Padded tokens of one batch: on two cores 512 was 4 % ahead of 1,024 for short texts (bench/LOG.md).
MAX_BATCH_TOKENS = 512
# What a run costs by itself, in tokens: measured on one core (bench/LOG.md).
RUN_TOKENS = 8
# Rows that a stream sorts by length at a time: enough for batches of like length, little enough to be no memory.
WINDOW = 4096
# Rows decoded at a time where each token's outputs are as many as the words of a vocabulary.
WIDE_ROWS = 32
T = TypeVar("T")


class Runner:
    """Answers rows; safe to call from several threads.

    Args:
        task: what is asked.
        labels: names of the logits, in order; empty where the task has none.
        encoder: turns texts into ids.
        session: anything with ONNX Runtime's ``run``.
        inputs: names of the session's inputs.
        pad_token_id: the id that fills up a batch.
        variant: the name of what the session computes, for reports.
        decoding: what turns the logits into answers, besides the task.
        max_batch_tokens: padded tokens of one batch at the most.
        run_tokens: what a run costs by itself, in tokens, see `batching.plan`; None where batches are never to be cut.
        provider: the execution provider, for reports; None where it is not ONNX Runtime that computes.
        nodes: how many nodes of its first run ran on each provider; None where nobody looked, as on the CPU.
        callers: several callers of a session like it, for rows of several batches; None for one batch after another.
        pairs: whether the model was made for pairs of texts, so that one text alone is a mistake.
    """

    def __init__(
        self,
        *,
        task: Task,
        labels: Sequence[str],
        encoder: TextEncoder,
        session: Session,
        inputs: Sequence[str],
        pad_token_id: int,
        variant: str,
        decoding: Decoding | None = None,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        run_tokens: int | None = None,
        provider: str | None = None,
        nodes: Mapping[str, int] | None = None,
        callers: Callers | None = None,
        pairs: bool = False,
    ) -> None:
        self.task = task
        self.reading = Reading(labels=tuple(labels), decoding=decoding or Decoding(), tokenizer=encoder.tokenizer)
        self.encoder = encoder
        self.session = session
        self.inputs = tuple(inputs)
        self.pad_token_id = pad_token_id
        self.variant = variant
        self.max_batch_tokens = max_batch_tokens
        self.run_tokens = run_tokens
        self.provider = provider
        self.nodes = nodes
        self.callers = callers
        self.pairs = pairs

    @property
    def labels(self) -> tuple[str, ...]:
        """Return the names of the logits."""
        return self.reading.labels

    def __call__(self, rows: str | Row | Sequence[str | Row], **options: Any) -> list[Answer]:
        """Return the answer to each row, in order.

        Args:
            rows: texts, or rows with the task's columns; a single one is a list of one, as in transformers.
            options: what the task offers (`Task.options`), such as ``top_k=3`` for the three best labels.

        Raises:
            InputError: a row does not hold what the task reads, or the task has no such option.
        """
        if isinstance(rows, str | Mapping):
            rows = [rows]
        return self.answers(self.encode(rows), **options)

    def stream(self, rows: Iterable[str | Row], **options: Any) -> Iterator[Answer]:
        """Yield the answer to each row of any iterable, in order and in constant memory."""
        for window in windows(rows, WINDOW):
            yield from self(window, **options)

    def encode(
        self, rows: Sequence[str | Row], where: Sequence[str] | None = None, *, offsets: bool = False
    ) -> list[Asked]:
        """Return the token ids of each row.

        Args:
            rows: texts, or rows with the task's columns.
            where: what messages call each of them; ``row 1`` and so on where none is given.
            offsets: whether to say where in the texts each token stands, whatever the task.

        Raises:
            InputError: a row does not hold what the task reads.
        """
        encoder = self.encoder.with_offsets() if offsets else self.encoder
        found, texts = [], []
        where = where or [f"row {number}" for number in range(1, len(rows) + 1)]
        for row, name in zip(rows, where, strict=True):
            if not isinstance(row, str | Mapping):
                raise InputError(f"{name} must be a text or a row with columns, not {type(row).__name__}")
            found.append(self.task.asked(row, name))
            texts.append(self.task.texts(found[-1], name))
            if self.pairs and len(texts[-1]) == 1:
                raise InputError(f"{name} is one text, and this model was made for pairs: text_a and text_b")
        if self.task.apart:
            return self._encode_apart(found, texts, where)
        return [Asked(*row) for row in zip(found, texts, encoder(texts, where), where, strict=True)]

    def _encode_apart(
        self, rows: Sequence[dict[str, Any]], texts: Sequence[tuple[str, ...]], where: Sequence[str]
    ) -> list[Asked]:
        """Return rows whose texts are read each by itself."""
        names = [name for name, row in zip(where, texts, strict=True) for _ in row]
        alone = iter(self.encoder([(text,) for row in texts for text in row], names))
        asked = []
        for row, own, name in zip(rows, texts, where, strict=True):
            parts = [[piece._replace(part=part) for piece in next(alone)] for part in range(len(own))]
            asked.append(Asked(row, own, tuple(itertools.chain(*parts)), name))
        return asked

    def examine(self, rows: Sequence[str | Row]) -> list[Asked]:
        """Return the token ids of rows that are to be scored: those of `encode`, or what the task asks instead."""
        asked = self.encode(rows)
        return asked if self.task.examine is None else [self.task.examine(row, self.reading) for row in asked]

    def answers(self, asked: Sequence[Asked], **options: Any) -> list[Answer]:
        """Return the answers to encoded rows; where outputs are wide, of some rows at a time.

        Raises:
            InputError: the task has no such option.
        """
        if self.task.keep is None:
            return self.decode(asked, self.outputs(asked), **options)
        parts = (self.decode(some, self.outputs(some), **options) for some in windows(asked, WIDE_ROWS))
        return list(itertools.chain.from_iterable(parts))

    def decode(self, asked: Sequence[Asked], outputs: Outputs, **options: Any) -> list[Answer]:
        """Return the answers that a model's outputs stand for, marked where a text was cut.

        Raises:
            InputError: the task has no such option.
        """
        for name in options:
            if name not in self.task.options:
                known = ", ".join(self.task.options) or "none"
                raise InputError(f"{self.task.name} has no option {name!r}; it has: {known}")
        answers = self.task.decode(asked, outputs, self.reading, **{**self.task.options, **options})
        for answer, row in zip(answers, asked, strict=True):
            if row.truncated:
                for part in answer if isinstance(answer, list) else [answer]:
                    if isinstance(part, dict):
                        part["truncated"] = True
        return answers

    def logits(self, rows: Sequence[str | Row]) -> Any:
        """Return the raw outputs of each row, in order, asked as it is to be scored; see `outputs`."""
        return self.outputs(self.examine(rows))

    def outputs(self, asked: Sequence[Asked]) -> Any:
        """Return what the model gives for encoded rows, in order, computed in batches of like length.

        Returns:
            float32 ``[rows, labels]``, of a text in windows their mean; or, where the task looks at tokens, for each
            row a list of its windows' float32 ``[tokens, channels]``, of the tokens that it keeps.
        """
        found = iter(self.run([window for row in asked for window in row.windows]))
        pieces = [[next(found) for _ in row.windows] for row in asked]
        if self.task.per_token:
            return pieces
        logits = np.empty((len(asked), len(self.labels)), dtype=np.float32)
        for row, piece in zip(logits, pieces, strict=True):
            row[:] = piece[0] if len(piece) == 1 else np.mean(piece, axis=0)
        return logits

    def run(self, encoded: Sequence[Encoded]) -> Any:
        """Return the outputs of encoded texts or windows, in order: an array, or a list of one for each."""
        plan = batching.plan([len(row.ids) for row in encoded], self.max_batch_tokens, self.run_tokens)
        per_token = self.task.per_token

        def compute(session: Session, indices: Indices) -> Any:
            batch = [encoded[i] for i in indices]
            values = self.run_batch(batch, session)
            return [self._kept(*pair) for pair in zip(batch, values, strict=True)] if per_token else values

        if self.callers is None or len(plan) < 2:
            found: Iterable[Any] = (compute(self.session, indices) for indices in plan)
        else:
            found = self.callers.map(compute, plan)
        if per_token:
            rows: list[Logits] = [np.empty(0, dtype=np.float32)] * len(encoded)
            for indices, values in zip(plan, found, strict=True):
                for index, value in zip(indices, values, strict=True):
                    rows[index] = value
            return rows
        logits = np.empty((len(encoded), len(self.labels)), dtype=np.float32)
        for indices, values in zip(plan, found, strict=True):
            logits[indices] = values
        return logits

    def _kept(self, row: Encoded, values: Logits) -> Logits:
        """Return the outputs of the tokens that the task looks at, of a row's ``[longest, channels]``."""
        kept = self.task.keep and self.task.keep(row, self.reading)
        return values[: len(row.ids)].copy() if kept is None else values[kept]

    def run_batch(self, batch: Sequence[Encoded], session: Session | None = None) -> Logits:
        """Return the outputs of one batch, float32 ``[rows, labels]`` or ``[rows, longest, channels]``."""
        arrays = model_inputs(batch, self.inputs, self.pad_token_id)
        found = (session or self.session).run(self.task.outputs, arrays)
        return found[0] if len(found) == 1 else np.stack(found, axis=-1)


def model_inputs(batch: Sequence[Encoded], names: Sequence[str], pad_token_id: int) -> dict[str, Ids]:
    """Return a batch as a model reads it: int64 ``[rows, longest]`` for each input name."""
    ids = [row.ids for row in batch]
    makers: dict[str, Callable[[], Ids]] = {
        "input_ids": lambda: batching.pad(ids, pad_token_id),
        "attention_mask": lambda: batching.mask(ids),
        "token_type_ids": lambda: batching.pad([row.type_ids for row in batch], 0),
    }
    return {name: makers[name]() for name in names}


def windows(rows: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of ``size`` rows, the last one shorter; Python 3.12 has it as itertools.batched."""
    iterator = iter(rows)
    while window := list(itertools.islice(iterator, size)):
        yield window
