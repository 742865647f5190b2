"""Which optimizer learns which weights how fast: groups of weights by depth, with and without decay.

>>> optimizer_for("adamw_torch", arguments, model, {"classifier.weight"}, 0.9)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import transformers

from burnish_train.methods.depth import depths


def parameter_groups(
    model: Any, decayed: Collection[str], *, rate: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Return groups of the weights that learn.

    Args:
        model: the model.
        decayed: names of the weights that decay; biases and norms do not.
        rate: the learning rate of the head.
        weight_decay: of those that decay.
        layer_decay: factor from each layer to the one below it (Sun et al., 2019, arXiv:1905.05583); 1 for one rate.
    """
    deep = depths(model) if layer_decay != 1 else {}
    top = max(deep.values(), default=0)
    found: dict[tuple[int, bool], list[torch.nn.Parameter]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            found.setdefault((deep.get(name, top), name not in decayed), []).append(weight)
    return [
        {
            "params": weights,
            "lr": rate * layer_decay ** (top - depth),
            "weight_decay": 0.0 if plain else weight_decay,
        }
        for (depth, plain), weights in sorted(found.items(), key=lambda entry: (-entry[0][0], entry[0][1]))
    ]


def optimizer_for(name: str, args: Any, model: Any, decayed: Collection[str], layer_decay: float) -> Any:
    """Return the optimizer of a name in `burnish_train.methods.names.OPTIMIZERS` over a model's weights.

    Args:
        name: which.
        args: ``transformers.TrainingArguments``.
        model: the model.
        decayed: names of the weights that decay.
        layer_decay: see `parameter_groups`.
    """
    if name == "adam":
        kind, settings = torch.optim.Adam, {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    else:
        kind, settings = transformers.Trainer.get_optimizer_cls_and_kwargs(args, model)
    groups = parameter_groups(
        model, decayed, rate=args.learning_rate, weight_decay=args.weight_decay, layer_decay=layer_decay
    )
    return kind(groups, **{**settings, "lr": args.learning_rate})
