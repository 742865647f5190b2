"""PyTorch to ONNX: the dynamo exporter, with batch and length left open.

Two decisions (bench/LOG.md has the counts of nodes): attention is exported in its plain form, without the guards for
rows that are masked from end to end, which no text is; and opset 20, where GELU is one operator and becomes one kernel
together with the bias before it. What the exporter leaves in pieces is rewritten (`rewrite`), and nodes are named by
the module that they come from, for reports and profiles.

>>> to_onnx(source.network, Path("model.onnx"))  # doctest: +SKIP
"""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch

from burnish_export import rewrite
from burnish_export.network import Exported, Network

OPSET = 20
MAX_BATCH = 65_536
# A protobuf holds less than 2 GiB; a model with more in its weights keeps them in a file beside it.
MAX_WEIGHTS = 2**31 - 2**24
SCOPES = "pkg.torch.onnx.name_scopes"


def to_onnx(network: Network, path: Path) -> None:
    """Write the model's graph in float32: int64 ``[batch, length]`` inputs by name, the outputs out."""
    length = min(11, network.max_length)
    mask = torch.ones(3, length, dtype=torch.int64)
    mask[1, length // 2 :] = 0  # real padding, so that no exporter takes the mask for a constant
    ids = torch.arange(3 * length).reshape(3, length) % network.config.vocab_size
    examples = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    shape = {
        0: torch.export.Dim("batch", min=1, max=MAX_BATCH),
        1: torch.export.Dim("length", min=1, max=network.max_length),
    }
    with _plain_attention(network), _silence():
        program = torch.onnx.export(
            Exported(network),
            tuple(examples[name] for name in network.inputs),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(network.inputs),
            output_names=list(network.outputs),
            dynamic_shapes=(tuple(shape for _ in network.inputs),),
            verbose=False,
        )
    rewrite.simplify(program.model)
    name_by_module(program.model.graph)
    strip_notes(program.model)
    save(program.model, path)


def save(model: ir.Model, path: Path) -> None:
    """Write a graph; weights of 2 GB and more go into a file of the same name with ``.data`` behind it."""
    weights = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value)
    if weights > MAX_WEIGHTS:
        ir.save(model, path, external_data=f"{path.name}.data")
    else:
        ir.save(ir.external_data.load_to_model(model), path)


def name_by_module(graph: ir.Graph) -> None:
    """Name each node after the PyTorch module that it comes from, and its operator: ``encoder.layer.0.…query/MatMul``.

    Reads the exporter's notes, so it goes before `strip_notes`.
    """
    taken: dict[str, int] = {}
    for node in graph:
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "['', '']"))
        module = scopes[-2].removeprefix("model.") if scopes[0] == "" and len(scopes) > 1 else ""
        name = f"{module or 'graph'}/{node.op_type}"
        taken[name] = taken.get(name, 0) + 1
        node.name = name if taken[name] == 1 else f"{name}_{taken[name]}"


def module_of(node: ir.Node) -> str:
    """Return the PyTorch module that a node comes from, as `name_by_module` wrote it."""
    return (node.name or "").partition("/")[0]


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
def _plain_attention(network: Network) -> Iterator[None]:
    """Run the model with attention as plain products while it is exported; the proof compares with its own form."""
    before = network.config._attn_implementation
    model = getattr(network.module, "encoder", network.module)
    model = model if hasattr(model, "set_attn_implementation") else network.module
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
