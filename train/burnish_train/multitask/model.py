"""Several models whose encoders have the same parts: what one task teaches them, all others have.

>>> share(models)  # doctest: +SKIP
>>> MultitaskModel(models).weights()  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from burnish_train.methods.depth import encoder_of


def share(models: Sequence[Any]) -> None:
    """Give the encoders of models the same parts, those of the first that has them, in place.

    Each encoder stays an object of its own, with its config and without parts that its head does not read, such as
    BERT's pooler below a head for tokens. The first model must read all tokens that the others do.
    """
    parts: dict[str, Any] = {}
    size = len(models[0].get_input_embeddings().weight)
    for model in models:
        encoder = encoder_of(model)
        if len(encoder.get_input_embeddings().weight) != size:
            encoder.resize_token_embeddings(size, mean_resizing=False)  # for the config: the table is exchanged below
        for name, part in [*encoder.named_children(), *encoder.named_parameters(recurse=False)]:
            setattr(encoder, name, parts.setdefault(name, part))


class MultitaskModel(torch.nn.Module):
    """Models of several tasks in the shape of one: its weights are theirs, each of them once.

    Args:
        models: whose encoders are shared.
    """

    _keys_to_ignore_on_save = None  # what Trainer asks of a model whose checkpoint lacks names: those after the first

    def __init__(self, models: Sequence[Any]) -> None:
        super().__init__()
        self.models = torch.nn.ModuleList(models)

    @property
    def base_model(self) -> Any:
        """Return the encoder, as transformers' models do."""
        return encoder_of(self.models[0])

    def weights(self) -> dict[str, torch.Tensor]:
        """Return what a Trainer's checkpoint holds: a shared tensor stands under the first of its names alone."""
        first = {name for some in (self.named_parameters(), self.named_buffers()) for name, _ in some}
        return {name: tensor for name, tensor in self.state_dict().items() if name in first}
