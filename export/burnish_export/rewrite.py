"""Rewrites of a graph before it is proven: what the exporter leaves in pieces becomes one operator.

A GELU that a model spells out in Python (``gelu_new`` of ALBERT, and its relatives) is up to eight nodes. As one
``Gelu`` it is one kernel on every runtime, and on the CPU it takes the bias before it along. The patterns are matched on
operators and constants, never on names, and what comes out is held against PyTorch like any other graph.

>>> fuse_gelu(model)  # doctest: +SKIP
12
"""

from __future__ import annotations

import math
from typing import Any

import onnx_ir as ir
from onnxscript.rewriter import RewriteRule, RewriteRuleSet

# How many pieces each way of writing it takes; ``op`` records a pattern and computes nothing.


def _tanh_of_cube(op: Any, x: Any) -> Any:
    """Return ``gelu_new``, ``gelu_accurate``, ``gelu_python_tanh`` (Hendrycks and Gimpel, 2016, arXiv:1606.08415)."""
    inner = op.Mul(op.Add(x, op.Mul(op.Pow(x, 3.0), 0.044715)), math.sqrt(2 / math.pi))
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Tanh(inner), 1.0))


def _tanh_of_squares(op: Any, x: Any) -> Any:
    """Return ``gelu_fast``: the same without a power."""
    inner = op.Mul(op.Mul(x, math.sqrt(2 / math.pi)), op.Add(op.Mul(op.Mul(x, 0.044715), x), 1.0))
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Tanh(inner), 1.0))


def _erf(op: Any, x: Any) -> Any:
    """Return ``gelu_python``: exact, by the error function."""
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
    ],
)


def fuse_gelu(model: ir.Model) -> int:
    """Make one ``Gelu`` of each that is in pieces, in place; return how many there were."""
    return GELU_RULES.apply_to_model(model)
