"""What a student learns from besides labels: the scores of a teacher, or of several, and what one thinks on the way.

Scores for a whole text are computed once, before the first step, by each teacher's own runner: so teachers may be of
any architecture and read other tokens (Hinton et al., 2015, arXiv:1503.02531). Where scores are by token, or a student
looks at vectors and attention too (Jiao et al., 2020, arXiv:1909.10351), the teacher reads each batch beside it and
must have the same tokens, if by other numbers: a student with a trimmed vocabulary reads its rows in the same pieces.

>>> teacher = Teacher(["runs/large"], target, runner, train, config)  # doctest: +SKIP
>>> loss = teacher.loss(target, outputs, labels, inputs, rows, seen)  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers.utils import ModelOutput

from burnish_serve.errors import InputError
from burnish_serve.runner import Runner, windows
from burnish_train import checkpoint, processes
from burnish_train.config import TrainConfig
from burnish_train.data import Example
from burnish_train.methods.depth import encoder_of, layers_of
from burnish_train.targets import OfRow, Supervised, Target

TOGETHER = 4096
"""Texts whose pieces are compared at a time."""


class Teacher:
    """One or several checkpoints that a student learns from.

    Args:
        target: what the student learns.
        runner: of the student.
        model: the student.
        train: the rows to learn from.
        config: which teachers, and what of them counts how much.

    Raises:
        InputError: a teacher answers something else, or has other tokens where the same are needed.
    """

    def __init__(
        self, target: Target, runner: Runner, model: Any, train: Sequence[Example], config: TrainConfig
    ) -> None:
        folders = [Path(folder) for folder in config.teacher]
        for folder in folders:
            check(folder, runner.task.name, runner.labels)
        self._config = config
        self._inner = bool(config.distill_hidden or config.distill_attention)
        self._scores: torch.Tensor | None = None
        self._models: list[Any] = []
        self._numbers: list[torch.Tensor] = []
        if isinstance(target, OfRow):
            texts = [example.asked for example in train]
            threads = processes.num_threads()
            each = [checkpoint.load(folder, device=model.device.type, threads=threads) for folder in folders]
            outputs = [np.asarray(one.outputs(one.examine(texts)), dtype=np.float32) for one in each]
            self._scores = torch.from_numpy(np.mean(outputs, axis=0))
        if self._inner or self._scores is None:
            self._numbers = [_numbers(folder, runner, train).to(model.device) for folder in folders]
            self._models = [checkpoint.load_model(folder).to(model.device) for folder in folders]
            for one in self._models:
                one.requires_grad_(False)
                one.set_attn_implementation("eager")
        self._seen = (Seen(model), Seen(self._models[0])) if self._inner else None
        if self._seen:
            widths = [encoder_of(one).config.hidden_size for one in (model, self._models[0])]
            if config.distill_hidden and widths[0] != widths[1]:
                raise InputError(
                    f"distill_hidden compares vectors of one width; the teacher's have {widths[1]} elements and the "
                    f"student's {widths[0]}"
                )

    def loss(
        self,
        target: Supervised,
        outputs: Any,
        labels: torch.Tensor,
        inputs: Mapping[str, torch.Tensor],
        rows: torch.Tensor,
    ) -> torch.Tensor:
        """Return how far a student's outputs of one batch, and what it thought on the way, are from the teacher's.

        Args:
            target: what the student learns.
            outputs: the student's, just computed.
            labels: of the batch.
            inputs: int64 ``[windows, length]`` each.
            rows: number of each window's row among the rows to learn from ``[windows]``.
        """
        config = self._config
        ours = self._seen[0].take() if self._seen else None
        with torch.no_grad():
            found = [
                model.eval()(**{**inputs, "input_ids": numbers[inputs["input_ids"]]})
                for model, numbers in zip(self._models, self._numbers, strict=True)
            ]
        if self._scores is not None:
            wanted: Any = ModelOutput(logits=self._scores[rows.cpu()].to(outputs.logits.device))
        else:
            names = [name for name in found[0] if name.endswith("logits")]
            wanted = ModelOutput({name: torch.stack([one[name].float() for one in found]).mean(0) for name in names})
        loss = target.apart(outputs, wanted, labels, inputs, config.distill_temperature)
        if ours and self._seen:
            hidden, attention = inner_distances(ours, self._seen[1].take(), inputs["attention_mask"])
            loss = loss + config.distill_hidden * hidden + config.distill_attention * attention
        return loss


class Seen:
    """The vectors that leave each layer of a model's encoder, and its attention, of the batch that it read last.

    Args:
        model: the model, which computes attention eagerly.
    """

    def __init__(self, model: Any) -> None:
        self._vectors: list[torch.Tensor] = []
        self._attention: list[torch.Tensor] = []
        layers_of(model)[0].register_forward_pre_hook(lambda *_: self._forget())
        for layer in layers_of(model):
            layer.register_forward_hook(lambda _, __, output: self._vectors.append(_first(output)))
            for module in layer.modules():
                if module is not layer and "Attention" in type(module).__name__:
                    module.register_forward_hook(self._see)

    def _see(self, module: Any, given: Any, output: Any) -> None:
        """Keep the scores of attention ``[rows, heads, length, length]`` that a module gives beside its vectors."""
        scores = output[1] if isinstance(output, tuple) and len(output) > 1 else None
        given_on = bool(self._attention) and self._attention[-1] is scores  # by an outer module
        if getattr(scores, "ndim", 0) == 4 and not given_on:
            self._attention.append(scores)

    def _forget(self) -> None:
        self._vectors, self._attention = [], []

    def take(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return (vectors, attention), a tensor for each layer, and forget them."""
        found = self._vectors, self._attention
        self._forget()
        return found


def inner_distances(
    ours: tuple[list[torch.Tensor], list[torch.Tensor]],
    theirs: tuple[list[torch.Tensor], list[torch.Tensor]],
    mask: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean squared distances of vectors, and of attention averaged over heads, of the layers that go together.

    The student's layer i of n goes with the teacher's layer ``i * m / n`` of m, the last with the last.
    """
    real = mask.bool()
    zero = mask.new_zeros((), dtype=torch.float32)
    hidden = attention = zero
    for number, vectors in enumerate(ours[0], 1):
        other = theirs[0][round(number * len(theirs[0]) / len(ours[0])) - 1]
        hidden = hidden + torch.nn.functional.mse_loss(vectors[real].float(), other[real].float()) / len(ours[0])
    for number, scores in enumerate(ours[1], 1):
        other = theirs[1][round(number * len(theirs[1]) / len(ours[1])) - 1]
        distance = (scores.float().mean(1) - other.float().mean(1))[real].square().sum(-1).mean()
        attention = attention + distance / len(ours[1])
    return hidden, attention


def _first(output: Any) -> torch.Tensor:
    found: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return found


def check(folder: Path, task: str, labels: Sequence[str]) -> None:
    """Refuse a teacher of another task or with other labels."""
    record = checkpoint.read_record(folder)
    if record["task"] != task:
        raise InputError(f"the teacher {folder} was trained for {record['task']}, not {task}")
    if list(record["labels"]) != list(labels):
        other = sorted(set(record["labels"]) ^ set(labels))
        shown = ", ".join(map(repr, other[:5])) or "their order"
        raise InputError(f"the teacher {folder} has other labels than the rows: {shown}")


def _numbers(folder: Path, runner: Runner, train: Sequence[Example]) -> torch.Tensor:
    """Return the teacher's number of each of the student's tokens ``[tokens]``.

    Raises:
        InputError: the teacher has not all of them, or reads the rows in other pieces.
    """
    ours, theirs = runner.encoder.tokenizer, Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.no_padding()
    theirs.no_truncation()
    if ours.truncation:
        theirs.enable_truncation(**ours.truncation)
    known, own = theirs.get_vocab(), ours.get_vocab()
    texts = [text for example in train for text in example.texts] if known != own else []
    if not set(own) <= set(known) or any(
        one.tokens != other.tokens
        for some in windows(texts, TOGETHER)
        for one, other in zip(ours.encode_batch(some), theirs.encode_batch(some), strict=True)
    ):
        raise InputError(
            f"the teacher {folder} has another tokenizer; scores by token, distill_hidden and distill_attention need "
            "the same, or a student whose --trim-vocabulary is of these rows"
        )
    numbers = torch.arange(max(own.values()) + 1)
    for token, number in own.items():
        numbers[number] = known[token]
    return numbers
