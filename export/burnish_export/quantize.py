"""Integer variants of a float32 graph.

``int8`` is static: the inputs of products with constant weights become unsigned bytes with a scale fixed by
calibration, weights become signed bytes with a scale a column, and products come back as float32. Since no scale
depends on what stands in the batch, an answer is the same alone and beside any neighbours. Only the branch into a
product is quantized; the residual stream stays float32. (Jacob et al., 2018, arXiv:1712.05877; per-column weights:
Krishnamoorthi, 2018, arXiv:1806.08342.)

``int8-dynamic`` is ONNX Runtime's own: one scale a tensor and run, so an answer depends on its neighbours.

>>> quantize_static(Path("model.onnx"), ranges, Path("model_int8.onnx"))  # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnxruntime.quantization import QuantType
from onnxruntime.quantization import quantize_dynamic as onnxruntime_dynamic

from burnish_serve import batching
from burnish_serve.runner import Runner, model_inputs
from burnish_serve.session import create_session
from burnish_serve.text import Encoded

SMALLEST = float(np.finfo(np.float32).tiny)  # a scale that is not zero
Ranges = Mapping[str, tuple[float, float]]


def constant_products(graph: ir.Graph) -> list[ir.Node]:
    """Return the MatMul nodes whose second input is a constant matrix ``[inputs, outputs]``."""
    found = []
    for node in graph:
        if node.op_type == "MatMul" and node.domain == "":
            weight = node.inputs[1]
            if weight is not None and weight.const_value is not None and len(weight.const_value.shape) == 2:
                found.append(node)
    return found


def calibrate(path: Path, runner: Runner, rows: Sequence[Encoded], scratch: Path) -> Ranges:
    """Return the least and greatest value of each tensor that `quantize_static` quantizes, seen on real rows.

    Batches are ragged as in use, and memory is that of one batch.

    Args:
        path: the float32 graph.
        runner: knows the graph's inputs.
        rows: encoded texts.
        scratch: a folder for the graph with its inner tensors as outputs.
    """
    model = ir.load(path)
    names = sorted({node.inputs[0].name or "" for node in constant_products(model.graph) if node.inputs[0] is not None})
    by_name = {value.name: value for node in model.graph for value in node.outputs}
    for name in names:
        if by_name[name] not in model.graph.outputs:
            model.graph.outputs.append(by_name[name])
    watched = scratch / "calibration.onnx"
    ir.save(model, watched)
    session = create_session(watched)
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)  # zero is always inside: padding must be exact
    for indices in batching.plan([len(row.ids) for row in rows], runner.max_batch_tokens):
        batch = model_inputs([rows[i] for i in indices], runner.inputs, runner.pad_token_id)
        for name, tensor in zip(names, session.run(names, batch), strict=True):
            low[name], high[name] = min(low[name], float(tensor.min())), max(high[name], float(tensor.max()))
    watched.unlink()
    return {name: (low[name], high[name]) for name in names}


def quantize_static(path: Path, ranges: Ranges, out: Path) -> int:
    """Write the static int8 variant and return how many products were quantized.

    Args:
        path: the float32 graph.
        ranges: from `calibrate`.
        out: where the variant goes.
    """
    model = ir.load(path)
    graph = model.graph
    nodes = constant_products(graph)
    activations: dict[str, ir.Value] = {}
    weights: dict[str, ir.Value] = {}
    for node in nodes:
        activation, weight = node.inputs[0], node.inputs[1]
        if activation is None or weight is None or activation.name is None or weight.name is None:
            raise AssertionError(f"a MatMul has two inputs, and {node.name} lacks one")
        if activation.name not in activations:
            activations[activation.name] = _through_bytes(graph, node, activation, ranges[activation.name])
        if weight.name not in weights:
            weights[weight.name] = _from_bytes(graph, node, weight)
        node.replace_input_with(0, activations[activation.name])
        node.replace_input_with(1, weights[weight.name])
    _drop_unused(graph, weights)
    ir.save(model, out)
    return len(nodes)


def quantize_dynamic(path: Path, out: Path) -> None:
    """Write ONNX Runtime's dynamic int8 variant, products with constant weights only."""
    names = [node.name for node in constant_products(ir.load(path).graph)]
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # it advises a pre-processing that is done
    try:
        onnxruntime_dynamic(
            path,
            out,
            op_types_to_quantize=["MatMul"],
            nodes_to_quantize=names,
            per_channel=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        logging.disable(level)


def _through_bytes(graph: ir.Graph, before: ir.Node, value: ir.Value, limits: tuple[float, float]) -> ir.Value:
    """Return the value after QuantizeLinear and DequantizeLinear, inserted before a node."""
    low, high = limits
    scale = np.float32(max((high - low) / 255, SMALLEST))
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    parameters = [_constant(graph, f"{value.name}_{key}", array) for key, array in (("scale", scale), ("zero", zero))]
    quantized = ir.node("QuantizeLinear", [value, *parameters])
    restored = ir.node("DequantizeLinear", [quantized.outputs[0], *parameters])
    quantized.outputs[0].name, restored.outputs[0].name = f"{value.name}_quantized", f"{value.name}_restored"
    graph.insert_before(before, [quantized, restored])
    return restored.outputs[0]


def _from_bytes(graph: ir.Graph, before: ir.Node, weight: ir.Value) -> ir.Value:
    """Return a constant matrix as signed bytes with a scale a column, restored by DequantizeLinear before a node."""
    if weight.const_value is None:
        raise AssertionError("constant_products returns products with constants")
    values = weight.const_value.numpy()
    scale = np.maximum(np.abs(values).max(axis=0) / 127, SMALLEST).astype(np.float32)
    whole = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
    arrays = (("int8", whole), ("scale", scale), ("zero", np.zeros(len(scale), dtype=np.int8)))
    restored = ir.node(
        "DequantizeLinear",
        [_constant(graph, f"{weight.name}_{key}", array) for key, array in arrays],
        attributes={"axis": 1},
    )
    restored.outputs[0].name = f"{weight.name}_restored"
    graph.insert_before(before, restored)
    return restored.outputs[0]


def _constant(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    tensor = ir.tensor(np.asarray(array), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(value)
    return value


def _drop_unused(graph: ir.Graph, names: Iterable[str]) -> None:
    for name in names:
        if not graph.initializers[name].uses():
            del graph.initializers[name]
