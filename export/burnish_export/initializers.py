"""Constants of a graph.

>>> initializer(graph, "axis", np.array([1]))  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir


def initializer(graph: ir.Graph, name: str, array: Any) -> ir.Value:
    """Return the constant of this name, made where the graph has none.

    Raises:
        ValueError: there is another of this name.
    """
    known = graph.initializers.get(name)
    if known is None:
        known = ir.val(name, const_value=ir.tensor(np.asarray(array), name=name))
        graph.register_initializer(known)
    elif not np.array_equal(known.const_value.numpy(), array):
        raise ValueError(f"the graph has another constant {name}")
    return known
