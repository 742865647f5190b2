"""Rows of tokens in time-major order, which products of attention read without a copy.

Where the tokens of a batch are the rows of one matrix (`gemm`), nothing asks in what order. With all texts' first
tokens before all their second ones, queries ``[length, batch, heads, channels]`` need no copy to become ``[batch,
heads, length, channels]``: ONNX Runtime lets a product read through a transposition that moves the first axis behind
the other ones of the batch, and through no other (``transBatchA`` and ``transBatchB`` of its FusedMatMul). So three of
the four copies in a layer go away. The numbers are the same, and so is the order in which they are added.
Transpositions are put in one behind another; a session joins them when it loads.

>>> time_major(model)  # doctest: +SKIP
18
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from burnish_export.gemm import OF_ONE_TOKEN, written
from burnish_export.initializers import initializer

# What may stand between two of the reshapes that make rows and part them.
OF_ROWS = OF_ONE_TOKEN | {"DequantizeLinear", "Gemm"}


def time_major(model: ir.Model) -> int:
    """Order all rows by place and then by text, in place; return how many transpositions products can now take in.

    Left alone is a graph in which that would add more copies than it saves.
    """
    graph = model.graph
    ids = next((value for value in graph.inputs if value.name == "input_ids"), None)
    inward = [] if ids is None else [node for node in graph if _makes_rows(node, ids)]
    outward = _parting(inward)
    if ids is None or not inward or not all(_starts_like(node.outputs[0], ids) for node in outward):
        return 0
    turns = [node for out in outward for node, _ in out.outputs[0].uses() if node.op_type == "Transpose"]
    saved = [node for node in turns if all(user.op_type == "MatMul" for user, _ in node.outputs[0].uses())]
    added = [node for node in inward if not _alone(_maker(node))]
    added += [node for node in outward if any(user not in turns for user, _ in node.outputs[0].uses())]
    if len(saved) <= len(added):
        return 0
    for node in inward:
        node.replace_input_with(0, _swapped(node.inputs[0], before=node))
    sizes = _sizes(graph, ids)
    for node in outward:
        _part_by_place(node, sizes)
    RemoveUnusedNodesPass()(model)
    return len(saved)


def _makes_rows(node: ir.Node, ids: ir.Value) -> bool:
    """Return whether a node makes ``[batch * length, channels]`` of something of the texts' tokens."""
    shape = node.inputs[1].const_value if node.op_type == "Reshape" else None
    wanted = [] if shape is None else shape.numpy().tolist()
    return len(wanted) == 2 and wanted[0] == -1 and _starts_like(written(node.inputs[0]), ids)


def _starts_like(value: ir.Value, ids: ir.Value) -> bool:
    """Return whether a value is ``[batch, length, …]`` of the texts, with numbers behind."""
    shape = value.shape
    return (
        shape is not None
        and len(shape) > 2
        and list(shape[:2]) == list(ids.shape or ())
        and all(isinstance(size, int) for size in shape[2:])
    )


def _parting(inward: list[ir.Node]) -> list[ir.Node]:
    """Return the reshapes that read rows; none where something else reads them that could ask for their order."""
    rows = [node.outputs[0] for node in inward]
    seen = set(rows)
    found: dict[ir.Node, None] = {}
    while rows:
        for node, place in rows.pop().uses():
            if node.op_type == "Reshape":
                found[node] = None
            elif node.op_type not in OF_ROWS or (node.op_type == "Gemm" and place > 0):
                return []
            elif node.outputs[0] not in seen:
                seen.add(node.outputs[0])
                rows.append(node.outputs[0])
    return list(found) if not any(value.is_graph_output() for value in seen) else []


def _maker(node: ir.Node) -> ir.Node | None:
    """Return the transposition that a node reads; None where it reads something else."""
    maker = node.inputs[0].producer() if node.inputs[0] is not None else None
    return maker if maker is not None and maker.op_type == "Transpose" else None


def _alone(node: ir.Node | None) -> bool:
    """Return whether a node's output has one reader."""
    return node is not None and len(list(node.outputs[0].uses())) == 1 and not node.outputs[0].is_graph_output()


def _sizes(graph: ir.Graph, ids: ir.Value) -> list[ir.Value]:
    """Return the length and the batch, int64 ``[1]`` each."""
    nodes = [ir.node("Shape", [ids], attributes={"start": axis, "end": axis + 1}) for axis in (1, 0)]
    for node, name in zip(nodes, ("length", "batch"), strict=True):
        node.outputs[0].name = f"time_major_{name}"
    graph.insert_before(graph[0], nodes)
    return [node.outputs[0] for node in nodes]


def _swapped(value: ir.Value, *, before: ir.Node) -> ir.Value:
    """Return a value with its first two axes in the other order."""
    rank = len(written(value).shape)
    node = ir.node("Transpose", [value], attributes={"perm": [1, 0, *range(2, rank)]})
    node.outputs[0].name = f"{before.outputs[0].name}_by_place"
    before.graph.insert_before(before, node)
    return node.outputs[0]


def _part_by_place(node: ir.Node, sizes: list[ir.Value]) -> None:
    """Let a reshape of rows make ``[length, batch, …]``, and give its readers what they had."""
    graph, old = node.graph, node.outputs[0]
    rest = [int(size) for size in old.shape[2:]]
    tail = initializer(graph, "_".join(["time_major", *map(str, rest)]), np.array(rest))
    shape = ir.node("Concat", [*sizes, tail], attributes={"axis": 0})
    parted = ir.node("Reshape", [node.inputs[0], shape.outputs[0]])
    turned = ir.node("Transpose", parted.outputs, attributes={"perm": [1, 0, *range(2, len(rest) + 2)]})
    parted.name = node.name
    new = turned.outputs[0]
    shape.outputs[0].name, parted.outputs[0].name = f"{old.name}_sizes", f"{old.name}_by_place"
    new.name, new.shape, new.type = f"{old.name}_by_text", old.shape, old.type
    if old.is_graph_output():
        new.name, old.name = old.name, new.name
    graph.insert_before(node, [shape, parted, turned])
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
