"""Heads of our own, for encoders that do not speak through their first token.

Sentence encoders were pretrained to speak through the mean of their token vectors; a classifier on that mean learns
faster and better from few rows (docs/training.md). Such a checkpoint holds the encoder, which loads with ``AutoModel``
anywhere, and the head beside it in ``head.safetensors``; ``burnish.json`` says how the two go together.

>>> model = PooledClassifier(encoder, num_labels=77, pooling="mean")  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers.modeling_outputs import SequenceClassifierOutput

from burnish_serve.tasks.pooling import POOLINGS

HEAD_FILE = "head.safetensors"


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

    def forward(self, input_ids: Any, attention_mask: Any, **rest: Any) -> SequenceClassifierOutput:
        """Return logits ``[rows, labels]`` for ids and mask ``[rows, length]``."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask, **rest).last_hidden_state
        pooled = self.pooling.vectors(hidden.float(), attention_mask, input_ids, self.numbers)
        return SequenceClassifierOutput(logits=self.classifier(self.dropout(torch.cat(pooled, dim=-1))))

    def get_input_embeddings(self) -> torch.nn.Module:
        """Return the encoder's word vectors, as transformers' models do."""
        embeddings: torch.nn.Module = self.encoder.get_input_embeddings()
        return embeddings

    def set_attn_implementation(self, name: str) -> None:
        """Choose how the encoder computes attention, as transformers' models do."""
        self.encoder.set_attn_implementation(name)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write the encoder and the head into a folder."""
        self.encoder.save_pretrained(folder)
        save_file(self.classifier.state_dict(), Path(folder) / HEAD_FILE)

    def load_head(self, folder: Path) -> None:
        """Take the head's weights from a folder."""
        self.classifier.load_state_dict(load_file(folder / HEAD_FILE))
