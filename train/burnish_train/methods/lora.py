"""LoRA: each linear layer learns a product of two thin matrices, and keeps its own weights.

Hu et al., 2021, arXiv:2106.09685; peft does it. The head learns whole, and what was learned is merged into the weights
before anything is written, so a checkpoint is as any other.

>>> adapter = Adapter(model, rank=8, alpha=16.0, dropout=0.0, targets="all-linear")  # doctest: +SKIP
>>> adapter.merge()  # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import torch

from burnish_serve.errors import InputError
from burnish_train.methods.depth import encoder_of, layers_of

ALL_LINEAR = "all-linear"


class Adapter:
    """The thin matrices in a model; all weights but these and the head's are frozen.

    Args:
        model: the model, which is changed in place.
        rank: width of the thin matrices.
        alpha: their product counts ``alpha / rank`` times.
        dropout: share of their inputs that is dropped.
        targets: ends of the names of the layers that get them, separated by commas, or ``all-linear``.

    Raises:
        InputError: the encoder has no such layers.
    """

    def __init__(self, model: Any, *, rank: int, alpha: float, dropout: float, targets: str) -> None:
        import peft

        linear = _linear_names(model)
        wanted = [name.strip() for name in targets.split(",")]
        chosen = linear if targets == ALL_LINEAR else [n for n in linear if any(_ends(n, end) for end in wanted)]
        if not chosen:
            ends = sorted({name.rsplit(".", 1)[-1] for name in linear})
            raise InputError(f"lora_target_modules {targets!r}: no layer is called so; there are {', '.join(ends)}")
        inside = {id(weight) for weight in encoder_of(model).parameters()}
        head = [weight for weight in model.parameters() if id(weight) not in inside]
        settings = peft.LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=chosen)
        self._tuner = peft.LoraModel(model, settings, "default")
        for weight in head:
            weight.requires_grad_(True)

    def merge(self) -> None:
        """Add what was learned to the weights, in float32, and take the thin matrices out of the model."""
        self._tuner.merge_and_unload(safe_merge=True)


def _linear_names(model: Any) -> list[str]:
    """Return the full names of the linear layers inside of the encoder's layers."""
    within = {id(module) for layer in layers_of(model) for module in layer.modules()}
    return [
        name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear) and id(module) in within
    ]


def _ends(name: str, end: str) -> bool:
    return name == end or name.endswith("." + end)
