"""The float16 variant, for GPUs: ONNX Runtime's own conversion, with inputs and outputs as they were.

>>> to_half(Path("model.onnx"), Path("model_fp16.onnx"))  # doctest: +SKIP
"""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx_ir as ir
from onnxruntime.transformers.float16 import convert_float_to_float16

from burnish_export.graph import save

# A float16 logit may differ from PyTorch's float32 by this share of the largest: 11 bits, summed over the layers.
TOLERANCE = 2e-2


def to_half(path: Path, out: Path) -> None:
    """Write a graph with its weights and products in float16.

    Args:
        path: the float32 graph.
        out: where the variant goes.
    """
    model = ir.to_proto(ir.external_data.load_to_model(ir.load(path)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it tells of each weight that is too small for float16, which becomes 1e-7
        converted = convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True)
    save(ir.from_proto(converted), out)
