"""Rewrites of a graph before it is proven: fewer nodes that say the same, for whatever runtime reads them.

- **A GELU in pieces becomes one operator.** ``gelu_new`` of ALBERT and its relatives are eight nodes and more where the
  model spells them out. As one ``Gelu`` they are one kernel, which takes the bias before it along. The patterns are
  those of transformers, matched on operators and constants, never on names.
- **A Gemm becomes a product and a sum.** ONNX Runtime computes one row by another kernel than several, so the float32
  head of a classifier gave the last bit of a logit its neighbours. As a product it can be int8, which is exact.
- **A sum over tokens becomes a product with the mask.** ONNX Runtime adds the tokens of one text in another order than
  those of several; a product adds them in their order, and padding adds zeros.
- **A mask that only hides padding is made in a few operators** (`mask`).
- **Where only the first token's vector is read, the last layer computes no other** (`first`).
- **What depends on weights alone is computed here.** DeBERTa projects its table of relative positions in each layer
  anew, whatever the text. Left in the graph, every session would do it when it loads, and int8 would round it twice.

What comes out is held against PyTorch like any other graph.

>>> simplify(model)  # doctest: +SKIP
{'Gelu': 12, 'masks': 1, 'constants': 0}
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

from burnish_export.first import first_token_alone
from burnish_export.initializers import initializer
from burnish_export.mask import plain_mask
from burnish_serve.session import create_session

NESTED = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def simplify(model: ir.Model) -> dict[str, int]:
    """Apply all rewrites in place; return how many of each were done."""
    return {
        "Gelu": fuse_gelu(model),
        "Gemm": part_gemm(model.graph),
        "sums": sum_by_product(model.graph),
        "masks": plain_mask(model),
        "first": first_token_alone(model.graph),
        "constants": compute_constants(model),
    }


def fuse_gelu(model: ir.Model) -> int:
    """Make one ``Gelu`` of each that is in pieces, in place; return how many there were."""
    done: int = GELU_RULES.apply_to_model(model)
    return done


def part_gemm(graph: ir.Graph) -> int:
    """Make ``MatMul`` and ``Add`` of each ``Gemm`` with a constant matrix, in place; return how many there were."""
    done = 0
    for node in list(graph):
        weight = node.inputs[1] if node.op_type == "Gemm" else None
        settings = {"alpha": 1, "beta": 1, "transA": 0, "transB": 0}
        settings |= {name: attribute.value for name, attribute in node.attributes.items()}
        if weight is None or weight.const_value is None or [*settings.values()][:3] != [1, 1, 0]:
            continue
        if settings["transB"]:
            weight = initializer(graph, f"{weight.name}_turned", np.ascontiguousarray(weight.const_value.numpy().T))
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if bias is None:  # the exporter drops zeros; with them the session can make a Gemm of it again
            bias = initializer(graph, f"{weight.name}_bias", np.zeros(weight.shape[1], dtype=np.float32))
        product = ir.node("MatMul", [node.inputs[0], weight])
        total = ir.node("Add", [product.outputs[0], bias])
        output = node.outputs[0]
        product.outputs[0].name = f"{output.name}_product"
        for made in (product, total):
            made.metadata_props.update(node.metadata_props)
            made.outputs[0].type = output.type
            made.outputs[0].shape = output.shape
        graph.insert_before(node, [product, total])
        total.outputs[0].name = output.name
        ir.convenience.replace_all_uses_with(output, total.outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)
        done += 1
    for unused in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[unused]
    return done


def sum_by_product(graph: ir.Graph) -> int:
    """Make a product of each sum over tokens of ``x[b, l, h] * w[b, l, 1]``, in place; return how many there were."""
    done = 0
    for node in list(graph):
        maker = node.inputs[0].producer() if node.op_type == "ReduceSum" and node.inputs[0] is not None else None
        axes = node.inputs[1].const_value if maker is not None and len(node.inputs) > 1 else None
        keeps = node.attributes["keepdims"].value if "keepdims" in node.attributes else 1
        if maker is None or maker.op_type != "Mul" or keeps or axes is None or axes.numpy().tolist() != [1]:
            continue
        weights = [value for value in maker.inputs if _ends_in_one(value)]
        others = [value for value in maker.inputs if not _ends_in_one(value)]
        if len(weights) != 1 or len(others) != 1:
            continue
        turned = ir.node("Transpose", [weights[0]], attributes={"perm": [0, 2, 1]})
        product = ir.node("MatMul", [turned.outputs[0], others[0]])
        total = ir.node("Squeeze", [product.outputs[0], node.inputs[1]])
        output = node.outputs[0]
        for made in (turned, product, total):
            made.metadata_props.update(node.metadata_props)
            made.outputs[0].name = f"{output.name}_{made.op_type.lower()}"
        total.outputs[0].name, total.outputs[0].type, total.outputs[0].shape = output.name, output.type, output.shape
        graph.insert_before(node, [turned, product, total])
        ir.convenience.replace_all_uses_with(output, total.outputs[0], replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if not maker.outputs[0].uses():
            graph.remove(maker, safe=True)
        done += 1
    return done


def _ends_in_one(value: ir.Value | None) -> bool:
    """Return whether a value is ``[batch, length, 1]``."""
    return value is not None and value.shape is not None and len(value.shape) == 3 and value.shape[2] == 1


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
    for value, array in zip(wanted, arrays, strict=True):
        ir.convenience.replace_all_uses_with(value, initializer(graph, value.name or "", array))
    graph.remove(reversed(nodes), safe=True)
    RemoveUnusedNodesPass()(model)  # and the weights that nobody reads any more
    return len(wanted)


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
