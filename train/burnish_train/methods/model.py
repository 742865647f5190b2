"""What is done to a model before it learns: fewer layers, some of them new, some frozen, thin matrices beside them.

>>> adapter = prepare(model, config, lambda: model(**batch))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from burnish_serve.errors import InputError
from burnish_train.config import TrainConfig
from burnish_train.methods.depth import begin_anew, encoder_of, freeze, keep_layers
from burnish_train.methods.lora import Adapter
from burnish_train.methods.narrow import narrow
from burnish_train.methods.silent import silence_heads, silent_heads


def prepare(model: Any, config: TrainConfig, read: Callable[[], object]) -> Adapter | None:
    """Change a model in place as the settings say; return its adapter, where it has one.

    Args:
        model: the model, on its device.
        config: the settings.
        read: reads some rows to learn from with the model.

    Raises:
        InputError: the model has not so many layers, or none of such a name; or settings do not go together on it.
    """
    if config.keep_layers:
        keep_layers(model, config.keep_layers)
    if config.reinit_layers:
        begin_anew(model, config.reinit_layers)
    if config.keep_feed_forward < 1:
        narrow(model, config.keep_feed_forward, read)
    if config.keep_heads < 1:
        silence_heads(model, config.keep_heads, read)
    adapter = None
    if config.lora_rank and any(silent_heads(model)):
        raise InputError(f"lora_rank learns weights for the heads that {config.model} was left without; leave it out")
    if config.lora_rank:
        adapter = Adapter(
            model,
            rank=config.lora_rank,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            targets=config.lora_target_modules,
        )
    if config.freeze_layers or config.freeze_embeddings or config.freeze_pattern is not None:
        freeze(
            model,
            layers=config.freeze_layers,
            embeddings=config.freeze_embeddings,
            pattern=config.freeze_pattern,
        )
    if config.adversarial_epsilon and not encoder_of(model).get_input_embeddings().weight.requires_grad:
        raise InputError(
            "adversarial_epsilon moves word vectors along their gradient, and they have none here: leave it out, or "
            "lora_rank, freeze_layers, freeze_embeddings or the freeze_pattern that keeps them as they are"
        )
    if config.gradient_checkpointing:
        encoder = encoder_of(model)
        name = "activation_checkpointing_enable"  # as newer transformers call it
        enable = getattr(encoder, name, None) or encoder.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return adapter


def shares(model: Any) -> tuple[int, int]:
    """Return (weights that learn, all weights) of a model as it is."""
    counts = [(weight.numel(), weight.requires_grad) for weight in model.parameters()]
    return sum(count for count, learns in counts if learns), sum(count for count, _ in counts)
