"""How deep in a model each weight stands: embeddings at the bottom, the encoder's layers, and what is above them.

Freezing, learning rates by layer, layers that begin anew and students of fewer layers all speak of it.

>>> depths(model)["bert.encoder.layer.0.output.dense.weight"]  # doctest: +SKIP
1
"""

from __future__ import annotations

import re
from typing import Any

import torch

from burnish_serve.errors import InputError


def encoder_of(model: Any) -> Any:
    """Return the encoder below a head, ours or transformers'; a model without a head is one."""
    return getattr(model, "encoder", model) if not hasattr(model, "base_model") else model.base_model


def layers_of(model: Any) -> torch.nn.ModuleList:
    """Return the layers of a model's encoder, the lowest first.

    Raises:
        InputError: the architecture keeps them otherwise than in one list.
    """
    encoder = encoder_of(model)
    count = encoder.config.num_hidden_layers
    for module in encoder.modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return module
    raise InputError(f"the layers of {type(encoder).__name__} stand in no list of {count}; freeze by freeze_pattern")


def depths(model: Any) -> dict[str, int]:
    """Return each parameter's depth by its name: 0 for embeddings, 1 to n for the layers, n + 1 for what is above."""
    layers = layers_of(model)
    numbers = {id(weight): number for number, layer in enumerate(layers, 1) for weight in layer.parameters()}
    inside = {id(weight) for weight in encoder_of(model).parameters()}

    def depth(name: str, weight: torch.nn.Parameter) -> int:
        if id(weight) in numbers:
            return numbers[id(weight)]
        return 0 if id(weight) in inside and "embed" in name else len(layers) + 1

    return {name: depth(name, weight) for name, weight in model.named_parameters()}


def keep_layers(model: Any, count: int) -> list[int]:
    """Leave a model so many of its layers, evenly spread from the first to the last; return their numbers from 0.

    Raises:
        InputError: the model has not so many.
    """
    layers = layers_of(model)
    kept = spread(len(layers), count)
    if not 1 <= count <= len(layers):
        raise InputError(f"keep_layers {count}: the encoder has {len(layers)} layers")
    chosen = [layers[number] for number in kept]
    del layers[count:]
    for place, layer in enumerate(chosen):
        layers[place] = layer
    for config in {id(part.config): part.config for part in (model, encoder_of(model))}.values():
        config.num_hidden_layers = count
        if kinds := getattr(config, "layer_types", None):
            config.layer_types = [kinds[number] for number in kept]
    return kept


def spread(layers: int, count: int) -> list[int]:
    """Return numbers from 0 of so many layers, evenly spread, the first and the last among them."""
    return [round(place * (layers - 1) / max(1, count - 1)) for place in range(count)]


def begin_anew(model: Any, count: int) -> None:
    """Give the highest layers weights as the architecture begins with (Zhang et al., 2021, arXiv:2006.05987).

    Raises:
        InputError: the model has not so many.
    """
    layers = layers_of(model)
    if count > len(layers):
        raise InputError(f"reinit_layers {count}: the encoder has {len(layers)} layers")
    encoder = encoder_of(model)
    for layer in layers[len(layers) - count :]:
        for module in layer.modules():
            for weight in module.parameters(recurse=False):
                weight._is_hf_initialized = False  # else transformers keeps what it has loaded
            module._is_hf_initialized = False
            encoder._init_weights(module)


def freeze(model: Any, *, layers: int, embeddings: bool, pattern: str | None) -> None:
    """Keep weights as they are: embeddings, those and the lowest layers, and all whose name a pattern is found in.

    Raises:
        InputError: the model has not so many layers, the pattern is none or finds nothing, or nothing is left to learn.
    """
    deep = depths(model) if layers or embeddings else {}
    if layers >= (top := max(deep.values(), default=1)):
        raise InputError(f"freeze_layers {layers}: the encoder has {top - 1} layers")
    for name, weight in model.named_parameters():
        if name in deep and deep[name] <= layers:
            weight.requires_grad_(False)
    if pattern is not None:
        try:
            found = [weight for name, weight in model.named_parameters() if re.search(pattern, name)]
        except re.error as error:
            raise InputError(f"freeze_pattern {pattern!r} is no regular expression: {error}") from error
        if not found:
            names = [name for name, _ in model.named_parameters()]
            raise InputError(f"freeze_pattern {pattern!r} finds none of {len(names)} weights, such as {names[0]!r}")
        for weight in found:
            weight.requires_grad_(False)
    if not any(weight.requires_grad for weight in model.parameters()):
        raise InputError("all weights are frozen, so there is nothing to learn")
