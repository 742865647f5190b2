"""Makes encoders of a few kilobytes and labelled rows that they learn in a second, for tests of train and export.

The vocabulary has a hundred words, and three intents are told by one word each: even a model this small reaches a
perfect score, and a test sees at once where learning broke.

    python tests/tiny_model.py /tmp/encoder
"""

from __future__ import annotations

import contextlib
import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
KEYWORDS = {
    "alarm": ("alarm", "wake"),
    "music": ("music", "song"),
    "weather": ("weather", "rain"),
}
LABELS = tuple(KEYWORDS)
FILLERS = [
    "please",
    "could",
    "you",
    "can",
    "i",
    "want",
    "would",
    "like",
    "the",
    "a",
    "some",
    "my",
    "for",
    "in",
    "on",
    "at",
    "to",
    "it",
    "is",
    "what",
    "when",
    "now",
    "today",
    "tomorrow",
    "tonight",
    "morning",
    "evening",
    "week",
    "day",
    "hour",
    "home",
    "work",
    "again",
    "really",
    "just",
    "maybe",
    "thanks",
    "hello",
    "hey",
    "and",
    "with",
    "about",
    "from",
    "this",
    "that",
    "new",
    "old",
    "next",
    "last",
    "first",
    "good",
    "great",
    "nice",
    "tell",
    "show",
    "give",
    "set",
    "get",
    "find",
    "need",
    "know",
    "have",
    "be",
    "do",
    "me",
    "us",
    "we",
    "they",
    "city",
    "town",
    "house",
    "room",
    "car",
]
PUNCTUATION = (".", ",", "!", "?", "-", "'")
PIECES = ("##s", "##ing", "##ed", "##ly", "##er")
VOCABULARY = (*SPECIAL, *FILLERS, *(word for words in KEYWORDS.values() for word in words), *PUNCTUATION, *PIECES)
MAX_LENGTH = 32


def make_encoder(folder: Path, *, dropout: float = 0.1, seed: int = 0) -> Path:
    """Write a BERT without a head (2 layers, 32 wide, 2 heads) with its tokenizer, and return its folder.

    Its weights are random but for the vectors of words, which know what pretraining would have taught them: fillers are
    alike, and so are the words of an intent. A head learns the rest in a second, whatever the order of the rows.
    """
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    model = BertModel(config)
    groups = (FILLERS, *KEYWORDS.values())
    with torch.no_grad():
        for words in groups:
            common = torch.randn(config.hidden_size)
            for word in words:
                vector = common + 0.2 * torch.randn(config.hidden_size)
                model.embeddings.word_embeddings.weight[VOCABULARY.index(word)] = vector
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_classifier(folder: Path, *, labels: tuple[str, ...] = LABELS, spread: float = 0.5, seed: int = 0) -> Path:
    """Write a checkpoint as any Hugging Face user has it, untrained and without ``burnish.json``; return its folder.

    Args:
        folder: where.
        labels: names of the outputs.
        spread: standard deviation of the weights; large, so that logits differ between texts as trained ones do.
        seed: of the weights.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=MAX_LENGTH,
        initializer_range=spread,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def make_tokenizer() -> Any:
    """Return BERT's tokenizer over the vocabulary; its file cuts and pads, as those of many encoders do."""
    from transformers import BertTokenizerFast

    from make_tiny_bundle import tokenizer

    backend = tokenizer({word: number for number, word in enumerate(VOCABULARY)})
    backend.enable_truncation(8)
    backend.enable_padding(length=8, pad_id=0, pad_token="[PAD]")
    return BertTokenizerFast(tokenizer_object=backend, model_max_length=MAX_LENGTH)


def labelled_rows(count: int = 120, *, seed: int = 0) -> list[dict[str, str]]:
    """Return rows of the three intents in turn, 2 to 10 words each, no text twice."""
    words = random.Random(seed)
    rows: dict[str, str] = {}
    while len(rows) < count:
        label = LABELS[len(rows) % len(LABELS)]
        text = words.choices(FILLERS, k=words.randint(1, 9))
        text.insert(words.randint(0, len(text)), words.choice(KEYWORDS[label]))
        rows.setdefault(" ".join(text), label)
    return [{"text": text, "label": label} for text, label in rows.items()]


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows as JSON lines and return the path."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@contextlib.contextmanager
def on_one_thread() -> Iterator[None]:
    """Keep PyTorch and ONNX Runtime to one thread: models this small are slower on more, and sums keep their order."""
    import pytest
    import torch

    from burnish_serve import machine

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "num_threads", lambda root=None: 1)
        yield
    torch.set_num_threads(before)


@contextlib.contextmanager
def any_speed() -> Iterator[None]:
    """Let no recipe be taken for its speed, and int8 be the default whatever its own: on a tiny model that is noise."""
    import numpy as np
    import pytest

    from burnish_export import autopilot, choose

    def alike(calls: Mapping[str, object], *, rounds: int, **_: object) -> dict[str, Any]:
        return {name: np.ones((rounds, 1)) for name in calls}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choose, "WORTH", 0.0)
        patch.setattr(autopilot, "interleave", alike)
        yield


if __name__ == "__main__":
    target = Path(sys.argv[1])
    make_encoder(target)
    write_rows(target / "train.jsonl", labelled_rows())
