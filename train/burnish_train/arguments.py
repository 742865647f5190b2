"""How transformers' Trainer is set up for a run: its own settings, and what is asked between its steps.

>>> arguments_for(config, work, "accuracy", cuda=False, precision="fp32")  # doctest: +SKIP
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import transformers

from burnish_train.config import TrainConfig
from burnish_train.deadline import Deadline
from burnish_train.methods.average import Average
from burnish_train.methods.unfreezing import Unfreeze
from burnish_train.progress import SaveEvery, StepBar
from burnish_train.speed import Speed

# Steps between two points of the curve at the most, where the clock may end a run after few.
TIMED_LOGS = 20


class OneDevice(transformers.TrainingArguments):
    """Settings of a process that learns on one device.

    Where a machine has several GPUs, transformers copies the model to all of them within one process and multiplies the
    batch. Here a batch is what the settings say, and ``torchrun`` is how several GPUs share it.
    """

    @property
    def n_gpu(self) -> int:
        """Return 1 where there is a GPU, however many there are."""
        return min(super().n_gpu, 1)


def arguments_for(
    config: TrainConfig, work: Path, metric: str | None, *, cuda: bool, precision: str
) -> transformers.TrainingArguments:
    """Return the Trainer's settings of a run; the metric, None without dev rows, chooses its best epoch."""
    return OneDevice(
        output_dir=str(work),
        num_train_epochs=config.num_train_epochs,
        learning_rate=config.learning_rate,
        warmup_steps=config.warmup_ratio,
        optim="adamw_torch" if config.optim == "adam" else config.optim,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        per_device_train_batch_size=config.per_device_train_batch_size,
        per_device_eval_batch_size=config.per_device_eval_batch_size,
        train_sampling_strategy="group_by_length",
        eval_strategy="epoch" if metric else "no",
        save_strategy="epoch",
        save_total_limit=2,
        load_best_model_at_end=metric is not None,
        metric_for_best_model=metric,
        greater_is_better=True if metric else None,
        seed=config.seed,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        torch_compile=config.torch_compile,
        tf32=False if config.torch_compile else None,  # else it is on from then on, for the scores at the end too
        use_cpu=not cuda,
        dataloader_pin_memory=cuda,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
        logging_strategy="steps",
        logging_nan_inf_filter=False,  # a loss that is no number ends the run; see `burnish_train.faults`
        average_tokens_across_devices=False,
        restore_callback_states_from_checkpoint=True,  # the patience that is used up
    )


def callbacks_for(
    config: TrainConfig, model: Any, metric: str, average: Average | None, speed: Speed
) -> list[transformers.TrainerCallback]:
    """Return what is asked between the steps of a run; the metric is shown."""
    return [
        speed,
        StepBar(metric, speed),
        SaveEvery(config.save_steps),
        *([Deadline(config.max_minutes)] if config.max_minutes else []),
        *([Unfreeze(model, config.unfreeze_every)] if config.unfreeze_every else []),
        *([average] if average else []),
    ]


def settle(trainer: transformers.Trainer, config: TrainConfig) -> None:
    """Let a new Trainer draw its curve in fit steps, say nothing itself, and stop where it gets no better.

    A run that learns its last epochs as int8 gets to them.
    """
    rows: Any = trainer.train_dataset
    every = max(1, int(len(rows) * config.num_train_epochs / config.per_device_train_batch_size / 100))
    trainer.args.logging_steps = min(every, TIMED_LOGS) if config.max_minutes else every
    trainer.remove_callback(transformers.PrinterCallback)
    if trainer.args.metric_for_best_model and config.early_stopping_patience and not config.quantize_aware:
        trainer.add_callback(transformers.EarlyStoppingCallback(config.early_stopping_patience))
