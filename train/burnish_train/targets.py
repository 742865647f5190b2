"""What each task learns from: labels as tensors, the loss, and what is fitted on dev rows afterwards.

>>> target = target_for(task, config, labels)  # doctest: +SKIP
>>> target.loss(outputs, target.stack([0, 3], 12), inputs)  # doctest: +SKIP
"""

from __future__ import annotations

import abc
import collections
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from burnish_serve.batching import Ids
from burnish_serve.runner import Runner, model_inputs
from burnish_serve.tasks import Answer, Asked, Decoding, Encoded, Outputs, Task
from burnish_serve.tasks.pooling import mean
from burnish_train import fitting, losses
from burnish_train.config import TrainConfig
from burnish_train.data import Example


class Target(abc.ABC):
    """What a task learns from; one class for each kind, by the task's name in `burnish_train.kinds`.

    Args:
        task: what is asked.
        config: the settings.
        labels: names of the logits.
        train: the rows to learn from, for what is counted on them.
    """

    def __init__(self, task: Task, config: TrainConfig, labels: Sequence[str], train: Sequence[Example]) -> None:
        self.task = task
        self.config = config
        self.labels = list(labels)
        self.numbers = {label: number for number, label in enumerate(labels)}

    @classmethod
    def labels_of(cls, names: Sequence[str], config: TrainConfig) -> tuple[str, ...]:
        """Return the names of the logits for the sorted names that stand in the train rows."""
        return tuple(names)

    def meet(self, runner: Runner) -> None:  # noqa: B027  # most targets need nothing of it
        """Learn what a runner knows of tokenizer and model, before the first rows come."""

    @abc.abstractmethod
    def items(self, examples: Sequence[Example], asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """Return what a step learns from: windows that belong together, what is right, and ids to sort by length."""

    @abc.abstractmethod
    def learn(
        self, model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor, step: int | None
    ) -> tuple[torch.Tensor, Any]:
        """Return the loss of one batch, and the model's outputs.

        Args:
            model: the model.
            inputs: int64 ``[windows, length]`` each.
            labels: from `stack`.
            step: of the run; None where nothing is learned and only the loss is asked for.
        """

    def batch(
        self, items: Sequence[Mapping[str, Any]], inputs: Sequence[str], pad_token_id: int
    ) -> dict[str, torch.Tensor]:
        """Return the tensors of one step: int64 ``[windows, longest]`` for each input, and ``labels``."""
        windows = [window for item in items for window in item["windows"]]
        arrays: dict[str, Ids] = model_inputs(windows, inputs, pad_token_id)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        length = tensors["input_ids"].shape[1]
        return {**tensors, "labels": self.stack([item["value"] for item in items], length)}

    def stack(self, values: Sequence[Any], length: int) -> torch.Tensor:
        """Return what is right for a batch of items, padded to so many tokens where it is by token."""
        return torch.tensor(values)

    def answered(self, runner: Runner, asked: Sequence[Asked], examples: Sequence[Example]) -> list[Answer]:
        """Return the answers to dev rows, read with what is fitted on them; the runner reads with it from then on."""
        return self.read(runner, asked, examples)[0]

    def read(
        self, runner: Runner, asked: Sequence[Asked], examples: Sequence[Example]
    ) -> tuple[list[Answer], Outputs | None]:
        """Return what `answered` does, and the outputs that were read; None where these are too wide to be kept."""
        if self.task.keep is not None:  # and nothing to fit
            return runner.answers(asked), None
        outputs = runner.outputs(asked)
        runner.reading = runner.reading.with_decoding(self.fit(asked, outputs, examples))
        return runner.decode(asked, outputs), outputs

    def fit(self, asked: Sequence[Asked], outputs: Outputs, examples: Sequence[Example]) -> Decoding:
        """Return what turns outputs into answers best, on dev rows."""
        return Decoding()


class Supervised(Target):
    """What each window should give, and how far from it a model is."""

    probe_rows = 0
    """How many rows a new head is started from by a linear probe."""

    def items(self, examples: Sequence[Example], asked: Sequence[Asked]) -> list[dict[str, Any]]:
        """Return what a step learns from: windows that belong together, what is right, and ids to sort by length."""
        return [
            {**item(windows, value), "row": number}
            for number, (example, row) in enumerate(zip(examples, asked, strict=True))
            for windows, value in zip(self.together(row), self.values(example, row), strict=True)
            if value is not None
        ]

    @abc.abstractmethod
    def values(self, example: Example, asked: Asked) -> list[Any]:
        """Return what is right for each window of a row; None for windows that nothing can be learned from."""

    def together(self, asked: Asked) -> list[tuple[Encoded, ...]]:
        """Return the windows of a row that make one item each."""
        return [(window,) for window in asked.windows]

    def learn(
        self, model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor, step: int | None
    ) -> tuple[torch.Tensor, Any]:
        """Return the loss of the model's outputs, and these; see `Target.learn`."""
        outputs = model(**inputs)
        return self.loss(outputs, labels, inputs), outputs

    @abc.abstractmethod
    def loss(self, outputs: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean loss of a model's outputs."""

    def apart(
        self, outputs: Any, others: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor], temperature: float
    ) -> torch.Tensor:
        """Return how far a model's outputs are from others': a teacher's, or its own under another dropout."""
        return losses.softmax_divergence(outputs.logits, others.logits, temperature)

    def known(self, vectors: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors ``[n, width]`` and labels ``[n, …]`` of all that counts in a batch, for a linear probe."""
        return vectors, labels


class OfRow(Supervised):
    """What is right for a row is right for each of its windows."""

    probe_rows = 10_000

    def values(self, example: Example, asked: Asked) -> list[Any]:
        """Return the row's own for each window."""
        return [self.value(example)] * len(asked.windows)

    @abc.abstractmethod
    def value(self, example: Example) -> Any:
        """Return what is right for a row."""


class Classes(OfRow):
    """One label out of several."""

    def __init__(self, task: Task, config: TrainConfig, labels: Sequence[str], train: Sequence[Example]) -> None:
        super().__init__(task, config, labels, train)
        counts = collections.Counter(example.right for example in train)
        self.weights = losses.class_weights([counts[label] for label in labels], len(train), config.class_weights)

    def value(self, example: Example) -> int | None:
        """Return the number of the label; None for the one for rejection where train has no row of it."""
        return losses.IGNORED if example.right is None else self.numbers.get(example.right)

    def loss(self, outputs: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the cross-entropy of logits ``[rows, labels]``."""
        config = self.config
        return losses.cross_entropy(
            outputs.logits, labels, config.label_smoothing_factor, self.weights, config.focal_gamma
        )

    def known(self, vectors: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return vectors ``[rows, width]`` and labels ``[rows]`` of the rows that have one."""
        labelled = labels != losses.IGNORED
        return vectors[labelled], labels[labelled]

    def fit(self, asked: Sequence[Asked], outputs: Outputs, examples: Sequence[Example]) -> Decoding:
        """Return temperature and limit of the reject option, where a label for it is given."""
        label = self.config.reject_label
        if not label or not len(asked):
            return Decoding(reject_label=label)
        logits = np.asarray(outputs, dtype=np.float32)
        right = np.array([self.numbers.get(example.right, -1) for example in examples])
        outside, known = self.numbers.get(label, -1), right >= 0
        if not known.any():
            return Decoding(reject_label=label)
        temperature = fitting.temperature(logits[known], right[known])
        below = fitting.reject_below(logits / np.float32(temperature), right, outside, self.config.reject_max_drop)
        return Decoding(temperature=temperature, reject_label=label, reject_below=below)


class Several(OfRow):
    """Any number of labels."""

    def __init__(self, task: Task, config: TrainConfig, labels: Sequence[str], train: Sequence[Example]) -> None:
        super().__init__(task, config, labels, train)
        counts = collections.Counter(label for example in train for label in example.right)
        self.weights = losses.positive_weights([counts[label] for label in labels], len(train), config.class_weights)

    def value(self, example: Example) -> list[float]:
        """Return 1 for each label that the row has."""
        return [float(label in example.right) for label in self.labels]

    def loss(self, outputs: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the binary cross-entropy of logits ``[rows, labels]``."""
        config = self.config
        return losses.binary_cross_entropy(
            outputs.logits, labels, config.label_smoothing_factor, self.weights, config.focal_gamma
        )

    def apart(
        self, outputs: Any, others: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor], temperature: float
    ) -> torch.Tensor:
        """Return the divergence of each label's score from the others'."""
        return losses.sigmoid_divergence(outputs.logits, others.logits, temperature)

    def fit(self, asked: Sequence[Asked], outputs: Outputs, examples: Sequence[Example]) -> Decoding:
        """Return each label's threshold."""
        right = np.array([self.value(example) for example in examples]).reshape(len(examples), len(self.labels)) > 0
        return Decoding(thresholds=fitting.thresholds(np.asarray(outputs), right, self.labels))


class Number(OfRow):
    """A number."""

    def __init__(self, task: Task, config: TrainConfig, labels: Sequence[str], train: Sequence[Example]) -> None:
        super().__init__(task, config, labels, train)
        numbers = [float(example.right) for example in train]
        self.range = (min(numbers), max(numbers))

    @classmethod
    def labels_of(cls, names: Sequence[str], config: TrainConfig) -> tuple[str, ...]:
        """Return the one name."""
        return ("score",)

    def value(self, example: Example) -> float:
        """Return the number."""
        return float(example.right)

    def loss(self, outputs: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean squared error of logits ``[rows, 1]``."""
        return losses.mean_squared_error(outputs.logits[:, 0], labels)

    def apart(
        self, outputs: Any, others: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor], temperature: float
    ) -> torch.Tensor:
        """Return the mean squared distance of the numbers from the others'."""
        return losses.mean_squared_error(outputs.logits, others.logits.float())

    def fit(self, asked: Sequence[Asked], outputs: Outputs, examples: Sequence[Example]) -> Decoding:
        """Return the range of the train rows."""
        return Decoding(score_range=self.range)


class Similarity(Number):
    """Two vectors that are as near as a number says."""

    @classmethod
    def labels_of(cls, names: Sequence[str], config: TrainConfig) -> tuple[str, ...]:
        """Return none: a vector has no labels."""
        return ()

    def values(self, example: Example, asked: Asked) -> list[Any]:
        """Return the one number of a pair."""
        return [self.value(example)]

    def together(self, asked: Asked) -> list[tuple[Encoded, ...]]:
        """Return the first window of each text of a pair, as one item."""
        first = {window.part: window for window in reversed(asked.windows)}
        return [(first[0], first[1])]

    def value(self, example: Example) -> float:
        """Return the number as a share of the range of the train rows: what the cosine should be."""
        low, high = self.range
        return (float(example.right) - low) / ((high - low) or 1.0)

    def loss(self, outputs: Any, labels: torch.Tensor, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Return the mean squared error of the cosines of pairs (Reimers and Gurevych, 2019, arXiv:1908.10084).

        Their token vectors ``[2 * pairs, length, width]`` stand two by two.
        """
        vectors = mean(outputs.last_hidden_state.float(), inputs["attention_mask"])
        cosines = torch.nn.functional.cosine_similarity(vectors[0::2], vectors[1::2])
        return losses.mean_squared_error(cosines, labels)


def item(windows: tuple[Encoded, ...], value: Any) -> dict[str, Any]:
    """Return one item of a step."""
    longest = max(windows, key=lambda window: len(window.ids))
    return {"windows": windows, "value": value, "input_ids": longest.ids}
