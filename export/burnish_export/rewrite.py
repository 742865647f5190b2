"""Rewrites of a graph before it is proven: fewer nodes that say the same, for whatever runtime reads them.

- **A GELU in pieces becomes one operator.** ``gelu_new`` of ALBERT and its relatives are eight nodes and more where the
  model spells them out. As one ``Gelu`` they are one kernel, which takes the bias before it along. The patterns are
  those of transformers, matched on operators and constants, never on names.
- **What depends on weights alone is computed here.** DeBERTa projects its table of relative positions in each layer
  anew, whatever the text. Left in the graph, every session would do it when it loads, and int8 would round it twice.

What comes out is held against PyTorch like any other graph.

>>> simplify(model)  # doctest: +SKIP
{'Gelu': 12, 'constants': 0}
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from burnish_serve.session import create_session

NESTED = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def simplify(model: ir.Model) -> dict[str, int]:
    """Apply all rewrites in place; return how many GELUs became one operator, and how many constants were computed."""
    return {"Gelu": fuse_gelu(model), "constants": compute_constants(model)}


def fuse_gelu(model: ir.Model) -> int:
    """Make one ``Gelu`` of each that is in pieces, in place; return how many there were."""
    done: int = GELU_RULES.apply_to_model(model)
    return done


def compute_constants(model: ir.Model) -> int:
    """Compute what depends on no input and make it a weight, in place; return how many weights were made."""
    graph = model.graph
    known = set(graph.initializers.values())
    nodes: dict[ir.Node, None] = {}
    for node in graph:
        nested = any(attribute.type in NESTED for attribute in node.attributes.values())
        given = any(value.is_graph_output() for value in node.outputs)
        if not nested and not given and all(value is None or value in known for value in node.inputs):
            known.update(node.outputs)
            nodes[node] = None
    wanted = [value for node in nodes for value in node.outputs if any(user not in nodes for user, _ in value.uses())]
    if not wanted:
        return 0
    with tempfile.TemporaryDirectory(prefix="burnish-") as folder:
        path = Path(folder) / "constants.onnx"
        ir.save(ir.Model(ir.convenience.extract(graph, [], wanted), ir_version=model.ir_version), path)
        arrays = create_session(path).run(None, {})
    made = [_weight(value.name or "", array) for value, array in zip(wanted, arrays, strict=True)]
    for value, weight in zip(wanted, made, strict=True):
        ir.convenience.replace_all_uses_with(value, weight)
    graph.remove(reversed(nodes), safe=True)
    for weight in made:
        graph.register_initializer(weight)
    RemoveUnusedNodesPass()(model)  # and the weights that nobody reads any more
    return len(made)


def _weight(name: str, array: Any) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    return ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)


# The patterns: ``op`` records operators and computes nothing. Each follows the order in which transformers writes it.


def _tanh_of_cube(op: Any, x: Any) -> Any:
    """``gelu_new``, ``gelu_accurate``, ``gelu_python_tanh`` (Hendrycks and Gimpel, 2016, arXiv:1606.08415)."""
    inner = op.Mul(op.Add(x, op.Mul(op.Pow(x, 3.0), 0.044715)), math.sqrt(2 / math.pi))
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Tanh(inner), 1.0))


def _tanh_of_squares(op: Any, x: Any) -> Any:
    """``gelu_fast``: the same without a power."""
    inner = op.Mul(op.Mul(x, math.sqrt(2 / math.pi)), op.Add(op.Mul(op.Mul(x, 0.044715), x), 1.0))
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Tanh(inner), 1.0))


def _erf(op: Any, x: Any) -> Any:
    """``gelu_python``: exact, by the error function."""
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Erf(op.Div(x, math.sqrt(2))), 1.0))


def _gelu_tanh(op: Any, x: Any) -> Any:
    return op.Gelu(x, approximate="tanh")


def _gelu(op: Any, x: Any) -> Any:
    return op.Gelu(x)


GELU_RULES = RewriteRuleSet(
    [
        RewriteRule(_tanh_of_cube, _gelu_tanh),
        RewriteRule(_tanh_of_squares, _gelu_tanh),
        RewriteRule(_erf, _gelu),
    ]
)
