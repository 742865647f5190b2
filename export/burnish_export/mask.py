"""The mask of padding in a few operators, where transformers builds it in two dozen.

transformers asks a function of batch, head, query and key for each element of the mask, so that any kind of attention
can be written; exported, that is a table of indices and a look-up. Most encoders only mean "no key that is padding".
Whether they do is not read off the operators: what a graph makes of its mask is computed for several masks and lengths,
and only where it is always nothing for a token and one number for padding, the same for each query, is it replaced.

Nor need it be added to the scores of all pairs of tokens, which are the largest thing in a long text's attention: as
one more channel of the keys, beside a channel of ones in the queries, it is added inside of their product. The last bit
of a score stays the same, for the channel is the last of a sum that begins as before. That is done to our int8 alone:
the float32 graph is also what others quantize, and a channel of -3e38 would be all that their ranges hold.

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

from burnish_export.initializers import initializer
from burnish_serve.session import create_session

MASK = "attention_mask"
# Of a number as small as this nothing is left behind a softmax, whatever scale it went through.
SURELY_NOTHING = -1e30
Numbers = npt.NDArray[np.float32]


def plain_mask(model: ir.Model) -> int:
    """Make six operators of each table ``[batch, 1, length, length]`` that only hides padding; return how many."""
    graph = model.graph
    mask = next((value for value in graph.inputs if value.name == MASK), None)
    tables = [] if mask is None else _tables(graph, mask)
    done = 0
    for table, hidden in zip(tables, _what_is_hidden(model, tables), strict=True):
        if mask is not None and hidden is not None:
            _replace(_Maker(graph, mask, table.producer(), f"mask_{done}", before=graph[0]), table, hidden)
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


class _Maker:
    """Makes nodes, one behind another.

    Args:
        graph: the graph.
        mask: its ``attention_mask``.
        origin: the node whose notes they take over.
        name: what their names begin with.
        before: the node that they go before.
    """

    def __init__(self, graph: ir.Graph, mask: ir.Value, origin: ir.Node | None, name: str, *, before: ir.Node) -> None:
        self.graph, self.mask, self.origin, self.name, self.before = graph, mask, origin, name, before
        self.count = 0

    def constant(self, array: Any) -> ir.Value:
        """Return a constant."""
        self.count += 1
        return initializer(self.graph, f"{self.name}_{self.count}", array)

    def node(self, kind: str, *inputs: ir.Value, before: ir.Node | None = None, **attributes: Any) -> ir.Value:
        """Return what a new node gives."""
        self.count += 1
        node = ir.node(kind, inputs, attributes=attributes)
        node.outputs[0].name = f"{self.name}_{self.count}_{kind.lower()}"
        origin = before or self.origin
        if origin is not None:
            node.metadata_props.update(origin.metadata_props)
        self.graph.insert_before(before or self.before, node)
        return node.outputs[0]


def _replace(make: _Maker, table: ir.Value, hidden: float) -> None:
    """Put a table made in a few steps in the place of another."""
    wide = make.node("Unsqueeze", make.mask, make.constant(np.array([1, 2])))
    real = make.node("Cast", wide, to=ir.DataType.BOOL)
    row = make.node("Where", real, make.constant(np.float32(0)), make.constant(np.float32(hidden)))
    length = make.node("Shape", make.mask, start=1)
    one = make.constant(np.array([1]))
    shape = make.node("Concat", make.constant(np.array([1, 1])), length, one, axis=0)
    full = make.node("Expand", row, shape)  # a row for each query: what adds it is faster so
    full.type, full.shape = table.type, table.shape
    ir.convenience.replace_all_uses_with(table, full)


def mask_into_products(model: ir.Model) -> int:
    """Move each table of `plain_mask` into the products that it is added to, in place; return how many took it.

    Left alone are scores that someone else reads, and masks that a softmax could leave something of.
    """
    graph = model.graph
    mask = next((value for value in graph.inputs if value.name == MASK), None)
    found = [] if mask is None else [(node, row) for node in graph if (row := _row_of(node, mask)) is not None]
    done = 0
    for number, (full, row) in enumerate(found):
        make = _Maker(graph, mask, full, f"channel_{number}", before=full)
        channels: dict[int, tuple[ir.Value, ir.Value]] = {}
        for reader, _ in list(full.outputs[0].uses()):
            product = _product_behind(reader, full.outputs[0])
            if product is None:
                continue
            heads = int(product.outputs[0].shape[1])
            if heads not in channels:
                channels[heads] = _channels(make, row, heads)
            for place, (channel, axis) in enumerate(zip(channels[heads], (3, 2), strict=True)):
                product.replace_input_with(place, _with_channel(make, product, place, channel, axis))
            scores = next(value for value in reader.inputs if value is not full.outputs[0])
            ir.convenience.replace_all_uses_with(reader.outputs[0], scores)
            graph.remove(reader, safe=True)
            done += 1
    RemoveUnusedNodesPass()(model)
    return done


def _row_of(full: ir.Node, mask: ir.Value) -> ir.Value | None:
    """Return the mask ``[batch, 1, 1, length]`` that a node makes a table of; None where that is not `_replace`'s."""
    where = full.inputs[0].producer() if full.op_type == "Expand" and full.inputs[0] is not None else None
    if where is None or where.op_type != "Where":
        return None
    real = where.inputs[0].producer()
    wide = None if real is None else real.inputs[0].producer()
    if wide is None or wide.op_type != "Unsqueeze" or wide.inputs[0] is not mask:
        return None
    token, padding = (_number(value) for value in where.inputs[1:])
    return where.outputs[0] if token == 0 and padding is not None and padding <= SURELY_NOTHING else None


def _product_behind(add: ir.Node, table: ir.Value) -> ir.Node | None:
    """Return the product ``[batch, heads, length, length]`` that the table is added to, scaled or not; or None."""
    others = [value for value in add.inputs if value is not table]
    if add.op_type != "Add" or len(others) != 1 or add.outputs[0].is_graph_output():
        return None
    scores = others[0]
    node = scores.producer()
    while node is not None and node.op_type in {"Mul", "Div"} and (_number(node.inputs[1]) or 0) > 0:
        scores = node.inputs[0]
        node = scores.producer()
    shape = None if node is None else node.outputs[0].shape
    if node is None or node.op_type != "MatMul" or shape is None or len(shape) != 4 or not isinstance(shape[1], int):
        return None
    alone = len(list(node.outputs[0].uses())) == 1 == len(list(others[0].uses()))
    return node if alone and all(value.const_value is None for value in node.inputs) else None


def _channels(make: _Maker, row: ir.Value, heads: int) -> tuple[ir.Value, ir.Value]:
    """Return ones for queries, ``[batch, heads, length, 1]``, and the mask for keys, ``[batch, heads, 1, length]``."""
    batch, length = make.node("Shape", make.mask, start=0, end=1), make.node("Shape", make.mask, start=1)
    one = make.constant(np.array([1]))
    shape = make.node("Concat", batch, make.constant(np.array([heads])), length, one, axis=0)
    ones = make.node("Expand", make.constant(np.ones((1, 1, 1, 1), dtype=np.float32)), shape)
    return ones, make.node("Expand", row, make.constant(np.array([1, heads, 1, 1])))


def _with_channel(make: _Maker, product: ir.Node, place: int, channel: ir.Value, axis: int) -> ir.Value:
    """Return what a product reads with one channel more, before a transposition that it could take in."""
    value = product.inputs[place]
    turn = value.producer()
    if turn is None or turn.op_type != "Transpose" or len(list(value.uses())) > 1:
        return make.node("Concat", value, channel, before=product, axis=axis)
    perm = turn.attributes["perm"].value
    back = make.node("Transpose", channel, perm=[perm.index(number) for number in range(len(perm))])
    longer = make.node("Concat", turn.inputs[0], back, before=turn, axis=perm[axis])
    return make.node("Transpose", longer, before=turn, perm=perm)


def _number(value: ir.Value | None) -> float | None:
    """Return a value that is one constant number; None where it is not."""
    array = None if value is None or value.const_value is None else value.const_value.numpy()
    return float(array.reshape(())) if array is not None and array.size == 1 else None
