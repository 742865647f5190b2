"""Only the first token's vector leaves a classifier: so its last layer computes no other.

All tokens are asked for keys and values, and everything behind them is wanted of the first token alone: one query, one
row of scores, one vector through the products that make up two thirds of a layer. No runtime finds that out, since the
choice stands at the end of the graph and the work before it. Here it is moved back, operator by operator, until it
meets something that others want whole.

>>> first_token_alone(model.graph)  # doctest: +SKIP
21
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from burnish_export.initializers import initializer

# Operators that work on each number by itself, or on pairs of numbers at the same place.
BY_PLACE = {"Add", "Cast", "Div", "Gelu", "Mul", "Pow", "Relu", "Sub", "Sum", "Tanh"}
# Operators that look along their last axis.
ALONG_LAST = {"LayerNormalization", "Softmax"}


def first_token_alone(graph: ir.Graph) -> int:
    """Move the choice of the first token back through the last layer, in place; return how many operators it passed."""
    nodes = list(graph)
    chosen = [node for node in nodes if _takes_first(node)]
    if len(chosen) != 1:
        return 0
    passed = _passed(nodes, chosen[0])
    if not passed:
        return 0
    twins: dict[ir.Value, ir.Value] = {}
    for node in nodes:
        if node not in passed:
            continue
        wanted = dict(_wanted(node, passed[node]) or ())
        inputs = [
            _first(graph, node, twins, value, wanted[place]) if place in wanted else value
            for place, value in enumerate(node.inputs)
        ]
        attributes = node.attributes
        if node.op_type == "Reshape":  # 0 stands for the batch, unless an attribute forbids it
            inputs[1] = initializer(graph, f"{node.name}_first", np.array([0, 1, *node.outputs[0].shape[2:]]))
            attributes = {}
        twin = ir.node(node.op_type, inputs, attributes=attributes)
        old, new = node.outputs[0], twin.outputs[0]
        twin.name, new.name, new.type = node.name, f"{old.name}_first", old.type
        twin.metadata_props.update(node.metadata_props)
        if old.shape is not None:
            new.shape = ir.Shape([1 if axis == passed[node] else size for axis, size in enumerate(old.shape)])
        graph.insert_before(node, twin)
        twins[old] = new
    chosen[0].replace_input_with(0, twins[chosen[0].inputs[0]])
    graph.remove([node for node in reversed(nodes) if node in passed], safe=True)
    return len(passed)


def _takes_first(node: ir.Node) -> bool:
    """Return whether a node takes the first token of ``[batch, length, channels]``."""
    value, number = [*node.inputs, None, None][:2]
    return (
        node.op_type == "Gather"
        and _axis(node, 0) == 1
        and value is not None
        and value.shape is not None
        and len(value.shape) == 3
        and number is not None
        and number.const_value is not None
        and number.const_value.numpy().tolist() == 0
    )


def _passed(nodes: list[ir.Node], choice: ir.Node) -> dict[ir.Node, int]:
    """Return the nodes of whose outputs only the first part of one axis is wanted, with that axis."""
    asked: dict[ir.Value, set[int]] = {choice.inputs[0]: {1}}
    readers: dict[ir.Value, set[ir.Node]] = {choice.inputs[0]: {choice}}
    passed: dict[ir.Node, int] = {}
    for node in reversed(nodes):
        value = node.outputs[0]
        if len(node.outputs) > 1 or len(asked.get(value, ())) != 1 or value.is_graph_output():
            continue
        (axis,) = asked[value]
        wanted = _wanted(node, axis)
        if wanted is None or {reader for reader, _ in value.uses()} != readers[value]:
            continue
        if len(set(node.inputs)) < len(node.inputs):  # one value in two places is asked for as one
            continue
        passed[node] = axis
        for place, inner in wanted:
            asked.setdefault(node.inputs[place], set()).add(inner)
            readers.setdefault(node.inputs[place], set()).add(node)
    return passed


def _wanted(node: ir.Node, axis: int) -> list[tuple[int, int]] | None:
    """Return which inputs, and of which of their axes, a node needs only the first part of; None where it needs all."""
    out = node.outputs[0].shape
    if node.op_type == "Transpose":
        return [(0, node.attributes["perm"].value[axis])]
    if node.op_type == "Concat":
        return None if _axis(node, 0) == axis else [(place, axis) for place in range(len(node.inputs))]
    if out is None:
        return None
    if node.op_type in ALONG_LAST:
        last = _axis(node, -1) in (-1, len(out) - 1)
        return [(0, axis)] if last and axis < len(out) - 1 else None
    if node.op_type == "MatMul":
        return [(0, axis)] if axis == len(out) - 2 and _rank(node.inputs[0]) == len(out) else None
    if node.op_type == "Reshape":
        before = node.inputs[0].shape
        kept = before is not None and axis == 1 and list(before[:2]) == list(out[:2])
        return [(0, 1)] if kept and all(isinstance(size, int) for size in out[2:]) else None
    known = all(value is not None and value.shape is not None for value in node.inputs)
    return list(_by_place(node, axis, len(out))) if known and node.op_type in BY_PLACE else None


def _by_place(node: ir.Node, axis: int, rank: int) -> Iterator[tuple[int, int]]:
    """Yield the inputs that are as long as the output along an axis; the others are stretched to it."""
    for place, value in enumerate(node.inputs):
        own = axis - (rank - _rank(value))
        if own >= 0 and value.shape[own] != 1:
            yield place, own


def _axis(node: ir.Node, default: int) -> int:
    return int(node.attributes["axis"].value) if "axis" in node.attributes else default


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def _first(graph: ir.Graph, before: ir.Node, twins: dict[ir.Value, ir.Value], value: ir.Value, axis: int) -> ir.Value:
    """Return the first part of a value along an axis, sliced once where it is not made so."""
    if value not in twins:
        ends = [initializer(graph, f"first_{number}", np.array([number])) for number in (0, 1, axis)]
        node = ir.node("Slice", [value, *ends])
        node.name, node.outputs[0].name, node.outputs[0].type = f"{value.name}/first", f"{value.name}_first", value.type
        if value.shape is not None:
            shape = [1 if place == axis else size for place, size in enumerate(value.shape)]
            node.outputs[0].shape = ir.Shape(shape)
        graph.insert_before(before, node)
        twins[value] = node.outputs[0]
    return twins[value]
