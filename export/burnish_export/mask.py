"""The mask of padding in a few operators, where transformers builds it in two dozen.

transformers asks a function of batch, head, query and key for each element of the mask, so that any kind of attention
can be written; exported, that is a table of indices and a look-up. Most encoders only mean "no key that is padding".
Whether they do is not read off the operators: what a graph makes of its mask is computed for several masks and lengths,
and only where it is always nothing for a token and one number for padding, the same for each query, is it replaced.

>>> plain_mask(model)  # doctest: +SKIP
1
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from burnish_serve.session import create_session

MASK = "attention_mask"
Numbers = npt.NDArray[np.float32]


def plain_mask(model: ir.Model) -> int:
    """Make six operators of each table ``[batch, 1, length, length]`` that only hides padding; return how many."""
    graph = model.graph
    mask = next((value for value in graph.inputs if value.name == MASK), None)
    tables = [] if mask is None else _tables(graph, mask)
    done = 0
    for table, hidden in zip(tables, _what_is_hidden(model, tables), strict=True):
        if mask is not None and hidden is not None:
            _replace(graph, mask, table, hidden, done)
            done += 1
    RemoveUnusedNodesPass()(model)
    return done


def _tables(graph: ir.Graph, mask: ir.Value) -> list[ir.Value]:
    """Return the float32 values of four dimensions that are made of the mask and shapes alone, and read by others."""
    shapes = set(graph.initializers.values())
    masks = {mask}
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        if node.op_type in {"Shape", "Size"} or all(value in shapes for value in read):
            shapes.update(node.outputs)
        elif all(value in shapes or value in masks for value in read):
            masks.update(node.outputs)
    return [
        value
        for node in graph
        for value in node.outputs
        if value in masks
        and value.dtype == ir.DataType.FLOAT
        and value.shape is not None
        and len(value.shape) == 4
        and any(reader.outputs[0] not in masks for reader, _ in value.uses())
    ]


def _what_is_hidden(model: ir.Model, tables: list[ir.Value]) -> list[float | None]:
    """Return the number that padding has in each table; None where a table is more than that."""
    if not tables:
        return []
    graph = model.graph
    found: list[float | None] = [None] * len(tables)
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        path = Path(folder) / "mask.onnx"
        part = ir.convenience.extract(graph, list(graph.inputs), tables)
        ir.save(ir.Model(part, ir_version=model.ir_version), path)
        session = create_session(path)
        names = [one.name for one in session.get_inputs()]
        for number, mask in enumerate(_examples()):
            feed: dict[str, Any] = {name: mask if name == MASK else np.zeros_like(mask) for name in names}
            for place, table in enumerate(session.run(None, feed)):
                hidden = _hidden_in(table, mask)
                found[place] = hidden if number == 0 or hidden == found[place] else None
    return found


def _examples() -> list[npt.NDArray[np.int64]]:
    """Return masks ``[batch, length]`` with padding behind, before and between tokens; the longest exceeds windows."""
    random = np.random.default_rng(0)
    found = [random.integers(0, 2, (4, length)) for length in (5, 2, 33, 300)]
    for mask in found:
        mask[0] = 1
        mask[1:, 0] = [1, 0, 1]
        mask[1:, -1] = [0, 1, 0]
    return found


def _hidden_in(table: Numbers, mask: npt.NDArray[np.int64]) -> float | None:
    """Return the number that stands for padding in a table, 0 for tokens; None where the table is another one."""
    batch, length = mask.shape
    if table.shape != (batch, 1, length, length):
        return None
    hidden = float(table[1, 0, 0, -1])
    wanted = np.where(mask[:, None, None, :] == 1, np.float32(0), np.float32(hidden))
    return hidden if hidden < 0 and np.array_equal(table, np.broadcast_to(wanted, table.shape)) else None


def _replace(graph: ir.Graph, mask: ir.Value, table: ir.Value, hidden: float, number: int) -> None:
    """Put a table made in a few steps in the place of another."""

    def constant(name: str, array: Any) -> ir.Value:
        tensor = ir.tensor(array, name=f"mask_{number}_{name}")
        value = ir.Value(name=tensor.name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.register_initializer(value)
        return value

    wide = ir.node("Unsqueeze", [mask, constant("axes", np.array([1, 2]))])
    real = ir.node("Cast", [wide.outputs[0]], attributes={"to": ir.DataType.BOOL})
    row = ir.node("Where", [real.outputs[0], constant("token", np.float32(0)), constant("padding", np.float32(hidden))])
    length = ir.node("Shape", [mask], attributes={"start": 1})
    shape = ir.node(
        "Concat",
        [constant("before", np.array([1, 1])), length.outputs[0], constant("behind", np.array([1]))],
        attributes={"axis": 0},
    )
    full = ir.node("Expand", [row.outputs[0], shape.outputs[0]])  # a row for each query: what adds it is faster so
    made = [wide, real, row, length, shape, full]
    maker = table.producer()
    for node in made:
        node.outputs[0].name = f"mask_{number}_{node.op_type.lower()}"
        if maker is not None:
            node.metadata_props.update(maker.metadata_props)
    full.outputs[0].type, full.outputs[0].shape = table.type, table.shape
    graph.insert_before(graph[0], made)
    ir.convenience.replace_all_uses_with(table, full.outputs[0])
