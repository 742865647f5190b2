"""Where training runs and in which precision: what was asked for, checked against what the machine has.

>>> use_cuda("auto"), use_bf16("auto", cuda=False)  # doctest: +SKIP
"""

from __future__ import annotations

import torch

from burnish_serve import machine
from burnish_serve.errors import DeviceError


def use_cuda(device: str) -> bool:
    """Return whether to train on a GPU.

    Raises:
        DeviceError: ``cuda`` was asked for and cannot be used; the message names the cause.
    """
    if device == "cpu":
        return False
    if torch.cuda.is_available():
        return True
    if device == "cuda":
        build = "" if torch.version.cuda else f" (torch {torch.__version__} is built without CUDA)"
        raise DeviceError(f"cannot train on cuda: PyTorch finds no CUDA device{build}; use --device cpu")
    return False


def use_bf16(precision: str, *, cuda: bool) -> bool:
    """Return whether to run the forward pass in bfloat16: where asked for, or where the hardware multiplies in it."""
    if precision != "auto":
        return precision == "bf16"
    if cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16"} & set(machine.cpu_features()))
