"""A model whose weights are known, so that what explains it can be held against them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from burnish_serve import TASKS, Runner
from burnish_serve.explaining import Explanation
from burnish_serve.text import TextEncoder
from tiny_model import LABELS, make_tokenizer

SECOND = 200


class Bag:
    """A session whose logits are sums over tokens: what a word weighs is what stands in its table.

    In a second text a token is another one.
    """

    def __init__(self, labels: int) -> None:
        self.table = np.random.default_rng(0).normal(size=(2 * SECOND, labels)).astype(np.float32)

    def run(self, output_names, input_feed):
        """Add up the tokens that are no padding."""
        ids = input_feed["input_ids"] + SECOND * input_feed["token_type_ids"]
        return [(self.table[ids] * input_feed["attention_mask"][:, :, None]).sum(1)]


def save_tokenizer(folder: Path) -> Path:
    """Write BERT's tokenizer over the tiny vocabulary, with the markers of relations."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(list(TASKS["relation-extraction"].tokens), special_tokens=True)
    tokenizer.save_pretrained(folder)
    return folder / "tokenizer.json"


def make_bag(
    tokenizer: Path,
    task: str = "text-classification",
    labels: Sequence[str] = LABELS,
    *,
    max_length: int = 64,
    on_long: str = "truncate",
    **changes,
) -> Runner:
    """Return a runner of a bag of words for a task."""
    return Runner(
        task=TASKS[task],
        labels=labels,
        encoder=TextEncoder(tokenizer, max_length, on_long=on_long, stride=3),
        session=Bag(len(labels)),
        inputs=("input_ids", "attention_mask", "token_type_ids"),
        pad_token_id=0,
        variant="bag",
        **changes,
    )


def in_table(model: Runner, word: str, label: str, *, second: bool = False) -> float:
    """Return what the tokens of a word add to a label."""
    ids = np.array(model.encoder.tokenizer.encode(word, add_special_tokens=False).ids) + second * SECOND
    return float(model.session.table[ids, model.labels.index(label)].sum(dtype=float))


def weights(explanation: Explanation) -> list[float]:
    """Return the weight of each word."""
    return [word["weight"] for word in explanation.words]
