"""Heads of our own, for encoders that do not speak through their first token.

Sentence encoders were pretrained to speak through the mean of their token vectors; a classifier on that mean learns
faster and better from few rows (docs/training.md). Such a checkpoint holds the encoder, which loads with ``AutoModel``
anywhere, and the head beside it in ``head.safetensors``; ``burnish.json`` says how the two go together.

>>> model = PooledClassifier(encoder, num_labels=77, pooling="mean")  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.modeling_outputs import SequenceClassifierOutput

from burnish_serve.tasks.pooling import POOLINGS

HEAD_FILE = "head.safetensors"
PROBE_STEPS = 100
PROBE_DECAY = 1e-4


class PooledClassifier(torch.nn.Module):
    """An encoder, its token vectors pooled into one or a few, dropout, and one linear layer.

    Args:
        encoder: transformers' model without a head.
        num_labels: how many logits.
        pooling: a name in `burnish_serve.tasks.pooling.POOLINGS`.
    """

    numbers: tuple[int, ...] = ()
    """Ids of the tokens that the pooling looks for."""

    def __init__(self, encoder: Any, num_labels: int, pooling: str) -> None:
        super().__init__()
        self.encoder = encoder
        self.pooling = POOLINGS[pooling]
        self.config = encoder.config
        self.dropout = torch.nn.Dropout(getattr(encoder.config, "hidden_dropout_prob", 0.1))
        self.classifier = torch.nn.Linear(encoder.config.hidden_size * self.pooling.count, num_labels)
        torch.nn.init.normal_(self.classifier.weight, std=0.02)
        torch.nn.init.zeros_(self.classifier.bias)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.classifier.weight.device

    @property
    def tokens(self) -> dict[str, int]:
        """Return the tokens that the pooling looks for, with their ids."""
        return dict(zip(self.pooling.tokens, self.numbers, strict=True))

    def pooled(self, input_ids: Any, attention_mask: Any, **rest: Any) -> torch.Tensor:
        """Return one float32 vector a text, ``[rows, width]``, for ids and mask ``[rows, length]``."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **rest).last_hidden_state
        return torch.cat(self.pooling.vectors(hidden.float(), attention_mask, input_ids, self.numbers), dim=-1)

    def forward(self, input_ids: Any, attention_mask: Any, **rest: Any) -> SequenceClassifierOutput:
        """Return logits ``[rows, labels]`` for ids and mask ``[rows, length]``."""
        vectors = self.pooled(input_ids, attention_mask, **rest)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(vectors)))

    def probe(self, vectors: torch.Tensor, loss_of: Callable[[SequenceClassifierOutput], torch.Tensor]) -> None:
        """Start the head where a linear probe of the frozen encoder ends.

        A head of random weights sends large, blind gradients into the encoder and bends what it knows; one that is
        right already does not (Kumar et al., 2022, arXiv:2202.10054).

        Args:
            vectors: float32 ``[rows, width]`` of `pooled`.
            loss_of: the loss of training, for logits of these rows.
        """
        centre, spread = vectors.mean(0), vectors.std()
        scaled = (vectors - centre) / spread
        weight = torch.zeros_like(self.classifier.weight, requires_grad=True)
        bias = torch.zeros_like(self.classifier.bias, requires_grad=True)
        solver = torch.optim.LBFGS([weight, bias], max_iter=PROBE_STEPS, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            solver.zero_grad()
            value = loss_of(SequenceClassifierOutput(logits=scaled @ weight.T + bias))
            value = value + PROBE_DECAY * (weight**2).sum()
            value.backward()
            return value

        solver.step(loss)
        with torch.no_grad():
            self.classifier.weight.copy_(weight / spread)
            self.classifier.bias.copy_(bias - (weight / spread) @ centre)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write the encoder and the head into a folder."""
        self.encoder.save_pretrained(folder)
        save_file(self.classifier.state_dict(), Path(folder) / HEAD_FILE)

    def load_head(self, folder: Path) -> None:
        """Take the head's weights from a folder."""
        self.classifier.load_state_dict(load_file(folder / HEAD_FILE))
