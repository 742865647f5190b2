"""Biases go into the products of bytes, and for that the tokens of a batch become the rows of one matrix.

ONNX Runtime makes one kernel of a ``Gemm`` of bytes with a bias of 32 bits, and of a ``MatMul`` and an ``Add`` two, the
second of which reads and writes all that the first gave; and GELU without a bias is the faster one (bench/LOG.md). A
Gemm is of matrices. What stands between two of them and looks at one token at a time is computed on rows as well, so
that texts are parted again only where attention or the head wants them.

The bias is rounded to the unit of the integer sum, scale of the input times scale of the column, of which a product has
thousands: less than int8 rounds by far, and the same in every batch.

>>> biases_into_products(model)  # doctest: +SKIP
36
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from burnish_export.initializers import initializer

# Sums of 32 bits hold this much of a bias and what the product adds: 255 * 127 for each of some ten thousand terms.
LARGEST = 2**30
# Operators that look at one token at a time, and may have constants of one dimension beside it.
OF_ONE_TOKEN = {"Add", "Gelu", "LayerNormalization", "Mul", "QuantizeLinear", "Relu", "Sum", "Tanh"}


def biases_into_products(model: ir.Model) -> int:
    """Make ``Gemm`` of each product of bytes that has a constant bias behind it, in place; return how many there were.

    Left alone are products whose input is not ``[batch, length, channels]`` with the batch and the length of
    ``input_ids``, biases that integers of 32 bits cannot hold beside the sum, and sums that the next product reads at
    once: ONNX Runtime makes no product of bytes of a Gemm that is read in bytes and in float32.
    """
    graph = model.graph
    ids = next((value for value in graph.inputs if value.name == "input_ids"), None)
    if ids is None or ids.shape is None:
        return 0
    rows = _Rows(graph, ids)
    done = 0
    for node in list(graph):
        add = _bias_behind(node)
        if add is not None and rows.are_in(node.inputs[0]):
            done += _one_product(rows, node, add)
    rows.join_reshapes()
    RemoveUnusedNodesPass()(model)
    return done


def _bias_behind(node: ir.Node) -> ir.Node | None:
    """Return the Add of a constant vector behind a product of bytes; None where there is none that can go into it."""
    makers = [None if value is None else value.producer() for value in node.inputs[:2]]
    if node.op_type != "MatMul" or any(maker is None or maker.op_type != "DequantizeLinear" for maker in makers):
        return None
    readers = list(node.outputs[0].uses())
    if len(readers) != 1 or readers[0][0].op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    add, place = readers[0]
    quantized = any(reader.op_type == "QuantizeLinear" for reader, _ in add.outputs[0].uses())
    return add if _is_vector(add.inputs[1 - place]) and not quantized else None


def _one_product(rows: _Rows, node: ir.Node, add: ir.Node) -> bool:
    """Make a ``Gemm`` of a product and the sum behind it; return False where the bias is too large for it."""
    graph, restored, weights = rows.graph, *(value.producer() for value in node.inputs)
    bias = next(value for value in add.inputs if value is not node.outputs[0]).const_value.numpy()
    scale = restored.inputs[1].const_value.numpy() * weights.inputs[1].const_value.numpy()
    steps = np.rint(bias.astype(np.float64) / scale)
    if np.abs(steps).max() > LARGEST:
        return False
    parts = {"bias": steps.astype(np.int32), "scale": scale, "zero": np.zeros(len(steps), dtype=np.int32)}
    constants = [initializer(graph, f"{node.name}_{key}", array) for key, array in parts.items()]
    name = add.outputs[0].name
    left = ir.node("DequantizeLinear", [rows.of(restored.inputs[0]), *restored.inputs[1:]])
    behind = ir.node("DequantizeLinear", constants, attributes={"axis": 0})
    product = ir.node("Gemm", [left.outputs[0], node.inputs[1], behind.outputs[0]])
    product.name = (node.name or "").replace("/MatMul", "/Gemm")
    for made, suffix in ((left, "input"), (behind, "bias"), (product, "rows")):
        made.outputs[0].name = f"{name}_{suffix}"
    graph.insert_before(add, [left, behind, product])
    rows.part(add.outputs[0], product.outputs[0], before=add)
    return True


class _Rows:
    """The values of a graph as matrices with a row for each token, each made when it is asked for.

    Args:
        graph: the graph.
        ids: its ``input_ids``, int64 ``[batch, length]``.
    """

    def __init__(self, graph: ir.Graph, ids: ir.Value) -> None:
        self.graph = graph
        self.ids = ids
        self._rows: dict[ir.Value, ir.Value] = {}
        shape = ir.node("Shape", [ids])
        left = initializer(graph, "what_is_left", np.array([-1]))
        whole = ir.node("Concat", [shape.outputs[0], left], attributes={"axis": 0})
        shape.outputs[0].name, whole.outputs[0].name = "shape_of_ids", "shape_of_tokens"
        graph.insert_before(graph[0], [shape, whole])
        self._shape = whole.outputs[0]

    def are_in(self, value: ir.Value | None) -> bool:
        """Return whether a value is ``[batch, length, channels]`` of the texts themselves."""
        shape = None if value is None else written(value).shape
        return (
            shape is not None
            and len(shape) == 3
            and isinstance(shape[2], int)
            and list(shape[:2]) == list(self.ids.shape or ())
        )

    def of(self, value: ir.Value) -> ir.Value:
        """Return a value ``[batch, length, channels]`` as ``[batch * length, channels]``."""
        if value not in self._rows:
            maker = value.producer()
            if maker is not None and maker.op_type in OF_ONE_TOKEN and self._goes_along(maker):
                inputs = [self.of(one) if self.are_in(one) else one for one in maker.inputs]
                twin = ir.node(maker.op_type, inputs, attributes=maker.attributes)
                twin.name, twin.outputs[0].name = maker.name, f"{value.name}_rows"
                self.graph.insert_before(maker, twin)
                self.part(value, twin.outputs[0], before=maker)
            else:
                channels = int(written(value).shape[2])
                shape = initializer(self.graph, f"rows_of_{channels}", np.array([-1, channels]))
                twin = ir.node("Reshape", [value, shape])
                twin.outputs[0].name = f"{value.name}_rows"
                if maker is None:
                    self.graph.insert_before(self.graph[0], twin)
                else:
                    self.graph.insert_after(maker, twin)
                self._rows[value] = twin.outputs[0]
        return self._rows[value]

    def part(self, value: ir.Value, rows: ir.Value, *, before: ir.Node) -> None:
        """Let the readers of a value read these rows, parted into texts."""
        parted = ir.node("Reshape", [rows, self._shape])
        new = parted.outputs[0]
        new.type, new.shape, new.name = value.type, written(value).shape, f"{value.name}_texts"
        if value.is_graph_output():
            new.name, value.name = value.name, new.name
        self.graph.insert_before(before, parted)
        ir.convenience.replace_all_uses_with(value, new, replace_graph_outputs=True)
        self._rows[value] = self._rows[new] = rows

    def join_reshapes(self) -> None:
        """Let what reshapes a reshaped value read what that was made of: only the last shape counts."""
        for node in self.graph:
            maker = node.inputs[0].producer() if node.op_type == "Reshape" and node.inputs[0] is not None else None
            if maker is not None and maker.op_type == "Reshape" and not _copies(node):
                node.replace_input_with(0, maker.inputs[0])

    def _goes_along(self, node: ir.Node) -> bool:
        """Return whether all that a node reads are tokens of texts, and constants of one dimension at the most."""
        axis = node.attributes["axis"].value if "axis" in node.attributes else -1
        if node.op_type == "LayerNormalization" and axis != -1:
            return False
        return all(value is None or self.are_in(value) or _is_vector(value) for value in node.inputs)


def written(value: ir.Value) -> ir.Value:
    """Return the value whose shape was written down: bytes have that of what they stand for."""
    maker = value.producer()
    while maker is not None and maker.op_type in {"DequantizeLinear", "QuantizeLinear"}:
        value = maker.inputs[0]
        maker = value.producer()
    return value


def _is_vector(value: ir.Value | None) -> bool:
    """Return whether a value is a constant of one dimension at the most."""
    return value is not None and value.const_value is not None and len(value.const_value.shape) <= 1


def _copies(node: ir.Node) -> bool:
    """Return whether a Reshape may take a dimension over from what it reads, as 0 in its shape says."""
    shape = node.inputs[1]
    maker = shape.producer()
    parts = maker.inputs if maker is not None and maker.op_type == "Concat" else [shape]
    known = [part.const_value.numpy() for part in parts if part.const_value is not None]
    return not known or any((array == 0).any() for array in known)
