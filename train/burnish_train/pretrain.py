"""An encoder from nothing: a vocabulary of the texts, a small encoder of random weights, and masked words to guess.

It is a run of `burnish_train.fit` that begins with a model of no knowledge, so bars, deadline, resume and checkpoint
are the same. What it writes is a model folder: ``burnish train --model`` takes it for any task.

>>> pretrain(PretrainConfig(train=("texts.txt",), out=Path("encoder"), size="tiny"))  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

from burnish_serve.config import to_dict
from burnish_serve.errors import InputError
from burnish_serve.rows import read_rows
from burnish_serve.tasks import task_named
from burnish_train import fit
from burnish_train.config import TrainConfig
from burnish_train.data import Example, Splits, cut_dev
from burnish_train.pretrain_config import SIZES, PretrainConfig
from burnish_train.wordpiece import make_tokenizer

OWN = {"train", "architecture", "size", "vocab_size", "lowercase", "dropout"}
"""Settings that fine-tuning does not have, or has otherwise."""
FEED_FORWARD = {"bert": 4, "modernbert": 2}
"""Width of the feed-forward layers, in widths of the model; ModernBERT's have a gate of the same width beside it."""
DROPOUTS = {
    "bert": ("hidden_dropout_prob", "attention_probs_dropout_prob"),
    "modernbert": ("embedding_dropout", "attention_dropout", "mlp_dropout", "classifier_dropout"),
}
FINE_TUNING_DROPOUT = 0.1
"""Of the model that is written, for the training that follows."""


def pretrain(
    config: PretrainConfig,
    *,
    resume: bool = False,
    overwrite: bool = False,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Make an encoder of random weights, train it to guess masked words, and write it to ``config.out``.

    Args:
        config: the settings.
        resume: go on with the unfinished run in ``OUT.partial``.
        overwrite: replace what stands at ``OUT`` and ``OUT.partial``.
        log: called with one line of text for each thing worth telling.

    Returns:
        The contents of ``burnish.json``.

    Raises:
        InputError: rows or folder cannot be used.
        DeviceError: the device cannot be used.
        BurnishError: the run was interrupted; the message says how to go on.
    """
    shared = {name: value for name, value in vars(config).items() if name not in OWN}
    pieces = f"{config.vocab_size} {'uncased' if config.lowercase else 'cased'} word pieces"
    kind = f"a new {config.size} {config.architecture}, {pieces}"
    settings = TrainConfig(
        **shared,
        task="fill-mask",
        train=", ".join(config.train),
        model=f"{kind}, dropout {config.dropout}",
        stride=0,
        pack_texts=True,
        early_stopping_patience=0,
    )
    splits = read_texts(config)
    texts = [example.texts[0] for example in splits.train]
    origin = fit.Origin(
        splits=splits,
        make=lambda folder: _make_model(config, texts, folder, log or (lambda line: None)),
        record={"base_model": None, "settings": to_dict(config)},
        model=dropout_of(config.architecture, FINE_TUNING_DROPOUT),
    )
    return fit.train(settings, resume=resume, overwrite=overwrite, log=log, origin=origin)


def read_texts(config: PretrainConfig) -> Splits:
    """Return the texts of the files, in their order, and those held out: no text stands in both.

    Raises:
        InputError: a row has neither tokens nor a text, or there are none.
    """
    tagged = task_named("token-classification")
    rows, sources = [], {}
    for source in config.train:
        digest, count = hashlib.sha256(), 0
        for number, row in read_rows(source):
            where = f"{source}:{number}"
            (text,) = tagged.texts(tagged.asked(row, where, config.text_column), where)
            digest.update(text.encode("utf-8", errors="surrogatepass") + b"\n")
            count += 1
            if text.strip():
                rows.append(Example({"text": text}, (text,), None))
        sources[source] = {"sha256": digest.hexdigest(), "rows": count}
    if not rows:
        raise InputError(f"{', '.join(config.train) or '--train'} has no texts")
    train, dev = cut_dev(rows, config.dev_fraction, config.seed)
    own = hashlib.sha256(repr(sources).encode()).hexdigest()
    told: dict[str, dict[str, Any]] = {
        "train": {"source": ", ".join(config.train), "sha256": own, "rows": len(rows), "files": sources},
        "dev": {"cut_from": "train", "fraction": config.dev_fraction, "seed": config.seed, "rows": len(dev)},
    }
    return Splits(train=train, dev=dev, test=[], names=(), sources=told, warnings=())


def dropout_of(architecture: str, share: float) -> dict[str, float]:
    """Return the settings that give each dropout of an architecture one share."""
    return dict.fromkeys(DROPOUTS[architecture], share)


def special_ids(tokenizer: Any) -> dict[str, int]:
    """Return the ids of a tokenizer's special tokens, by the names that configs have for them."""
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    return {"pad": tokenizer.pad_token_id, "cls": first, "sep": last, "bos": first, "eos": last}


def _make_model(config: PretrainConfig, texts: list[str], folder: Path, say: Callable[[str], None]) -> str:
    """Write tokenizer and weights to begin with into a folder, where they are not there yet, and return its name."""
    start = folder / "start"
    if (start / "tokenizer.json").is_file():
        return str(start)
    tokenizer = make_tokenizer(texts, size=config.vocab_size, lowercase=config.lowercase, max_length=config.max_length)
    layers, width = SIZES[config.size]
    transformers.set_seed(config.seed)
    model = transformers.AutoModelForMaskedLM.from_config(
        transformers.AutoConfig.for_model(
            config.architecture,
            vocab_size=len(tokenizer),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            intermediate_size=FEED_FORWARD[config.architecture] * width,
            max_position_embeddings=config.max_length,
            **{f"{kind}_token_id": number for kind, number in special_ids(tokenizer).items()},
            **dropout_of(config.architecture, config.dropout),
        )
    ).to(torch.float32)
    model.save_pretrained(start)
    tokenizer.save_pretrained(start)
    count = sum(weight.numel() for weight in model.parameters())
    say(f"{config.size}: {layers} layers, {width} wide, {len(tokenizer)} tokens, {count / 1e6:.1f} million weights")
    return str(start)
