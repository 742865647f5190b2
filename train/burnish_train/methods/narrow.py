"""Feed-forward layers made narrower: the elements that matter least on rows of one's own are left out.

An element matters by how large it is on real tokens, times the weights that it goes on with (the measure of Sun et al.,
2023, arXiv:2306.11695, taken for whole elements as in structured pruning). Every layer keeps as many, since a config of
transformers knows one width. Heads, whose size no config tells, are left out otherwise (`methods.silent`).

>>> narrow(model, 0.5, lambda: model(**batch))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from burnish_serve.errors import InputError
from burnish_train.methods.depth import encoder_of, layers_of
from burnish_train.methods.seeing import seeing

WIDTHS = ("intermediate_size", "hidden_dim")
"""What configs call the width."""
MULTIPLE = 64
"""Widths that kernels like."""


def narrow(model: Any, share: float, read: Callable[[], object]) -> int:
    """Leave each layer a share of its feed-forward elements; return how many.

    Args:
        model: the model, changed in place.
        share: of the elements that stay, rounded to a multiple of 64.
        read: reads rows with the model, so that it is seen which elements matter.

    Raises:
        InputError: the architecture's feed-forward is not two linear layers.
    """
    encoder = encoder_of(model)
    key = next((name for name in WIDTHS if hasattr(encoder.config, name)), "")
    width = getattr(encoder.config, key, 0)
    layers = layers_of(model)
    pairs = [pair for layer in layers if (pair := _pair(layer, width))]
    count = min(width, max(MULTIPLE, round(width * share / MULTIPLE) * MULTIPLE))
    if len(pairs) < len(layers):
        raise InputError(
            f"keep_feed_forward: {type(encoder).__name__} has another feed-forward than two linear layers; "
            "keep_layers makes it smaller too"
        )
    sums = [torch.zeros(width) for _ in pairs]
    eyes = [
        (down, lambda vectors, total=total: total.add_(vectors.abs().sum(0).cpu()))
        for (_, down), total in zip(pairs, sums, strict=True)
    ]
    with seeing(encoder, eyes):
        read()
    for (up, down), total in zip(pairs, sums, strict=True):
        matters = total * down.weight.detach().float().norm(dim=0).cpu()
        kept = matters.topk(count).indices.sort().values.to(up.weight.device)
        up.weight = torch.nn.Parameter(up.weight.detach()[kept].clone())
        up.bias = torch.nn.Parameter(up.bias.detach()[kept].clone()) if up.bias is not None else None
        down.weight = torch.nn.Parameter(down.weight.detach()[:, kept].clone())
        up.out_features = down.in_features = count
    for config in {id(part.config): part.config for part in (model, encoder)}.values():
        setattr(config, key, count)
    return count


def _pair(layer: Any, width: int) -> tuple[torch.nn.Linear, torch.nn.Linear] | None:
    """Return the linear layers into and out of a layer's feed-forward, where it has just these two."""
    linear = [module for module in layer.modules() if isinstance(module, torch.nn.Linear)]
    up = [module for module in linear if module.out_features == width and module.in_features != width]
    down = [module for module in linear if module.in_features == width and module.out_features != width]
    return (up[0], down[0]) if len(up) == len(down) == 1 else None
