"""How attention is computed while a model learns: by transformers' names, refused where this machine has not got it.

>>> attention_of("auto", cuda=False, precision="fp32", read=False)
'eager'
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from transformers.utils import is_flash_attn_2_available

from burnish_serve.errors import DeviceError, InputError
from burnish_train.methods.depth import encoder_of

FLASH = "flash_attention_2"
"""FlashAttention-2 (Dao, 2023, arXiv:2307.08691), which computes in half precision alone."""


def attention_of(asked: str, *, cuda: bool, precision: str, read: bool) -> str | None:
    """Return how a model computes attention while it learns; None for the way that transformers takes.

    Args:
        asked: a name in `burnish_train.methods.names.ATTENTIONS`.
        cuda: whether it learns on a GPU.
        precision: that was asked for; ``auto`` is half precision wherever FlashAttention runs.
        read: whether the scores of attention are looked at.

    Raises:
        DeviceError: FlashAttention was asked for, and there is no GPU, no half precision or no such package.
    """
    if asked == FLASH and (not cuda or precision == "fp32"):
        raise DeviceError(f"--attn-implementation {FLASH} needs a GPU, and bf16 or fp16; auto goes anywhere")
    if asked == FLASH and not is_flash_attn_2_available():
        raise DeviceError(
            f"--attn-implementation {FLASH} needs flash-attn, which is not installed (pip install flash-attn); auto "
            "goes without"
        )
    if asked != "auto":
        return asked
    return "eager" if read or not cuda else None  # whose scores can be seen, and whose dropout can be a faster one


def compute_by(model: Any, name: str) -> None:
    """Let a model compute attention in one way.

    Raises:
        InputError: the architecture does not go with it, whether transformers refuses it or keeps the way that it has.
    """
    try:
        model.set_attn_implementation(name)
    except ValueError as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(f"--attn-implementation {name} is not for this model: {first}") from error
    encoder = encoder_of(model)
    if (taken := encoder.config._attn_implementation) != name:
        raise InputError(
            f"--attn-implementation {name} is not for this model: {type(encoder).__name__} computes attention by "
            f"{taken} alone; auto goes anywhere"
        )


@contextlib.contextmanager
def flash(model: Any, name: str | None) -> Iterator[None]:
    """Let a model compute attention by FlashAttention while this context lasts, where that is its name.

    Scores at the end are computed in float32, which it does not read.

    Raises:
        InputError: the architecture does not go with it.
    """
    if name != FLASH:
        yield
        return
    compute_by(model, FLASH)
    yield
    model.set_attn_implementation("sdpa")
