"""The kinds of variant that a bundle can hold: their files, what they are made for, and how exactly they are replayed.

>>> KINDS["int8"].file
'onnx/model_int8.onnx'
"""

from __future__ import annotations

from dataclasses import dataclass

# Processors that add products of bytes in 32 bits: int8 is fast there, and right whatever its weights.
WIDE_SUMS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


@dataclass(frozen=True, kw_only=True)
class Kind:
    """What is known of a variant before it is made."""

    file: str
    """Path in the bundle."""
    golden_tolerance: float
    """How far a replayed logit may be off on another processor, as a share of the largest: rounding in another order,
    and for integers a value that falls on the other side of a step."""
    fast_with: tuple[str, ...] = ()
    """Processor features of which one makes it fast."""
    right_with: tuple[str, ...] = ()
    """Processor features of which one makes it right where its sums can exceed 16 bits."""
    on_gpu: bool = False
    """Whether GPUs may run it."""


KINDS = {
    "fp32": Kind(file="onnx/model.onnx", golden_tolerance=1e-4, on_gpu=True),
    "fp16": Kind(file="onnx/model_fp16.onnx", golden_tolerance=0.02, on_gpu=True),
    "int8": Kind(file="onnx/model_int8.onnx", golden_tolerance=0.05, fast_with=WIDE_SUMS, right_with=WIDE_SUMS),
    "int8-7bit": Kind(file="onnx/model_int8_7bit.onnx", golden_tolerance=0.05, fast_with=(*WIDE_SUMS, "avx2")),
    "int8-dynamic": Kind(file="onnx/model_int8_dynamic.onnx", golden_tolerance=0.05, fast_with=WIDE_SUMS),
}
FILES = {name: kind.file for name, kind in KINDS.items()}
