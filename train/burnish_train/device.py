"""Where training runs and in which precision: what was asked for, checked against what the machine has.

>>> use_cuda("auto"), precision_of("auto", cuda=False)  # doctest: +SKIP
"""

from __future__ import annotations

import os
import shutil

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


def precision_of(asked: str, *, cuda: bool) -> str:
    """Return what the forward pass computes in: ``fp32``, or ``bf16`` or ``fp16`` by automatic mixed precision.

    Raises:
        DeviceError: float16 was asked for without a GPU.
    """
    if asked == "fp16" and not cuda:
        raise DeviceError("--precision fp16 needs a GPU; a CPU multiplies in bf16 or fp32")
    if asked != "auto":
        return asked
    if cuda:
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = bool({"avx512_bf16", "amx_bf16"} & set(machine.cpu_features()))
    return "bf16" if fast else "fp32"


def check_compiler(*, cuda: bool) -> None:
    """Refuse to compile a model on a machine that lacks what it takes.

    Raises:
        DeviceError: there is no C++ compiler; or, for a GPU, no Triton or no C compiler.
    """
    without = "install it, or leave out --torch-compile"
    if not cuda:
        from torch._inductor import cpp_builder, exc

        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler as error:
            raise DeviceError(
                f"--torch-compile needs a C++ compiler, and there is none (g++, or the one that CXX names); {without}"
            ) from error
        return
    from torch.utils import _triton

    if not _triton.has_triton_package():
        raise DeviceError(
            f"--torch-compile needs Triton on a GPU, and it is not installed (pip install triton); {without}"
        )
    if not any(map(shutil.which, (os.environ.get("CC") or "gcc", "clang"))):
        raise DeviceError(
            f"--torch-compile needs a C compiler on a GPU, and there is none (gcc, clang, or the one that CC names); "
            f"{without}"
        )
