"""The Trainer of several tasks: for each batch it becomes the Trainer of the task that the batch is of.

>>> trainer = MultitaskTrainer(parts, MultitaskModel(models), arguments, temperature=1.0)  # doctest: +SKIP
>>> with trainer.on(0):  # doctest: +SKIP
...     trainer.probe_head(trainer.target)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers

from burnish_serve.runner import Runner
from burnish_train.data import Splits
from burnish_train.multitask.model import MultitaskModel
from burnish_train.multitask.order import MixedBatches
from burnish_train.order import EpochLoader
from burnish_train.targets import Target
from burnish_train.trainer import TaskTrainer

MEAN_SCORE = "mean_score"
"""The mean of the dev metrics of all tasks, which chooses the epoch."""
OWN = ("model", "runner", "target", "dev", "dev_asked", "train_dataset", "eval_dataset")
"""What a Trainer has of the task that it is on."""


class Part:
    """One of the tasks, with what a Trainer works with by the Trainer's own names.

    Args:
        number: of the task; each of its items has it.
        name: of the task.
        weight: what its loss counts.
        splits: its rows.
        tokenizer: transformers' tokenizer.
        runner: answers with the task's model.
        model: its encoder is that of the others too.
        target: what is learned.
    """

    def __init__(
        self,
        number: int,
        name: str,
        weight: float,
        splits: Splits,
        tokenizer: Any,
        runner: Runner,
        model: Any,
        target: Target,
    ) -> None:
        self.name, self.weight, self.splits, self.tokenizer = name, weight, splits, tokenizer
        self.runner, self.model, self.target = runner, model, target
        target.meet(runner)
        train, self.dev = splits.train, splits.dev
        self.dev_asked = runner.examine([example.asked for example in self.dev])
        items = target.items(train, runner.encode([example.asked for example in train]))
        self.train_dataset = [{**item, "task": number} for item in items]
        self.eval_dataset = [{**item, "task": number} for item in target.items(self.dev, self.dev_asked)]


class MultitaskTrainer(TaskTrainer):
    """A Trainer of several tasks, whose batches are each of one of them.

    Args:
        parts: the tasks; all have dev rows, or none has.
        model: of all of them.
        arguments: transformers' settings.
        temperature: see `burnish_train.multitask.order.shares`.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        model: MultitaskModel,
        arguments: transformers.TrainingArguments,
        *,
        temperature: float,
        **rest: Any,
    ) -> None:
        self.parts = parts
        self._temperature = temperature
        super().__init__(parts[0].runner, model, parts[0].target, (), parts[0].dev, arguments, **rest)
        self.train_dataset: Any = [item for part in parts for item in part.train_dataset]

    @contextlib.contextmanager
    def on(self, number: int) -> Iterator[Part]:
        """Let this be the Trainer of one task, while this context lasts."""
        part = self.parts[number]
        before = {name: getattr(self, name) for name in OWN}
        self.__dict__.update({name: getattr(part, name) for name in OWN})
        try:
            yield part
        finally:
            self.__dict__.update(before)

    def get_train_dataloader(self) -> Any:
        """Return the batches of all tasks, in the order of `MixedBatches`."""
        tasks = [part.train_dataset for part in self.parts]
        size, seed = self.args.train_batch_size, self.args.seed
        batches = MixedBatches(size, tasks, seed=seed, temperature=self._temperature)
        return EpochLoader(
            self.train_dataset, batches, collate_fn=self._collate, pin_memory=self.args.dataloader_pin_memory
        )

    def _collate(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the tensors of one batch, and the number of its task."""
        number = items[0]["task"]
        with self.on(number):
            return {**super()._collate(items), "task": number}

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        """Return the loss of one batch by its task's model, with its gradients added."""
        with self.on(inputs["task"]) as part:
            return super().training_step(part.model, inputs, *rest)

    def compute_loss(self, model: Any, inputs: dict[str, Any], *given: Any, **named: Any) -> Any:
        """Return the loss of one batch, weighed where it is learned from."""
        part = self.parts[inputs.pop("task")]
        with self.accelerator.autocast():  # which is set up for the whole model's own forward alone
            loss = super().compute_loss(model, inputs, *given, **named)
        return loss * part.weight if model.training else loss

    def dev_scores(self) -> dict[str, float]:
        """Return each task's loss and scores on its dev rows, as ``NAME/metric``, and the mean of loss and metrics."""
        found: dict[str, float] = {}
        losses, scores = [], []
        for number, part in enumerate(self.parts):
            with self.on(number), self.accelerator.autocast():
                own = super().dev_scores()
            losses.append(own["loss"])
            scores.append(own[part.runner.task.metric])
            found |= {f"{part.name}/{name}": value for name, value in own.items()}
        return {"loss": float(np.mean(losses)), MEAN_SCORE: float(np.mean(scores)), **found}

    def history_of(self, part: Part) -> list[dict[str, float]]:
        """Return the log as if a task had been alone in it; the losses of batches are those of all tasks."""
        prefix = f"eval_{part.name}/"
        found = []
        for entry in self.state.log_history:
            own = {f"eval_{key.removeprefix(prefix)}": value for key, value in entry.items() if key.startswith(prefix)}
            found.append({key: value for key, value in entry.items() if not key.startswith("eval_")} | own)
        return found

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the weights into a folder of Trainer's, each once: safetensors refuses shared ones."""
        model: Any = self.model
        super()._save(output_dir, model.weights())
