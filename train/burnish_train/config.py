"""The settings of ``burnish train``: every key of a recipe is a field here and a flag of the command.

>>> read_recipe(Path("train/recipes/intent.toml"), train="train.jsonl", out=Path("runs/a"))  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish_serve.config import configure, dataclass, read_toml, setting
from burnish_serve.errors import InputError
from burnish_serve.tasks import TASKS
from burnish_serve.tasks.pooling import POOLINGS
from burnish_serve.tasks.tagging import SCHEMES
from burnish_serve.text import ON_LONG

SEARCH = "search"
"""The table of a recipe that is no setting."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What to train, on what, and how; names follow ``transformers.TrainingArguments``."""

    model: str = setting("pretrained encoder: a folder or a name on the Hub")
    task: str = setting("what the model shall answer", default="text-classification", choices=tuple(TASKS))
    train: str = setting("rows to learn from: .jsonl .csv .tsv .parquet, or a dataset's name on the Hub")
    dev: str | None = setting("rows to choose the best epoch on; cut from train where none are given", default=None)
    test: str | None = setting("rows to score once, at the end", default=None)
    out: Path = setting("folder of the checkpoint, made by this command")
    text_column: str = setting("column that holds the text", default="text")
    label_column: str | None = setting(
        "column that holds what is right; the task's own (label, labels, score, tags …) where none is given",
        default=None,
    )
    dev_fraction: float = setting("share of train cut off as dev, by text", default=0.1, minimum=0, below=1)
    max_length: int = setting("tokens of a text at the most", default=512, minimum=3)
    on_long: str | None = setting(
        "what becomes of longer ones; the task's own way where none is given", default=None, choices=ON_LONG
    )
    stride: int = setting("tokens that neighbouring windows of a long text share", default=64, minimum=0)
    seed: int = setting("seed of the split, the order, the new weights and dropout", default=42, minimum=0)
    pooling: str = setting(
        "what the head reads: the architecture's own (first token), the mean of all tokens, the vectors at the "
        "entities' markers, or these and the mean",
        default="first",
        choices=("first", *POOLINGS),
    )
    num_train_epochs: float = setting("how often each row is seen", default=3.0, minimum=0.001)
    learning_rate: float = setting("highest learning rate", default=5e-5, minimum=0)
    lr_scheduler_type: str = setting(
        "how the rate falls after warm-up", default="linear", choices=("linear", "cosine", "constant_with_warmup")
    )
    warmup_ratio: float = setting("share of the steps in which the rate rises", default=0.1, minimum=0, below=1)
    weight_decay: float = setting("AdamW's decay of weights (not of biases and norms)", default=0.01, minimum=0)
    max_grad_norm: float = setting("gradients longer than this are clipped", default=1.0, minimum=0)
    label_smoothing_factor: float = setting(
        "share of the target spread over all labels", default=0.0, minimum=0, below=1
    )
    adversarial_epsilon: float = setting(
        "learn from each batch again with word vectors moved so far to where it hurts most; 0 for never, else about 1",
        default=0.0,
        minimum=0,
    )
    word_dropout: float = setting(
        "share of the tokens hidden behind the mask at each step, so that what stands around them is learned from",
        default=0.0,
        minimum=0,
        below=1,
    )
    class_weights: str = setting(
        "whether rare labels weigh more: by their share of the rows, or by its square root",
        default="none",
        choices=("none", "balanced", "sqrt"),
    )
    tag_scheme: str = setting(
        "tags that a model of spans gives: begin, inside and outside, or an end and a single word told apart too",
        default="BIO",
        choices=SCHEMES,
    )
    label_inner_words: bool = setting(
        "of rows of tokens: learn each word that the tokenizer makes of one (@ada is two), as texts are answered; "
        "or the first alone",
        default=True,
    )
    reject_label: str | None = setting(
        "the answer to texts that no label fits, such as oos; given where the best label's score is too low",
        default=None,
    )
    reject_max_drop: float = setting(
        "share of the dev rows with other labels that may be rejected wrongly", default=0.01, minimum=0, below=1
    )
    mlm_probability: float = setting(
        "share of the tokens that are hidden at each step, where masked words are guessed",
        default=0.15,
        minimum=0.001,
        below=1,
    )
    whole_word_masking: bool = setting(
        "hide whole words, and runs of 1 to 3 Chinese characters, instead of single tokens", default=True
    )
    pack_texts: bool = setting(
        "where masked words are guessed: lay texts end to end into windows without padding", default=False
    )
    max_minutes: float = setting(
        "stop in time: the rate falls to 0 by then; 0 for as long as the epochs take", default=0.0, minimum=0
    )
    per_device_train_batch_size: int = setting("rows of a step", default=32, minimum=1)
    per_device_eval_batch_size: int = setting("rows of a batch in evaluation", default=64, minimum=1)
    early_stopping_patience: int = setting(
        "epochs without a better dev score before it stops; 0 never", default=3, minimum=0
    )
    save_steps: int = setting("also save every so many steps, to resume from; 0 for epochs only", default=0, minimum=0)
    device: str = setting("where to train", default="auto", choices=("auto", "cpu", "cuda"))
    precision: str = setting(
        "bf16 is automatic mixed precision; auto takes it where the machine has it",
        default="auto",
        choices=("auto", "fp32", "bf16"),
    )

    def __post_init__(self) -> None:
        """Refuse what the task has no use for: a pooling, a label for rejection, weights of labels, other tags."""
        if self.task not in TASKS:
            return  # said where settings are read
        task = TASKS[self.task]
        tags = task.per_token and task.labelled
        if self.reject_label and task.problem_type != "single_label_classification":
            raise InputError(f"reject_label {self.reject_label!r} is for tasks that give one label, not {self.task}")
        if self.class_weights != "none" and not (tags or "classification" in (task.problem_type or "")):
            raise InputError(f"class_weights {self.class_weights!r} is for tasks that give labels, not {self.task}")
        if self.word_dropout and task.keep is not None:
            raise InputError(f"word_dropout is not for {self.task}, which hides tokens by mlm_probability")
        if self.tag_scheme != "BIO" and not tags:
            raise InputError(f"tag_scheme {self.tag_scheme!r} is for token-classification, not {self.task}")
        if not self.label_inner_words and not tags:
            raise InputError(f"label_inner_words is for token-classification, not {self.task}")
        if self.pooling not in POOLINGS:
            return  # the architecture's own head; or what is said where settings are read
        missing = set(POOLINGS[self.pooling].tokens) - set(task.tokens)
        if task.head != "SequenceClassification":
            raise InputError(f"pooling {self.pooling!r} is for tasks that answer about a whole text, not {self.task}")
        if missing:
            known = ", ".join(name for name in sorted(TASKS) if TASKS[name].tokens)
            raise InputError(
                f"pooling {self.pooling!r} reads {', '.join(sorted(missing))}, and {self.task} has no such "
                f"tokens; it is for {known}"
            )


def read_recipe(path: Path | None, **given: Any) -> TrainConfig:
    """Return the config from a recipe and from flags; a flag that is not None wins.

    Raises:
        InputError: with all that is wrong in both.
    """
    values = read_toml(path) if path else {}
    if isinstance(values.get(SEARCH), dict):
        del values[SEARCH]  # what `burnish search` draws settings from
    return configure(TrainConfig, values, source=str(path) if path else "", **given)
