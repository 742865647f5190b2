"""Integer variants of a float32 graph.

``int8`` is static: the inputs of products with constant weights become unsigned bytes with a scale fixed by
calibration, weights become signed bytes with a scale a column, and products come back as float32. Since no scale
depends on what stands in the batch, an answer is the same alone and beside any neighbours. Only the branch into a
product is quantized; the residual stream stays float32. (Jacob et al., 2018, arXiv:1712.05877; per-column weights:
Krishnamoorthi, 2018, arXiv:1806.08342.) The table of word vectors becomes signed bytes too, with a scale a row.

Where single channels are much larger than the others, smoothing moves a part of their size into the weights (Xiao et
al., SmoothQuant, 2023, arXiv:2211.10438): into the LayerNormalization before the products where nobody else reads it,
else by a multiplication on the branch.

``int8-dynamic`` is ONNX Runtime's own: one scale a tensor and run, so an answer depends on its neighbours.

>>> quantize_static(Path("model.onnx"), observed, Recipe(), Path("model_int8.onnx"))  # doctest: +SKIP
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxruntime.quantization import QuantType
from onnxruntime.quantization import quantize_dynamic as onnxruntime_dynamic

from burnish_export.calibration import Observed, constant_products, group_name, limits, product_inputs
from burnish_export.gemm import biases_into_products
from burnish_export.graph import module_of, save
from burnish_export.initializers import initializer
from burnish_export.mask import mask_into_products
from burnish_export.time_major import time_major

SMALLEST = float(np.finfo(np.float32).tiny)  # a scale that is not zero
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a static int8 variant is made."""

    calibration: str = "minmax"
    """One of `calibration.METHODS`."""
    smoothing: float = 0.0
    """How much of a channel's size moves into the weights, 0 to 1; where above 0, ranges are those of all values."""
    embeddings: bool = True
    """Whether the word vectors are bytes too."""
    weight_bits: int = 8
    """8, or 7 for processors whose products of bytes saturate."""
    kept: tuple[str, ...] = ()
    """Modules that stay float32, by `calibration.group_name`."""

    @property
    def form(self) -> tuple[object, ...]:
        """Return what the graph's operators hang on: graphs of one form differ in numbers alone, and take as long."""
        return self.smoothing > 0, self.embeddings, self.kept


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """What was done to a graph."""

    products: int
    """Products that became integer."""
    saturating: int
    """Of these, how many can exceed 16 bits on a processor that adds two products of bytes in 16 bits."""


def quantize_static(path: Path, observed: Mapping[str, Observed], recipe: Recipe, out: Path) -> Quantized:
    """Write a static int8 variant.

    Args:
        path: the float32 graph.
        observed: from `calibration.observe`.
        recipe: how to.
        out: where the variant goes.
    """
    model = ir.load(path)
    graph = model.graph
    weights: dict[tuple[str, ...], tuple[ir.Value, npt.NDArray[np.int8]]] = {}
    done = saturating = 0
    for name, nodes in product_inputs(graph).items():
        if group_name(nodes) in recipe.kept:
            continue
        first, value = nodes[0], nodes[0].inputs[0]
        seen, factors = observed[name], None
        if recipe.smoothing:
            factors = _factors(seen, [_matrix(node) for node in nodes], recipe.smoothing)
            seen = Observed(seen.low / factors, seen.high / factors, seen.counts)
            value = _divided(graph, first, value, factors, nodes)
        span = seen.span if recipe.smoothing else limits(seen, recipe.calibration)
        scale = np.float32(max((span[1] - span[0]) / 255, SMALLEST))
        zero = np.uint8(np.clip(np.rint(-span[0] / scale), 0, 255))
        flat = nodes[0].inputs[0].shape is not None and len(nodes[0].inputs[0].shape) == 2
        if flat:
            value = _reshaped(graph, "Unsqueeze", value, before=first)
        restored = _through_bytes(graph, first, value, scale, zero)
        least, most = (np.clip(np.rint(side / scale) + zero, 0, 255) for side in (seen.low, seen.high))
        for node in nodes:
            key = (node.inputs[1].name, *((name,) if recipe.smoothing else ()))
            if key not in weights:
                matrix = _matrix(node) if factors is None else _matrix(node) * factors[:, None]
                weights[key] = _from_bytes(graph, node, "_".join(key), matrix, recipe.weight_bits)
            node.replace_input_with(0, restored)
            node.replace_input_with(1, weights[key][0])
            if flat:
                _squeezed_behind(graph, node)
            done += 1
            saturating += can_saturate(weights[key][1], least, most)
    if recipe.embeddings:
        _embeddings_in_bytes(graph)
    biases_into_products(model)
    time_major(model)
    mask_into_products(model)
    _residuals_apart(graph)
    for unused in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[unused]
    save(model, out)
    return Quantized(products=done, saturating=saturating)


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
            use_external_data_format=path.with_name(f"{path.name}.data").exists(),
        )
    finally:
        logging.disable(level)


def can_saturate(weights: npt.NDArray[np.int8], least: Floats, most: Floats) -> bool:
    """Return whether a product of bytes can exceed 16 bits where pairs of neighbouring terms are added in 16 bits.

    x86 processors without VNNI do so (``vpmaddubsw``) and cut what is larger: answers are then wrong.

    Args:
        weights: signed bytes ``[inputs, outputs]``.
        least: least unsigned byte of each input that calibration saw, ``[inputs]``.
        most: greatest one.
    """
    whole = weights.astype(np.int32)
    if len(whole) % 2:
        whole, least, most = np.pad(whole, ((0, 1), (0, 0))), np.append(least, 0), np.append(most, 0)
    upper = np.where(whole > 0, whole * most[:, None], whole * least[:, None])
    lower = np.where(whole > 0, whole * least[:, None], whole * most[:, None])
    limit = np.iinfo(np.int16)
    return bool(((upper[::2] + upper[1::2]) > limit.max).any() or ((lower[::2] + lower[1::2]) < limit.min).any())


def _matrix(node: ir.Node) -> Floats:
    """Return the constant of a product, float32 ``[inputs, outputs]``."""
    matrix: Floats = node.inputs[1].const_value.numpy()  # constant_products returns products with constants
    return matrix


def _factors(seen: Observed, matrices: list[Floats], strength: float) -> Floats:
    """Return by how much each channel is divided, float32 ``[channels]``, equation 4 of SmoothQuant."""
    values = np.maximum(np.maximum(-seen.low, seen.high), 1e-5)
    weights = np.maximum(np.max([np.abs(matrix).max(axis=1) for matrix in matrices], axis=0), 1e-5)
    factors: Floats = np.clip(values**strength / weights ** (1 - strength), 1e-4, 1e4).astype(np.float32)
    return factors


def _divided(graph: ir.Graph, before: ir.Node, value: ir.Value, factors: Floats, readers: list[ir.Node]) -> ir.Value:
    """Return the value with its channels divided, in the LayerNormalization that made it or by a multiplication."""
    maker = value.producer()
    alone = {node for node, _ in value.uses()} <= set(readers) and not value.is_graph_output()
    if maker is not None and maker.op_type == "LayerNormalization" and alone:
        for place, parameter in enumerate(maker.inputs[1:], 1):
            if parameter is not None:
                divided = parameter.const_value.numpy() / factors
                maker.replace_input_with(place, initializer(graph, f"{value.name}_smooth_{place}", divided))
        return value
    node = ir.node("Mul", [value, initializer(graph, f"{value.name}_smooth", (1 / factors).astype(np.float32))])
    node.name, node.outputs[0].name = f"{module_of(before)}/smooth", f"{value.name}_smoothed"
    graph.insert_before(before, node)
    return node.outputs[0]


def _reshaped(graph: ir.Graph, operator: str, value: ir.Value, *, before: ir.Node) -> ir.Value:
    """Return vectors of texts ``[batch, channels]`` as ``[batch, 1, channels]``, or back again.

    ONNX Runtime makes a Gemm of a product of two matrices with a bias, and no integer product of that.
    """
    node = ir.node(operator, [value, initializer(graph, f"{value.name}_{operator.lower()}_axis", np.array([1]))])
    node.name, node.outputs[0].name = f"{module_of(before)}/{operator}", f"{value.name}_{operator.lower()}"
    graph.insert_before(before, node)
    return node.outputs[0]


def _squeezed_behind(graph: ir.Graph, node: ir.Node) -> None:
    """Give the readers of a product ``[batch, 1, channels]`` the matrix that they had."""
    readers = list(node.outputs[0].uses())
    squeezed = _reshaped(graph, "Squeeze", node.outputs[0], before=readers[0][0])
    for reader, place in readers:
        reader.replace_input_with(place, squeezed)
    node.outputs[0].shape = None


def _through_bytes(graph: ir.Graph, before: ir.Node, value: ir.Value, scale: np.float32, zero: np.uint8) -> ir.Value:
    """Return the value after QuantizeLinear and DequantizeLinear, inserted before a node."""
    parameters = [initializer(graph, f"{value.name}_{key}", array) for key, array in (("scale", scale), ("zero", zero))]
    quantized = ir.node("QuantizeLinear", [value, *parameters])
    restored = ir.node("DequantizeLinear", [quantized.outputs[0], *parameters])
    quantized.outputs[0].name, restored.outputs[0].name = f"{value.name}_quantized", f"{value.name}_restored"
    graph.insert_before(before, [quantized, restored])
    return restored.outputs[0]


def _from_bytes(
    graph: ir.Graph, before: ir.Node, name: str, values: Floats, bits: int
) -> tuple[ir.Value, npt.NDArray[np.int8]]:
    """Return a constant matrix as signed bytes with a scale a column, restored before a node, and the bytes."""
    most = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(values).max(axis=0) / most, SMALLEST).astype(np.float32)
    whole = np.clip(np.rint(values / scale), -most, most).astype(np.int8)
    arrays = (("int8", whole), ("scale", scale), ("zero", np.zeros(len(scale), dtype=np.int8)))
    restored = ir.node(
        "DequantizeLinear",
        [initializer(graph, f"{name}_{key}", array) for key, array in arrays],
        attributes={"axis": 1},
    )
    restored.outputs[0].name = f"{name}_restored"
    graph.insert_before(before, restored)
    return restored.outputs[0], whole


def _embeddings_in_bytes(graph: ir.Graph) -> None:
    """Make tables that ``input_ids`` look up signed bytes with a scale a row; rows are restored after the look-up."""
    for node in list(graph):
        table = node.inputs[0] if node.op_type == "Gather" else None
        if table is None or table.const_value is None or not node.inputs[1].is_graph_input():
            continue
        values = table.const_value.numpy()
        if node.inputs[1].name != "input_ids" or values.ndim != 2 or values.dtype != np.float32:
            continue
        scale = np.maximum(np.abs(values).max(axis=1, keepdims=True) / 127, SMALLEST).astype(np.float32)
        whole = np.clip(np.rint(values / scale), -127, 127).astype(np.int8)
        rows = ir.node("Gather", [initializer(graph, f"{table.name}_int8", whole), node.inputs[1]])
        cast = ir.node("Cast", [rows.outputs[0]], attributes={"to": ir.DataType.FLOAT})
        scales = ir.node("Gather", [initializer(graph, f"{table.name}_scale", scale), node.inputs[1]])
        restored = ir.node("Mul", [cast.outputs[0], scales.outputs[0]])
        for made in (rows, cast, scales, restored):
            made.outputs[0].name = f"{table.name}_{made.op_type.lower()}_{'scale' if made is scales else 'row'}"
        graph.insert_before(node, [rows, cast, scales, restored])
        ir.convenience.replace_all_uses_with(node.outputs[0], restored.outputs[0])
        graph.remove(node, safe=True)


def _residuals_apart(graph: ir.Graph) -> None:
    """Write the Add before each LayerNormalization as Sum, which is the same and is fused by no runtime.

    Add and LayerNormalization in one kernel round otherwise, and what is a last bit there can be a step of int8: so the
    answers are the same with whatever options a session is made. On CPUs the two are faster apart too (bench/LOG.md).
    """
    for node in list(graph):
        maker = node.inputs[0].producer() if node.op_type == "LayerNormalization" else None
        if maker is not None and maker.op_type == "Add":
            total = ir.node("Sum", maker.inputs)
            total.name, total.outputs[0].name = maker.name, maker.outputs[0].name
            total.outputs[0].type, total.outputs[0].shape = maker.outputs[0].type, maker.outputs[0].shape
            graph.insert_before(maker, total)
            ir.convenience.replace_all_uses_with(maker.outputs[0], total.outputs[0], replace_graph_outputs=True)
            graph.remove(maker, safe=True)
