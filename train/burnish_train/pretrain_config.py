"""The settings of ``burnish pretrain``: every key of a recipe is a field here and a flag of the command.

>>> read_recipe(Path("train/recipes/pretrain.toml"), train=("texts.txt",), out=Path("encoder"))  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish_serve.config import configure, dataclass, read_toml, setting

SIZES = {"tiny": (2, 128), "mini": (4, 256), "small": (4, 512), "medium": (8, 512), "base": (12, 768)}
"""Layers and width; a head of attention is 64 wide (Turc et al., 2019, arXiv:1908.08962)."""


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What to pretrain, on what, and how; names follow ``transformers.TrainingArguments``."""

    train: tuple[str, ...] = setting("rows with text or tokens to learn from; a file given twice is read twice")
    out: Path = setting("folder of the encoder, made by this command")
    architecture: str = setting(
        "what is made: ModernBERT, whose attention goes by distance, learns from far fewer texts; BERT runs in the "
        "oldest tools too",
        default="modernbert",
        choices=("modernbert", "bert"),
    )
    size: str = setting("size of the encoder, from 2 layers of 128 to 12 of 768", default="mini", choices=tuple(SIZES))
    vocab_size: int = setting("tokens of the vocabulary at the most", default=8000, minimum=6)
    lowercase: bool = setting("fold case and accents", default=True)
    max_length: int = setting("tokens that the encoder reads at the most", default=128, minimum=8)
    text_column: str = setting("column that holds the text, where it is not tokens", default="text")
    dev_fraction: float = setting("share of the texts held out to be scored on", default=0.02, minimum=0, below=1)
    num_train_epochs: float = setting("how often each text is seen", default=20.0, minimum=0.001)
    max_minutes: float = setting(
        "stop in time: the rate falls to 0 by then; 0 for as long as the epochs take", default=0.0, minimum=0
    )
    mlm_probability: float = setting("share of the tokens hidden at each step", default=0.15, minimum=0.001, below=1)
    whole_word_masking: bool = setting(
        "hide whole words, and runs of 1 to 3 Chinese characters, instead of single tokens", default=True
    )
    dropout: float = setting("dropout while it pretrains; later training has 0.1", default=0.0, minimum=0, below=1)
    per_device_train_batch_size: int = setting("windows of a step", default=32, minimum=1)
    learning_rate: float = setting("highest learning rate", default=1e-3, minimum=0)
    lr_scheduler_type: str = setting(
        "how the rate falls after warm-up", default="linear", choices=("linear", "cosine", "constant_with_warmup")
    )
    warmup_ratio: float = setting("share of the run in which the rate rises", default=0.05, minimum=0, below=1)
    weight_decay: float = setting("AdamW's decay of weights (not of biases and norms)", default=0.01, minimum=0)
    max_grad_norm: float = setting("gradients longer than this are clipped", default=1.0, minimum=0)
    seed: int = setting("seed of weights, order and masks", default=42, minimum=0)
    save_steps: int = setting("also save every so many steps, to resume from; 0 for epochs only", default=0, minimum=0)
    device: str = setting("where to train", default="auto", choices=("auto", "cpu", "cuda"))
    precision: str = setting(
        "bf16 is automatic mixed precision; auto takes it where it is faster",
        default="auto",
        choices=("auto", "fp32", "bf16"),
    )


def read_recipe(path: Path | None, **given: Any) -> PretrainConfig:
    """Return the config from a recipe and from flags; a flag that is not None wins.

    Raises:
        InputError: with all that is wrong in both.
    """
    values = read_toml(path) if path else {}
    return configure(PretrainConfig, values, source=str(path) if path else "", **given)
