"""Which settings of training go together: what has no use is refused before a row is read.

>>> check(config)  # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from burnish_serve.errors import InputError
from burnish_serve.tasks import TASKS
from burnish_serve.tasks.pooling import POOLINGS
from burnish_serve.tasks.text_classification import ONE_OR_TWO_TEXTS
from burnish_train.methods.names import PLATEAU

if TYPE_CHECKING:
    from burnish_train.config import TrainConfig

# Tasks whose outputs are compared with another model's, or with the same model's under another dropout.
UNCOMPARED = ("fill-mask", "feature-extraction")


def check(config: TrainConfig) -> None:
    """Refuse settings that the task has no use for, or that do not go together.

    Raises:
        InputError: with what is wrong, and what it is for.
    """
    _check_task(config)
    _check_methods(config)
    _check_quantized(config)
    _check_augmentation(config)
    _check_pooling(config)


def _check_task(config: TrainConfig) -> None:
    """Refuse a label for rejection, weights of labels, hidden words or other tags where the task has none."""
    task = TASKS[config.task]
    tags = task.per_token and task.labelled
    if config.reject_label and task.problem_type != "single_label_classification":
        raise InputError(f"reject_label {config.reject_label!r} is for tasks that give one label, not {config.task}")
    labels = tags or "classification" in (task.problem_type or "")
    if config.class_weights != "none" and not labels:
        raise InputError(f"class_weights {config.class_weights!r} is for tasks that give labels, not {config.task}")
    if config.focal_gamma and not labels:
        raise InputError(f"focal_gamma is for tasks that give labels, not {config.task}")
    if config.word_dropout and task.keep is not None:
        raise InputError(f"word_dropout is not for {config.task}, which hides tokens by mlm_probability")
    if config.tag_scheme != "BIO" and not tags:
        raise InputError(f"tag_scheme {config.tag_scheme!r} is for token-classification, not {config.task}")
    if not config.label_inner_words and not tags:
        raise InputError(f"label_inner_words is for token-classification, not {config.task}")


def _check_methods(config: TrainConfig) -> None:
    """Refuse methods that the task cannot have, or that have nothing to work with."""
    for name in ("rdrop_alpha", "teacher"):
        if getattr(config, name) and config.task in UNCOMPARED:
            raise InputError(f"{name} is not for {config.task}, whose outputs are compared with nothing")
    if config.unlabelled and not config.teacher and not config.label_spreading:
        raise InputError(
            "unlabelled rows are learned from by a teacher's scores or by labels that spread to them: give "
            "--teacher CHECKPOINT or --label-spreading too"
        )
    if config.unlabelled and TASKS[config.task].problem_type != "single_label_classification":
        raise InputError(f"unlabelled is for tasks that give one label, not {config.task}")
    for name in ("pseudo_label_threshold", "label_spreading"):
        if getattr(config, name) and not config.unlabelled:
            raise InputError(f"{name} is for rows without labels: give --unlabelled FILE too")
        if getattr(config, name) and not config.dev and not config.dev_fraction:
            raise InputError(f"{name} is checked on dev rows: give them")
    for name in ("keep_feed_forward", "keep_heads"):
        if getattr(config, name) > 1:
            raise InputError(f"{name} is a share, at most 1, not {getattr(config, name)}")
    if config.keep_heads < 1 and config.lora_rank:
        raise InputError("lora_rank learns weights for the heads that keep_heads leaves out; leave out one of the two")
    if config.keep_heads < 1 and config.distill_attention:
        raise InputError(
            "distill_attention compares the mean of all heads, those too that keep_heads leaves out; leave out one of "
            "the two"
        )
    if config.vocabulary_texts and not config.trim_vocabulary:
        raise InputError("vocabulary_texts is for a vocabulary that is trimmed: give --trim-vocabulary too")
    if config.contrastive_steps and TASKS[config.task].problem_type != "single_label_classification":
        raise InputError(f"contrastive_steps is for tasks that give one label, not {config.task}")
    if (config.distill_hidden or config.distill_attention) and len(config.teacher) != 1:
        raise InputError("distill_hidden and distill_attention look into one teacher: give --teacher CHECKPOINT once")
    if config.distill_attention and config.attn_implementation not in ("auto", "eager"):
        raise InputError(
            f"distill_attention reads scores that attn_implementation {config.attn_implementation!r} never writes "
            "down; take eager, or auto"
        )
    frozen = config.freeze_layers or config.freeze_embeddings or config.unfreeze_every or config.layer_lr_decay != 1
    if config.lora_rank and (frozen or config.reinit_layers):
        raise InputError(
            "lora_rank freezes the encoder itself; leave out freeze_layers, freeze_embeddings, unfreeze_every, "
            "layer_lr_decay and reinit_layers"
        )
    if config.lr_scheduler_type == PLATEAU and config.max_minutes:
        raise InputError(f"lr_scheduler_type {PLATEAU!r} follows the dev score and no clock; leave out max_minutes")
    if config.lr_scheduler_type == PLATEAU and not config.dev and not config.dev_fraction:
        raise InputError(f"lr_scheduler_type {PLATEAU!r} follows the dev score: give dev rows")


def _check_quantized(config: TrainConfig) -> None:
    """Refuse what int8 cannot be learned with."""
    reasons = {
        "lora_rank": "rounds the weights themselves, which LoRA changes only when it is merged",
        "gradient_checkpointing": "rounds what is computed, which is not seen where it is computed again",
        "torch_compile": "looks at each operator as it is called, and a compiled model calls others",
        "max_minutes": "is for the last epochs, which a run that ends by the clock may not reach",
    }
    for name, reason in reasons.items():
        if config.quantize_aware and getattr(config, name):
            raise InputError(f"quantize_aware {reason}; leave out {name}")


def _check_augmentation(config: TrainConfig) -> None:
    """Refuse changed words where a label points at them, and a model that changes none."""
    if config.augment and TASKS[config.task].columns != ONE_OR_TWO_TEXTS:
        known = ", ".join(name for name in sorted(TASKS) if TASKS[name].columns == ONE_OR_TWO_TEXTS)
        raise InputError(
            f"augment is for tasks whose labels hold for whole texts, which are {known}; {config.task} looks at words"
        )
    if config.augment_model and "replace" not in config.augment:
        raise InputError("augment_model is what words are replaced by: give --augment replace too")


def _check_pooling(config: TrainConfig) -> None:
    """Refuse a pooling that the task has no tokens for."""
    if config.pooling not in POOLINGS:
        return  # the architecture's own head; or what is said where settings are read
    task = TASKS[config.task]
    missing = set(POOLINGS[config.pooling].tokens) - set(task.tokens)
    if task.head != "SequenceClassification":
        raise InputError(f"pooling {config.pooling!r} is for tasks that answer about a whole text, not {config.task}")
    if missing:
        known = ", ".join(name for name in sorted(TASKS) if TASKS[name].tokens)
        raise InputError(
            f"pooling {config.pooling!r} reads {', '.join(sorted(missing))}, and {config.task} has no such "
            f"tokens; it is for {known}"
        )
