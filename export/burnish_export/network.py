"""A PyTorch model with all that a graph of it needs to know: names of inputs and outputs, and how much it reads.

>>> network = Network.of(model, outputs=("logits",))  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
import transformers

from burnish_serve.batching import Ids
from burnish_serve.runner import model_inputs
from burnish_serve.tasks import Encoded, Logits
from burnish_serve.tasks.pooling import POOLINGS

# Model types whose position numbers start behind the padding token's.
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "mpnet")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A model, ready to be exported."""

    module: torch.nn.Module
    """Takes the inputs by name, returns an output with the named tensors."""
    config: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """``logits`` of sequence and token heads; ``start_logits`` and ``end_logits`` of question answering."""
    max_length: int
    """Tokens that it reads at the most."""
    pad_token_id: int

    @classmethod
    def of(
        cls, module: torch.nn.Module, config: Any, *, outputs: Sequence[str] = ("logits",), max_length: int = 512
    ) -> Self:
        """Return a model with what its configuration says of inputs, padding and length.

        Args:
            module: in evaluation mode.
            config: transformers' configuration of it.
            outputs: names of the tensors that it returns.
            max_length: tokens wanted at the most; fewer where the model reads fewer.
        """
        typed = (getattr(config, "type_vocab_size", None) or 0) > 1
        return cls(
            module=module.eval(),
            config=config,
            inputs=("input_ids", "attention_mask", *(("token_type_ids",) if typed else ())),
            outputs=tuple(outputs),
            max_length=min(max_length, positions(config)),
            pad_token_id=config.pad_token_id or 0,
        )

    @property
    def width(self) -> int:
        """Return how many numbers each token has in the outputs; 1 where outputs are of texts or few."""
        if self.outputs == ("last_hidden_state",):
            return int(self.config.hidden_size)
        words = getattr(self.module, "get_output_embeddings", lambda: None)()
        return int(self.config.vocab_size) if isinstance(words, torch.nn.Module) else 1

    def feed(self, batch: Sequence[Encoded]) -> dict[str, Ids]:
        """Return a batch as the graph reads it: int64 ``[rows, longest]`` for each input name."""
        return model_inputs(batch, self.inputs, self.pad_token_id)


class Exported(torch.nn.Module):
    """A model as a graph takes it: inputs in the order of their names, and the named outputs alone."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.model = network.module
        self.inputs = network.inputs
        self.outputs = network.outputs

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return the outputs for int64 ``[batch, length]`` tensors."""
        given = self.model(**dict(zip(self.inputs, tensors, strict=True)))
        return tuple(getattr(given, name) for name in self.outputs)


class PooledHead(torch.nn.Module):
    """An encoder with a linear head on its pooled token vectors, as `burnish train --pooling` makes it.

    Args:
        encoder: transformers' model without a head.
        weights: of the head.
        pooling: a name in `burnish_serve.tasks.pooling.POOLINGS`.
        numbers: ids of the tokens that it looks for.
    """

    def __init__(
        self, encoder: Any, weights: Mapping[str, torch.Tensor], pooling: str, numbers: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = POOLINGS[pooling]
        self.numbers = tuple(numbers)
        self.classifier = torch.nn.Linear(*reversed(weights["weight"].shape))
        self.classifier.load_state_dict(dict(weights))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **rest: torch.Tensor) -> Any:
        """Return an output with ``logits``."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **rest).last_hidden_state
        vectors = self.pooling.vectors(hidden, attention_mask, input_ids, self.numbers)
        logits = self.classifier(vectors[0] if len(vectors) == 1 else torch.cat(vectors, dim=-1))
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=logits)


class TorchSession:
    """A model behind the ``run`` of an ONNX Runtime session: the reference that every variant is held against."""

    def __init__(self, network: Network) -> None:
        self._module = Exported(network)

    def run(self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any]) -> list[Logits]:
        """Return the outputs of one batch, all of them in their order."""
        with torch.inference_mode():
            given = self._module(*(torch.from_numpy(array) for array in input_feed.values()))
        return [output.numpy() for output in given]


def positions(config: Any) -> int:
    """Return how many tokens a model can read, by its configuration."""
    count = getattr(config, "max_position_embeddings", None) or 512
    return int(count - config.pad_token_id - 1 if config.model_type in OFFSET_POSITIONS else count)
