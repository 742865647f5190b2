"""What a tagger learns from: a tag for the first token of each word, by the span that the word begins in.

Words are those that the tokenizer makes, or the row's own tokens; of ``@ada`` the former are two. Other tokens of a
word, special ones and padding count for nothing (Devlin et al., 2019, arXiv:1810.04805). A long row is learned from in
its windows, each token as it stands in the whole text.

>>> Tags(task, config, ("O", "B-PER", "I-PER"), train).values(example, asked)  # doctest: +SKIP
[array([-100,    1, -100,    2,    0, -100])]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from burnish_serve.batching import Ids
from burnish_serve.tasks import Asked, Task
from burnish_serve.tasks.merging import places, words_of
from burnish_serve.tasks.tagged_rows import Span, apart, bounds_of, token_at, tokens_of
from burnish_serve.tasks.tagging import labels_for, tags_of
from burnish_train import losses
from burnish_train.config import TrainConfig
from burnish_train.data import Example
from burnish_train.losses import IGNORED
from burnish_train.targets import Supervised


class Tags(Supervised):
    """A tag for each word."""

    probe_rows = 3_000

    def __init__(self, task: Task, config: TrainConfig, labels: Sequence[str], train: Sequence[Example]) -> None:
        super().__init__(task, config, labels, train)
        self.weights: torch.Tensor | None = None

    @classmethod
    def labels_of(cls, names: Sequence[str], config: TrainConfig) -> tuple[str, ...]:
        """Return the tags of the scheme for types of spans."""
        return labels_for(names, config.tag_scheme)

    def values(self, example: Example, asked: Asked) -> list[Any]:
        """Return the tag of each token of each window, int64 ``[tokens]``; None for a window where no word begins."""
        at = places(asked.windows)
        offsets = np.concatenate([window.offsets for window in asked.windows if window.offsets is not None])[at]
        if "tokens" in asked.row and not self.config.label_inner_words:
            words = token_at(bounds_of(tokens_of(asked.row)), offsets[:, 0])
        else:
            words = np.concatenate([words_of(window) for window in asked.windows])[at]
        whole = np.full(len(words), IGNORED, dtype=np.int64)
        heads = np.flatnonzero(np.diff(words, prepend=-1))
        whole[heads] = self._tags(asked.texts[0], example.right, offsets[heads])
        found: list[Any] = []
        for window in asked.windows:
            own = words_of(window) >= 0
            value = np.full(len(own), IGNORED, dtype=np.int64)
            value[own] = whole[window.start : window.start + int(own.sum())]
            found.append(value if (value != IGNORED).any() else None)
        return found

    def _tags(self, text: str, spans: Sequence[Span], offsets: Ids) -> list[int]:
        """Return the number of each word's tag, for the characters of its first token ``[words, 2]``."""
        chosen = apart(spans)
        owner = np.full(len(text) + 1, -1)
        for number, (start, end, _) in enumerate(chosen):
            owner[start:end] = number
        # The first token of a word may hold the space before it.
        of_word = [int(owner[start + text[start:end][:1].isspace()]) for start, end in offsets.tolist()]
        runs: list[tuple[int, int, str]] = []
        for place, number in enumerate(of_word):
            if number < 0:
                continue
            goes_on = bool(place) and of_word[place - 1] == number
            runs.append((runs.pop()[0] if goes_on else place, place + 1, chosen[number][2]))
        return [self.numbers[tag] for tag in tags_of(runs, len(of_word), self.config.tag_scheme)]

    def items(self, examples: Sequence[Example], asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """Return what a step learns from; the first rows asked for are those of train, and tags are weighed by them."""
        found = super().items(examples, asked)
        if self.weights is None and found:
            tags = np.concatenate([item["value"] for item in found])
            counts = np.bincount(tags[tags != IGNORED], minlength=len(self.labels)).tolist()
            self.weights = losses.class_weights(counts, sum(counts), self.config.class_weights)
        return found

    def stack(self, values: Sequence[Any], length: int) -> torch.Tensor:
        """Return the tags of a batch, int64 ``[windows, length]``."""
        padded = np.full((len(values), length), IGNORED, dtype=np.int64)
        for line, value in zip(padded, values, strict=True):
            line[: len(value)] = value
        return torch.from_numpy(padded)

    def loss(self, outputs: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the cross-entropy of logits ``[windows, length, labels]``, a mean over the words."""
        logits = outputs.logits.reshape(-1, len(self.labels))
        config = self.config
        return losses.cross_entropy(
            logits, labels.flatten(), config.label_smoothing_factor, self.weights, config.focal_gamma
        )

    def apart(
        self, outputs: Any, others: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor], temperature: float
    ) -> torch.Tensor:
        """Return the divergence of the tags' scores from the others', a mean over the words."""
        words = labels != IGNORED
        return losses.softmax_divergence(outputs.logits[words], others.logits[words], temperature)

    def known(self, vectors: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors ``[words, width]`` and tags ``[words]`` of the first token of each word."""
        first = labels != IGNORED
        return vectors[first], labels[first]
