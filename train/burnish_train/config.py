"""The settings of ``burnish train``: every key of a recipe is a field here and a flag of the command.

>>> read_recipe(Path("train/recipes/intent.toml"), train="train.jsonl", out=Path("runs/a"))  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from burnish_serve.config import configure, dataclass, read_toml, setting
from burnish_serve.tasks import TASKS
from burnish_serve.tasks.pooling import POOLINGS
from burnish_serve.tasks.tagging import SCHEMES
from burnish_serve.text import ON_LONG
from burnish_train.allowed import check
from burnish_train.methods.names import ATTENTIONS, AUGMENTATIONS, OPTIMIZERS, SCHEDULES

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
    lr_scheduler_type: str = setting("how the rate falls after warm-up", default="linear", choices=SCHEDULES)
    lr_num_cycles: int = setting("how often a rate of cycles or restarts goes down", default=3, minimum=1)
    lr_power: float = setting("power of a polynomial rate", default=2.0, minimum=0)
    optim: str = setting("what takes the steps", default="adamw_torch_fused", choices=OPTIMIZERS)
    warmup_ratio: float = setting("share of the steps in which the rate rises", default=0.1, minimum=0, below=1)
    weight_decay: float = setting("the optimizer's decay of weights (not of biases and norms)", default=0.01, minimum=0)
    max_grad_norm: float = setting("gradients longer than this are clipped", default=1.0, minimum=0)
    label_smoothing_factor: float = setting(
        "share of the target spread over all labels", default=0.0, minimum=0, below=1
    )
    focal_gamma: float = setting(
        "how much less a row counts that is right already; 0 for all alike, else about 2", default=0.0, minimum=0
    )
    rdrop_alpha: float = setting(
        "learn from each batch under two dropouts whose answers must agree, weighed so; 0 for never, else 0.5 to 5",
        default=0.0,
        minimum=0,
    )
    contrastive_steps: int = setting(
        "draw rows of one label together for so many batches before the labels are learned; for few rows",
        default=0,
        minimum=0,
    )
    contrastive_learning_rate: float = setting("highest learning rate of these steps", default=5e-5, minimum=0)
    augment: tuple[str, ...] = setting(
        "also learn from copies of the train rows with words changed: replaced by those that a masked language model "
        "puts there, swapped with their neighbours, or deleted; for few rows",
        default=(),
        choices=AUGMENTATIONS,
    )
    augment_copies: int = setting("how many changed copies of each row", default=1, minimum=1)
    augment_share: float = setting(
        "share of a text's words that are changed, at least one", default=0.1, minimum=0.001, below=1
    )
    augment_model: str | None = setting(
        "masked language model that replaces words; the encoder itself where none is given", default=None
    )
    ema_decay: float = setting(
        "score and keep a moving average of the weights, of which a step leaves so much; 0 for the weights themselves",
        default=0.0,
        minimum=0,
        below=1,
    )
    quantize_aware: float = setting(
        "learn so many of the last epochs as int8 will answer, rounded, and answer dev rows so; 0 for none, else about "
        "1; the run then takes all its epochs",
        default=0.0,
        minimum=0,
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
    freeze_embeddings: bool = setting("leave the word vectors as they are", default=False)
    freeze_layers: int = setting("leave the embeddings and so many of the lowest layers", default=0, minimum=0)
    freeze_pattern: str | None = setting(
        "leave all weights whose name this regular expression is found in", default=None
    )
    unfreeze_every: float = setting(
        "let the head learn alone, and one more layer from the top after each so many epochs; 0 for all at once",
        default=0.0,
        minimum=0,
    )
    layer_lr_decay: float = setting(
        "factor of the learning rate from each layer to the one below it", default=1.0, minimum=0.01
    )
    reinit_layers: int = setting("begin so many of the highest layers anew", default=0, minimum=0)
    keep_layers: int = setting(
        "a smaller student: keep so many of the encoder's layers, evenly spread; 0 for all", default=0, minimum=0
    )
    keep_feed_forward: float = setting(
        "a smaller student: share of each layer's feed-forward elements that stays, those that matter most on train",
        default=1.0,
        minimum=0.01,
    )
    keep_heads: float = setting(
        "a smaller student: share of each layer's attention heads that stays, those that matter most on train",
        default=1.0,
        minimum=0.01,
    )
    trim_vocabulary: bool = setting(
        "a smaller student: keep only those word pieces that the rows to learn from use, and all single characters",
        default=False,
    )
    vocabulary_texts: tuple[str, ...] = setting(
        "files of rows, or of plain text, whose word pieces are kept too", default=()
    )
    lora_rank: int = setting(
        "width of the thin matrices that learn beside each layer, merged at the end; 0 for none", default=0, minimum=0
    )
    lora_alpha: float = setting("their product counts so much divided by the rank", default=16.0, minimum=0)
    lora_dropout: float = setting("share of their inputs that is dropped", default=0.0, minimum=0, below=1)
    lora_target_modules: str = setting(
        "which layers have them: ends of names with commas between, such as query,value", default="all-linear"
    )
    teacher: tuple[str, ...] = setting("checkpoints whose scores are learned from besides the labels", default=())
    distill_alpha: float = setting("share of the loss that is the teacher's", default=0.5, minimum=0)
    distill_temperature: float = setting(
        "what both logits are divided by, so that small scores tell too", default=2.0, minimum=0.01
    )
    distill_hidden: float = setting("weight of the distance to the teacher's vectors", default=0.0, minimum=0)
    distill_attention: float = setting("weight of the distance to the teacher's attention", default=0.0, minimum=0)
    unlabelled: str | None = setting(
        "rows without labels, learned from by the teacher's scores, or with labels that are guessed", default=None
    )
    label_spreading: bool = setting(
        "take these as labelled rows, with the labels that spread to them from rows near by; by the vectors of the "
        "model, and of teachers where there are any",
        default=False,
    )
    pseudo_label_threshold: float = setting(
        "take those alone whose label scores so high, as labelled rows; 0 for all, by the teacher's scores",
        default=0.0,
        minimum=0,
        below=1,
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
    gradient_accumulation_steps: int = setting("batches whose gradients make one step", default=1, minimum=1)
    gradient_checkpointing: bool = setting("compute twice what else stays in memory", default=False)
    per_device_eval_batch_size: int = setting("rows of a batch in evaluation", default=64, minimum=1)
    early_stopping_patience: int = setting(
        "epochs without a better dev score before it stops; 0 never", default=3, minimum=0
    )
    save_steps: int = setting("also save every so many steps, to resume from; 0 for epochs only", default=0, minimum=0)
    torch_compile: bool = setting(
        "compile the model before it learns: a minute at the start, for faster steps on a GPU", default=False
    )
    attn_implementation: str = setting(
        "how attention is computed while it learns; auto is eager on a CPU and where distill_attention reads it, else "
        "what transformers takes",
        default="auto",
        choices=ATTENTIONS,
    )
    device: str = setting("where to train", default="auto", choices=("auto", "cpu", "cuda"))
    precision: str = setting(
        "bf16 and fp16 are automatic mixed precision; auto takes bf16 where the machine is faster with it",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
    )

    def __post_init__(self) -> None:
        """Refuse what the task has no use for, and what does not go together."""
        if self.task in TASKS:  # else it is said where settings are read
            check(self)


def read_recipe(path: Path | None, **given: Any) -> TrainConfig:
    """Return the config from a recipe and from flags; a flag that is not None wins.

    Raises:
        InputError: with all that is wrong in both.
    """
    values = read_toml(path) if path else {}
    if isinstance(values.get(SEARCH), dict):
        del values[SEARCH]  # what `burnish search` draws settings from
    return configure(TrainConfig, values, source=str(path) if path else "", **given)
