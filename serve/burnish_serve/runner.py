"""The runner: rows in, answers out, in order, in batches of like length, from any number of threads.

What computes the logits is a constructor argument: ONNX Runtime for a bundle, PyTorch for the checkpoint that it is
compared with, a stand-in in tests. All tokenize, batch and decode here, so a difference between two of them is a
difference of the models.

>>> from burnish_serve import load
>>> model = load("bundle/")  # doctest: +SKIP
>>> model(["great film", "dull"])  # doctest: +SKIP
[{'label': 'positive', 'score': 0.99}, {'label': 'negative', 'score': 0.97}]
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from burnish_serve import batching, machine
from burnish_serve.batching import Ids
from burnish_serve.bundle import Bundle
from burnish_serve.choice import choose
from burnish_serve.errors import BundleError, DeviceError, InputError
from burnish_serve.rows import field_text
from burnish_serve.session import CPU, Feed, Session, create_session, provider_for, tried_session
from burnish_serve.signature import open_signed
from burnish_serve.tasks import Answer, Logits, Row, Task, task_named
from burnish_serve.text import Encoded, TextEncoder

# Padded tokens of one batch: on two cores 512 was 4 % ahead of 1,024 for short texts (bench/LOG.md).
MAX_BATCH_TOKENS = 512
# Rows that a stream sorts by length at a time: enough for batches of like length, little enough to be no memory.
WINDOW = 4096
T = TypeVar("T")


class Runner:
    """Answers rows; safe to call from several threads.

    Args:
        task: what is asked.
        labels: names of the logits, in order.
        problem_type: transformers' name of what the logits mean.
        encoder: turns texts into ids.
        session: anything with ONNX Runtime's ``run``.
        inputs: names of the session's inputs.
        pad_token_id: the id that fills up a batch.
        variant: the name of what the session computes, for reports.
        max_batch_tokens: padded tokens of one batch at the most.
        provider: the execution provider, for reports; None where it is not ONNX Runtime that computes.
        nodes: how many nodes of its first run ran on each provider; None where nobody looked, as on the CPU.
    """

    def __init__(
        self,
        *,
        task: Task,
        labels: Sequence[str],
        problem_type: str,
        encoder: TextEncoder,
        session: Session,
        inputs: Sequence[str],
        pad_token_id: int,
        variant: str,
        max_batch_tokens: int = MAX_BATCH_TOKENS,
        provider: str | None = None,
        nodes: Mapping[str, int] | None = None,
    ) -> None:
        self.task = task
        self.labels = tuple(labels)
        self.problem_type = problem_type
        self.encoder = encoder
        self.session = session
        self.inputs = tuple(inputs)
        self.pad_token_id = pad_token_id
        self.variant = variant
        self.max_batch_tokens = max_batch_tokens
        self.provider = provider
        self.nodes = nodes

    def __call__(self, rows: str | Row | Sequence[str | Row], *, top_k: int | None = 1) -> list[Answer]:
        """Return the answer to each row, in order.

        Args:
            rows: texts, or rows with the task's text columns; a single text is a list of one, as in transformers.
            top_k: 1 for the best label alone (a dict); more, or None for all, gives a list of dicts, best first.

        Raises:
            InputError: a row has no text.
        """
        if isinstance(rows, str | Mapping):
            rows = [rows]
        encoded = self.encode(rows)
        ranked = self.task.decode(self.run(encoded), self.labels, self.problem_type, top_k)
        for answers, row in zip(ranked, encoded, strict=True):
            if row.truncated:
                for answer in answers:
                    answer["truncated"] = True
        return [answers[0] for answers in ranked] if top_k == 1 else list(ranked)

    def stream(self, rows: Iterable[str | Row], *, top_k: int | None = 1) -> Iterator[Answer]:
        """Yield the answer to each row of any iterable, in order and in constant memory."""
        for window in windows(rows, WINDOW):
            yield from self(window, top_k=top_k)

    def logits(self, rows: Sequence[str | Row]) -> Logits:
        """Return the raw outputs, float32 ``[rows, labels]``, in order."""
        return self.run(self.encode(rows))

    def encode(self, rows: Sequence[str | Row]) -> list[Encoded]:
        """Return the token ids of each row.

        Raises:
            InputError: a row has no text; the message counts rows from 1.
        """
        columns = self.task.text_columns
        texts = []
        for number, row in enumerate(rows, 1):
            if not isinstance(row, str | Mapping):
                raise InputError(f"row {number} must be a text or a row with columns, not {type(row).__name__}")
            if not isinstance(row, str):
                texts.append(tuple(field_text(row, column, f"row {number}") for column in columns))
            elif len(columns) == 1:
                texts.append((row,))
            else:
                raise InputError(f"row {number} is a text; {self.task.name} needs the columns {', '.join(columns)}")
        return self.encoder(texts)

    def run(self, encoded: Sequence[Encoded]) -> Logits:
        """Return the logits of encoded rows, in order, computed in batches of like length."""
        logits = np.empty((len(encoded), len(self.labels)), dtype=np.float32)
        for indices in batching.plan([len(row.ids) for row in encoded], self.max_batch_tokens):
            logits[indices] = self.run_batch([encoded[i] for i in indices])
        return logits

    def run_batch(self, batch: Sequence[Encoded]) -> Logits:
        """Return the logits of one batch, float32 ``[rows, labels]``."""
        arrays = model_inputs(batch, self.inputs, self.pad_token_id)
        logits: Logits = self.session.run(self.task.outputs, arrays)[0]
        return logits


def load(
    folder: str | Path,
    *,
    device: str = "auto",
    provider: str | None = None,
    variant: str | None = None,
    threads: int | None = None,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
    public_key: str | Path | None = None,
) -> Runner:
    """Return a runner for a bundle.

    Args:
        folder: the bundle.
        device: ``cpu``, ``cuda``, or ``auto`` for CUDA where it works.
        provider: ``cpu``, ``cuda``, ``openvino`` or ``tensorrt``, which decides and implies the device.
        variant: a variant's name; None for the manifest's default.
        threads: threads of one run; None for as many as this process may use.
        max_batch_tokens: padded tokens of one batch at the most.
        public_key: refuses a bundle that was not signed with the private half of this key; None asks for no signature.

    Raises:
        InputError: there is no such folder or variant, or device and provider contradict each other.
        BundleError: the bundle is damaged or refused.
        MissingExtraError: a key is given, and the extra ``sign`` is not installed.
        DeviceError: the device or the provider cannot be used.
    """
    return open_runner(
        open_signed(folder, public_key),
        device=device,
        provider=provider,
        variant=variant,
        threads=threads,
        max_batch_tokens=max_batch_tokens,
    )


def open_runner(
    bundle: Bundle,
    *,
    device: str = "auto",
    provider: str | None = None,
    variant: str | None = None,
    threads: int | None = None,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> Runner:
    """Return a runner for a bundle that is open already; see `load`."""
    chosen = provider_for(device, provider)
    if conflict := machine.wheel_conflict():
        warnings.warn(conflict, RuntimeWarning, stacklevel=3)
    manifest = bundle.manifest
    if variant is not None and variant not in manifest.variants:
        raise InputError(f"{bundle.folder} has no variant {variant!r}; it has: {', '.join(manifest.variants)}")
    name, remark = choose(manifest, chosen, machine.cpu_features(), variant)
    if remark:
        warnings.warn(remark, RuntimeWarning, stacklevel=3)
    try:
        session, nodes = _open_session(bundle, name, chosen, threads)
    except DeviceError as error:
        if device != "auto" or provider is not None:
            raise
        warnings.warn(f"taking the CPU: {error}", RuntimeWarning, stacklevel=3)
        return open_runner(bundle, device="cpu", variant=variant, threads=threads, max_batch_tokens=max_batch_tokens)
    return Runner(
        task=task_named(manifest.task),
        labels=manifest.labels,
        problem_type=manifest.problem_type,
        encoder=TextEncoder(bundle.path("tokenizer.json"), manifest.max_length),
        session=session,
        inputs=manifest.inputs,
        pad_token_id=manifest.pad_token_id,
        variant=name,
        max_batch_tokens=max_batch_tokens,
        provider=chosen,
        nodes=nodes,
    )


def _open_session(
    bundle: Bundle, name: str, provider: str, threads: int | None
) -> tuple[Session, dict[str, int] | None]:
    """Return a variant's session, and how many nodes of a first run were on each provider; on the CPU none is made."""
    manifest = bundle.manifest

    def first_feed(session: Any) -> Feed:
        """Refuse a graph that is not the manifest's, and return a row of one token for it."""
        width = session.get_outputs()[0].shape[-1]
        if isinstance(width, int) and width != len(manifest.labels):
            raise BundleError(
                f"{bundle.folder} is refused: {len(manifest.labels)} labels for {width} outputs of {name}"
            )
        if {item.name for item in session.get_inputs()} != set(manifest.inputs):
            raise BundleError(f"{bundle.folder} is refused: the inputs of {name} are not {', '.join(manifest.inputs)}")
        ids = np.full(1, manifest.pad_token_id, dtype=np.int64)
        return model_inputs([Encoded(ids, np.zeros_like(ids), False)], manifest.inputs, manifest.pad_token_id)

    path = bundle.path(manifest.variants[name].file)
    if provider != CPU:
        return tried_session(path, first_feed, provider=provider, threads=threads)
    session = create_session(path, threads=threads)
    first_feed(session)
    return session, None


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
