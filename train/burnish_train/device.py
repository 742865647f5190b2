"""Where training runs and in which precision: what was asked for, checked against what the machine has.

That a processor has instructions for bfloat16 does not say that it is faster with them: one without tiles was seen to
multiply in float32 at twice the speed (bench/LOG.md). So both are timed.

>>> use_cuda("auto"), precision_of("auto", Path("runs/a.partial"), cuda=False)  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from burnish_serve import machine
from burnish_serve.errors import DeviceError
from burnish_serve.writing import write_text
from burnish_train.speed import peak

if TYPE_CHECKING:
    from burnish_train.config import TrainConfig

KEPT = "precision"
"""The file of a working folder that holds what was chosen: a run that is resumed goes on in it."""
WORTH = 1.2
"""How many times faster bfloat16 must be to be taken."""
CHOICES = ("fp32", "bf16")


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


def check_precision(asked: str, *, cuda: bool) -> None:
    """Refuse what the device cannot multiply in.

    Raises:
        DeviceError: float16 without a GPU, or bfloat16 on one that has it not.
    """
    if asked == "fp16" and not cuda:
        raise DeviceError("--precision fp16 needs a GPU; a CPU multiplies in bf16 or fp32")
    if asked == "bf16" and cuda and not torch.cuda.is_bf16_supported(including_emulation=False):
        name = torch.cuda.get_device_name()
        raise DeviceError(
            f"{name} has no bfloat16, which --precision asks for or the run was begun in; take fp16 or fp32"
        )


def precision_of(asked: str, work: Path, *, cuda: bool) -> str:
    """Return what the forward pass computes in: ``fp32``, or ``bf16`` or ``fp16`` by automatic mixed precision.

    Args:
        asked: one of these, or ``auto`` for the faster of float32 and bfloat16.
        work: the folder of the run, which remembers what was chosen.
        cuda: whether a GPU computes.

    Raises:
        DeviceError: the device has not got it.
    """
    check_precision(asked, cuda=cuda)
    if asked != "auto":
        return asked
    kept = work / KEPT
    found = kept.read_text(encoding="utf-8") if kept.exists() else ""
    if found not in CHOICES:
        found = CHOICES[_bf16_is_faster(cuda=cuda)]
        write_text(kept, found)
    check_precision(found, cuda=cuda)
    return found


def with_precision(config: TrainConfig, folder: Path) -> TrainConfig:
    """Return settings of runs that are compared with each other: in one precision, which the folder remembers."""
    cuda = use_cuda(config.device)
    return dataclasses.replace(config, precision=precision_of(config.precision, folder, cuda=cuda))


def _bf16_is_faster(*, cuda: bool) -> bool:
    """Return whether products in bfloat16 are worth it: known of GPUs, timed on processors that have them at all."""
    if cuda:
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if not {"avx512_bf16", "amx_bf16"} & set(machine.cpu_features()):
        return False
    return peak("cpu", "bf16") > WORTH * peak("cpu", "fp32")


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
