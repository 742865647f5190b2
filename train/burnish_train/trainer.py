"""transformers' Trainer around a target of ours: its batches, its loss, and dev rows answered as a user's would be.

>>> trainer = TaskTrainer(runner, target, train, dev, arguments)  # doctest: +SKIP
>>> trainer.train()  # doctest: +SKIP
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
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
from burnish_train.deadline import Deadline
from burnish_train.dropout import FastDropout
from burnish_train.faults import FiniteLoss, texts_of
from burnish_train.losses import IGNORED
from burnish_train.methods import contrast
from burnish_train.methods.adversarial import moved
from burnish_train.methods.average import Average
from burnish_train.methods.names import PLATEAU
from burnish_train.methods.optimizer import optimizer_for
from burnish_train.methods.quantized import QuantizeAware
from burnish_train.methods.schedule import WarmUp, schedule_for
from burnish_train.methods.teacher import Teacher
from burnish_train.order import EpochBatches, EpochLoader
from burnish_train.speed import Speed
from burnish_train.targets import Supervised, Target

# Padded tokens that are read at once where rows are drawn together.
TOGETHER_TOKENS = 512


class TaskTrainer(transformers.Trainer):
    """A Trainer that learns from a target's items and is scored by the task's own metric.

    Args:
        runner: answers with the model that is trained.
        model: the model.
        target: batches and loss.
        train: the rows to learn from.
        dev: the rows to be scored on after each epoch; may be empty.
        arguments: transformers' settings.
        teacher: whose scores are learned from too.
        average: of the weights, which is scored and kept in their place.
        speed: is told of each batch; a new one where none is given.
        quantize: through which the last epochs are learned, and dev rows answered.
    """

    def __init__(
        self,
        runner: Runner,
        model: Any,
        target: Target,
        train: Sequence[Example],
        dev: Sequence[Example],
        arguments: transformers.TrainingArguments,
        teacher: Teacher | None = None,
        average: Average | None = None,
        speed: Speed | None = None,
        quantize: QuantizeAware | None = None,
        **rest: Any,
    ) -> None:
        self.runner = runner
        self.target = target
        self.teacher = teacher
        self.average = average
        self.quantize = quantize
        self._kept = [part for part in (average, quantize) if part]  # beside the weights
        self.speed = speed or Speed()
        self.dev = list(dev)
        self.dev_asked = runner.examine([example.asked for example in dev])
        target.meet(runner)
        super().__init__(
            model=model,
            args=arguments,
            data_collator=self._collate,
            train_dataset=target.items(train, runner.encode([example.asked for example in train])),
            eval_dataset=target.items(dev, self.dev_asked) if dev else None,
            **rest,
        )
        if arguments.torch_compile:  # once for all lengths, instead of for the first and then for all others
            self.accelerator.state.dynamo_plugin.dynamic = True
        self.model_accepts_loss_kwargs = False  # our losses are means, so Trainer must divide by accumulated batches
        self.finite = FiniteLoss(lambda ids: texts_of(ids, runner, train))
        self.add_callback(self.finite)  # behind those that ask for checkpoints

    def get_train_dataloader(self) -> Any:
        """Return the batches of this process, in the order of `EpochBatches`."""
        rows: Any = self.train_dataset
        batches = EpochBatches(
            self.args.train_batch_size,
            rows,
            seed=self.args.seed,
            processes=self.args.world_size,
            process=self.args.process_index,
        )
        return EpochLoader(rows, batches, collate_fn=self._collate, pin_memory=self.args.dataloader_pin_memory)

    def _collate(self, items: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Return the tensors of one batch, with the number of each window's row where a teacher is asked about it."""
        batch = self.target.batch(items, self.runner.inputs, self.runner.pad_token_id)
        if self.teacher:
            batch["rows"] = torch.tensor([item["row"] for item in items for _ in item["windows"]])
        return batch

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the optimizer, with the groups of weights that the settings ask for."""
        if self.optimizer is None:
            config, model = self.target.config, model or self.model
            decayed = set(self.get_decay_parameter_names(model))
            self.optimizer: Any = optimizer_for(config.optim, self.args, model, decayed, config.layer_lr_decay)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Return the schedule of the learning rate, by steps and by the clock where there is a deadline."""
        if self.lr_scheduler is None:
            config, warmup = self.target.config, self.args.get_warmup_steps(num_training_steps)
            timed = any(isinstance(one, Deadline) for one in self.callback_handler.callbacks)
            self.lr_scheduler: Any = schedule_for(
                config.lr_scheduler_type,
                optimizer or self.optimizer,
                warmup=warmup,
                steps=num_training_steps,
                cycles=config.lr_num_cycles,
                power=config.lr_power,
                progress=self._progress if timed else None,
            )
            if config.lr_scheduler_type == PLATEAU:
                self.add_callback(WarmUp(warmup))
        return self.lr_scheduler

    def _progress(self) -> float:
        """Return the share of the time that is over; a resumed run has another callback than it was made with."""
        return max(one.progress for one in self.callback_handler.callbacks if isinstance(one, Deadline))

    def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any) -> torch.Tensor:
        """Return the loss of one batch, with its gradients added; dropout on a CPU is the fast one.

        Where that is set, the batch is learned from a second time, with word vectors moved to where it hurts most.
        """
        ids = inputs["input_ids"]
        self.speed.add(inputs["attention_mask"])
        inputs = {**inputs, "input_ids": self._with_holes(ids)}
        rounding = self.quantize.learning(inputs["attention_mask"]) if self.quantize else contextlib.nullcontext()
        epsilon = self.target.config.adversarial_epsilon
        words = self.accelerator.unwrap_model(model).get_input_embeddings().weight
        twice = epsilon > 0 and words.requires_grad  # which is not yet so where layers are freed one by one
        others = words.grad.clone() if twice and words.grad is not None else None  # batches of the same step
        with self._dropout(), rounding:
            loss = super().training_step(model, dict(inputs), *rest)
            if twice:
                with moved(words, words.grad if others is None else words.grad - others, epsilon):
                    super().training_step(model, dict(inputs), *rest)
        self.finite.watch(self.state.global_step + 1, "loss", loss, ids)
        return loss

    def _dropout(self) -> contextlib.AbstractContextManager[Any]:
        """Return the faster dropout; what is computed twice must drop the same, and is not seen by it again.

        What is compiled has a dropout of its own, and is cut in pieces by ours.
        """
        config = self.target.config
        return contextlib.nullcontext() if config.gradient_checkpointing or config.torch_compile else FastDropout()

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
        """Return the loss of one batch, and the model's outputs where they are asked for."""
        labels, rows = inputs.pop("labels"), inputs.pop("rows", None)
        config, target = self.target.config, self.target
        step = self.state.global_step if model.training else None
        loss, outputs = target.learn(model, inputs, labels, step)
        if model.training and isinstance(target, Supervised):
            if self.teacher:
                taught = self.teacher.loss(target, outputs, labels, inputs, rows)
                loss = (1 - config.distill_alpha) * loss + config.distill_alpha * taught
            if config.rdrop_alpha:  # another dropout must give the same scores (Liang et al., 2021, arXiv:2106.14448)
                again, others = target.learn(model, inputs, labels, step)
                both = ((outputs, others), (others, outputs))
                apart = sum(target.apart(one, other, labels, inputs, 1.0) for one, other in both)
                loss = (loss + again) / 2 + config.rdrop_alpha * apart / 2
        if model.training and self.args.world_size > 1:
            loss = loss * self._share(labels)
        return (loss, outputs) if return_outputs else loss

    def _share(self, labels: torch.Tensor) -> torch.Tensor:
        """Return how often the mean of all processes this one has labels; else the losses of all would count alike."""
        own = (labels != IGNORED).sum().float()
        mean: torch.Tensor = self.accelerator.reduce(own, "mean")
        return own / mean.clamp(min=1e-6)

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Return loss and scores on the dev rows, as a user's rows are answered, in the precision of training."""
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.dev_scores().items()}
        self.log(metrics)
        self.control: transformers.TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def dev_scores(self) -> dict[str, float]:
        """Return what `evaluate` does, by plain names, and tell nobody."""
        self.model.eval()
        averaged = self.average.in_place() if self.average else contextlib.nullcontext()
        rounding = self.quantize.answering() if self.quantize else contextlib.nullcontext()
        with averaged, rounding, torch.no_grad(), self.autocast_smart_context_manager():
            answers = self.target.answered(self.runner, self.dev_asked, self.dev)
            losses = [self._loss(batch) for batch in self._batches(self.eval_dataset)]
        scores = self.runner.task.score([example.right for example in self.dev], answers, self.runner.reading)
        return {"loss": float(np.mean(losses)), **{k: v for k, v in scores.items() if isinstance(v, float)}}

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Write the weights into a folder of Trainer's, and beside them their average and ranges."""
        super()._save(output_dir, state_dict)
        for part in self._kept:
            part.save(output_dir or self.args.output_dir)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Take the weights of a folder of Trainer's, and what was kept beside them."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        for part in self._kept:
            part.load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        """Take the weights of the best epoch, and what was kept beside them."""
        super()._load_best_model()
        for part in self._kept:
            part.load(str(self.state.best_model_checkpoint))

    def _loss(self, items: Sequence[Mapping[str, Any]]) -> float:
        batch = self._prepare_inputs(self.data_collator(list(items)))
        return float(self.compute_loss(self.model, batch))

    def _batches(self, items: Any) -> list[list[Any]]:
        plan = batching.plan([len(item["input_ids"]) for item in items], self.runner.max_batch_tokens)
        return [[items[i] for i in indices] for indices in plan]

    def draw_together(self, steps: int, rate: float) -> None:
        """Train the encoder so that rows of one label have like vectors; see `burnish_train.methods.contrast`."""
        items: Any = self.train_dataset
        rows = [item for item in items if item["value"] != IGNORED]

        def vectors_of(numbers: list[int]) -> torch.Tensor:
            lengths = [len(rows[number]["input_ids"]) for number in numbers]
            plan = batching.plan(lengths, TOGETHER_TOKENS)  # rows of one label are of all lengths
            with self._dropout(), self.autocast_smart_context_manager(), probe.Inputs(self.model.classifier) as seen:
                for places in plan:
                    batch = self._prepare_inputs(self.data_collator([rows[numbers[place]] for place in places]))
                    self.model(**{name: batch[name] for name in self.runner.inputs})
            order = torch.tensor([place for places in plan for place in places])
            return torch.cat(seen)[order.argsort()]

        labels = [item["value"] for item in rows]
        contrast.draw_together(self.model, vectors_of, labels, steps=steps, rate=rate, seed=self.args.seed)

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
        inputs = {name: batch[name] for name in self.runner.inputs}
        with torch.no_grad(), self.autocast_smart_context_manager(), probe.Inputs(self.model.classifier) as seen:
            self.model(**inputs)
        return target.known(seen[0], labels)
