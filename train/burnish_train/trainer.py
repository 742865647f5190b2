"""transformers' Trainer around a target of ours: its batches, its loss, and dev rows answered as a user's would be.

>>> trainer = TaskTrainer(runner, target, train, dev, arguments)  # doctest: +SKIP
>>> trainer.train()  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers.modeling_outputs import SequenceClassifierOutput

from burnish_serve import batching
from burnish_serve.runner import Runner
from burnish_serve.tasks.fill_mask import special
from burnish_train import probe
from burnish_train.data import Example
from burnish_train.deadline import Deadline, schedule
from burnish_train.dropout import FastDropout
from burnish_train.faults import FiniteLoss, texts_of
from burnish_train.order import EpochSampler
from burnish_train.targets import Supervised, Target


class TaskTrainer(transformers.Trainer):
    """A Trainer that learns from a target's items and is scored by the task's own metric.

    Args:
        runner: answers with the model that is trained.
        model: the model.
        target: batches and loss.
        train: the rows to learn from.
        dev: the rows to be scored on after each epoch; may be empty.
        arguments: transformers' settings.
    """

    def __init__(
        self,
        runner: Runner,
        model: Any,
        target: Target,
        train: Sequence[Example],
        dev: Sequence[Example],
        arguments: transformers.TrainingArguments,
        **rest: Any,
    ) -> None:
        self.runner = runner
        self.target = target
        self.dev = list(dev)
        self.dev_asked = runner.examine([example.asked for example in dev])
        target.meet(runner)
        super().__init__(
            model=model,
            args=arguments,
            data_collator=lambda items: target.batch(items, runner.inputs, runner.pad_token_id),
            train_dataset=target.items(train, runner.encode([example.asked for example in train])),
            eval_dataset=target.items(dev, self.dev_asked) if dev else None,
            **rest,
        )
        self.finite = FiniteLoss(lambda ids: texts_of(ids, runner, train))
        self.add_callback(self.finite)  # behind those that ask for checkpoints

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return EpochSampler(self.args.train_batch_size, train_dataset or self.train_dataset, seed=self.args.seed)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the schedule of the learning rate, by steps and by the clock where there is a deadline."""
        if not any(isinstance(one, Deadline) for one in self.callback_handler.callbacks):
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            args, optimizer = self.args, optimizer or self.optimizer
            name, warmup = str(args.lr_scheduler_type.value), args.get_warmup_steps(num_training_steps)
            share = warmup / num_training_steps
            self.lr_scheduler: Any = schedule(name, optimizer, share, num_training_steps, self._progress)
        return self.lr_scheduler

    def _progress(self) -> float:
        """Return the share of the time that is over; a resumed run has another callback than it was made with."""
        return max(one.progress for one in self.callback_handler.callbacks if isinstance(one, Deadline))

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        """Return the loss of one batch, with its gradients added; dropout on a CPU is the fast one.

        Where that is set, the batch is learned from a second time, with word vectors moved to where it hurts most
        (Miyato et al., 2017, arXiv:1605.07725).
        """
        ids = inputs["input_ids"]
        inputs = {**inputs, "input_ids": self._with_holes(ids)}
        with FastDropout():
            loss = super().training_step(model, dict(inputs), *rest)
            if self.target.config.adversarial_epsilon:
                words = model.get_input_embeddings().weight
                with moved(words, self.target.config.adversarial_epsilon):
                    super().training_step(model, dict(inputs), *rest)
        self.finite.watch(self.state.global_step + 1, "loss", loss, ids)
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if self.accelerator.scaler is None:  # which leaves out steps whose gradients are not finite
            self.finite.watch(self.state.global_step + 1, "length of the gradient", torch.as_tensor(norm))
        return norm

    def _with_holes(self, ids: torch.Tensor) -> torch.Tensor:
        """Return ids with a share of the ordinary tokens hidden behind the mask, other ones at each step."""
        share = self.target.config.word_dropout
        if not share:
            return ids
        tokenizer = self.runner.encoder.tokenizer
        found = special(tokenizer)
        markers = [tokenizer.token_to_id(token) for token in self.runner.task.tokens]
        kept = torch.isin(ids, torch.tensor([*found.ids.tolist(), *markers], device=ids.device))
        hidden = (torch.rand(ids.shape) < share).to(ids.device) & ~kept
        return ids.masked_fill(hidden, found.mask)

    def compute_loss(self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, **_: Any) -> Any:
        """Return the target's loss of one batch, and the model's outputs where they are asked for."""
        labels = inputs.pop("labels")
        step = self.state.global_step if model.training else None
        loss, outputs = self.target.learn(model, inputs, labels, step)
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Return loss and scores on the dev rows, as a user's rows are answered, in the precision of training."""
        self.model.eval()
        with torch.no_grad(), self.autocast_smart_context_manager():
            answers = self.target.answered(self.runner, self.dev_asked, self.dev)
            losses = [self._loss(batch) for batch in self._batches(self.eval_dataset)]
        scores = self.runner.task.score([example.right for example in self.dev], answers, self.runner.reading)
        found = {"loss": float(np.mean(losses)), **{k: v for k, v in scores.items() if isinstance(v, float)}}
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        self.log(metrics)
        self.control: transformers.TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _loss(self, items: Sequence[Mapping[str, Any]]) -> float:
        batch = self._prepare_inputs(self.data_collator(list(items)))
        return float(self.compute_loss(self.model, batch))

    def _batches(self, items: Any) -> list[list[Any]]:
        plan = batching.plan([len(item["input_ids"]) for item in items], self.runner.max_batch_tokens)
        return [[items[i] for i in indices] for indices in plan]

    def probe_head(self, target: Supervised) -> None:
        """Start the model's classifier from a linear probe of the train rows."""
        rows: Any = self.train_dataset
        chosen = np.random.default_rng(self.args.seed).permutation(len(rows))[: target.probe_rows]
        known = [self._known(items, target) for items in self._batches([rows[i] for i in chosen])]
        vectors, labels = (torch.cat(part) for part in zip(*known, strict=True))
        probe.fit(
            self.model.classifier,
            vectors,
            lambda logits: target.loss(SequenceClassifierOutput(logits=logits), labels, {}),
            next((layer.p for layer in self.model.children() if isinstance(layer, torch.nn.Dropout)), 0.0),
        )

    def _known(self, items: Sequence[Any], target: Supervised) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the head is given for a batch of items, and what is right, where anything is."""
        batch = self._prepare_inputs(self.data_collator(list(items)))
        labels = batch.pop("labels")
        self.model.eval()
        with torch.no_grad(), self.autocast_smart_context_manager(), probe.Inputs(self.model.classifier) as seen:
            self.model(**batch)
        return target.known(seen[0], labels)


@contextlib.contextmanager
def moved(weight: torch.nn.Parameter, length: float) -> Iterator[None]:
    """Move a weight by so much along its gradient, while this context lasts."""
    slope = torch.zeros_like(weight) if weight.grad is None else weight.grad
    before = weight.detach().clone()
    with torch.no_grad():
        weight.add_(slope, alpha=length / max(float(slope.norm()), 1e-12))
    try:
        yield
    finally:
        with torch.no_grad():
            weight.copy_(before)
