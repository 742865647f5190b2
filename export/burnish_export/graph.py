"""PyTorch to ONNX: the dynamo exporter, with batch and length left open.

Two decisions (bench/LOG.md has the counts of nodes): attention is exported in its plain form, without the guards for
rows that are masked from end to end, which no text is; and opset 20, where GELU is one operator and becomes one kernel
together with the bias before it.

>>> to_onnx(source, Path("model.onnx"))  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from burnish_export.source import Exported, Source

OPSET = 20
MAX_BATCH = 65_536


def to_onnx(source: Source, path: Path) -> None:
    """Write the model's graph in float32: int64 ``[batch, length]`` inputs by name, logits out."""
    module = Exported(source.model, source.inputs)
    length = min(11, source.max_length)
    mask = torch.ones(3, length, dtype=torch.int64)
    mask[1, length // 2 :] = 0  # real padding, so that no exporter takes the mask for a constant
    ids = torch.arange(3 * length).reshape(3, length) % source.config.vocab_size
    examples = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    shape = {
        0: torch.export.Dim("batch", min=1, max=MAX_BATCH),
        1: torch.export.Dim("length", min=1, max=source.max_length),
    }
    with _plain_attention(source), _silence():
        program = torch.onnx.export(
            module,
            tuple(examples[name] for name in source.inputs),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(source.inputs),
            output_names=list(source.task.outputs),
            dynamic_shapes=(tuple(shape for _ in source.inputs),),
            verbose=False,
        )
        strip_notes(program.model)
        program.save(str(path), external_data=False)


def strip_notes(model: Any) -> None:
    """Remove the exporter's notes on every node: stack traces, with paths of this machine, that nobody reads."""
    for node in model.graph:
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()


@contextlib.contextmanager
def _plain_attention(source: Source) -> Iterator[None]:
    """Run the model with attention as plain products while it is exported; the proof compares with its own form."""
    before = source.config._attn_implementation
    model = getattr(source.model, "encoder", source.model)
    model = model if hasattr(model, "set_attn_implementation") else source.model
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's notes on itself from the user."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
