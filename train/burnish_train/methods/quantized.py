"""Learning as int8 will answer: what flows into linear layers, their weights and word vectors are rounded on the way.

Quantization-aware training (Jacob et al., 2018, arXiv:1712.05877). What is rounded is what ``burnish export`` rounds
for static int8: inputs to one of 256 steps between the ends of what was seen, weights with a scale for each output,
word vectors with one for each row. PyTorch's fake quantization does it in float32: gradients pass through it unchanged,
and are zero where a value lies beyond the ends. The model itself keeps its float32 weights and knows nothing of it.

A layer has one range here. A bundle has one for each product: where a layer is read several times (ALBERT's, DeBERTa's
with positions), or a head looks at the first token, for which alone export computes the last layer, the two differ, and
what is answered while it learns is near to int8's and not the same.

>>> quantize = QuantizeAware(model, epochs=1.0)  # doctest: +SKIP
>>> with quantize.answering():  # doctest: +SKIP
...     score(model)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import embedding, linear
from torch.overrides import TorchFunctionMode

from burnish_train import processes

FILE = "ranges.safetensors"
PACE = 0.01
"""How far the ends of a range move at each step to what was seen in it; as PyTorch's observers do."""
SMALLEST = torch.finfo(torch.float32).tiny
"""A scale that is not zero."""


class QuantizeAware(transformers.TrainerCallback):
    """The ranges of a model's int8, followed from the first step on, and the epochs that are learned through them.

    Dev rows are answered through them after each epoch, also before those epochs, so that all scores compare. The
    ranges stay as they are within a step, so whatever is computed again in it is the same.

    Args:
        model: the model, on its device and with all its layers.
        epochs: how many epochs at the end are learned so.
    """

    def __init__(self, model: Any, epochs: float) -> None:
        self.words = model.get_input_embeddings().weight
        self.weights = [layer.weight for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
        self.ranges = torch.zeros(len(self.weights), 2, device=self.words.device)
        """How far each layer's inputs reach below and above zero, float32 ``[layers, 2]``; zeros before any was seen"""
        self.seen = torch.zeros_like(self.ranges)
        """The same in this step alone."""
        self._epochs = epochs
        self._begun = False

    def learning(self, attention_mask: torch.Tensor) -> Rounding:
        """Return a context for a batch to learn from: its ranges are seen, and it is rounded where it is time to.

        Args:
            attention_mask: of the batch, ``[rows, length]``; what stands behind it counts for no range.
        """
        return Rounding(self, attention_mask.bool().to(self.ranges.device), rounds=self._begun)

    def answering(self) -> Rounding:
        """Return a context in which the model answers as int8 will, and no range moves."""
        return Rounding(self, None, rounds=True)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to round when it is time, which follows from the epoch alone, so that a resumed run does the same."""
        self._begun = (state.epoch or 0.0) >= args.num_train_epochs - self._epochs - 1e-9

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the ranges to what all processes saw in this step."""
        if processes.count() > 1:
            torch.distributed.all_reduce(self.seen, torch.distributed.ReduceOp.MAX)
        known = self.ranges.any(1, keepdim=True)
        seen = self.seen.any(1, keepdim=True) & self.seen.isfinite().all(1, keepdim=True)  # fp16 overflows now and then
        moved = torch.where(known, self.ranges.lerp(self.seen, PACE), self.seen)
        self.ranges = torch.where(seen, moved, self.ranges)
        self.seen.zero_()

    def save(self, folder: str | Path) -> None:
        """Write the ranges into a folder of Trainer's."""
        save_file({"ranges": self.ranges}, Path(folder) / FILE)

    def load(self, folder: str | Path) -> None:
        """Take the ranges from a folder of Trainer's."""
        self.ranges.copy_(load_file(Path(folder) / FILE)["ranges"])


class Rounding(TorchFunctionMode):
    """Within it, products with a model's weights, and look-ups of its words, are those of int8.

    Args:
        of: the model's ranges.
        real: which tokens of the batch are no padding, ``[rows, length]``; None where ranges are not to be seen.
        rounds: whether to round, besides seeing.
    """

    def __init__(self, of: QuantizeAware, real: torch.Tensor | None, *, rounds: bool) -> None:
        super().__init__()
        self._of = of
        self._real = real
        self._rounds = rounds
        self._places = {id(weight): place for place, weight in enumerate(of.weights)}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of PyTorch, on rounded numbers where int8 rounds them."""
        if func is linear and len(args) > 1 and (place := self._places.get(id(args[1]))) is not None:
            given, weight, *bias = args
            values = self._inputs(place, given)
            return func(values, by_rows(weight) if self._rounds else weight, *bias, **(kwargs or {}))
        found = func(*args, **(kwargs or {}))
        if func is embedding and args[1] is self._of.words and self._rounds:
            return by_rows(found.flatten(0, -2)).view(found.shape)
        return found

    def _inputs(self, place: int, given: torch.Tensor) -> torch.Tensor:
        """Return what flows into a layer ``[…, channels]``, rounded where that is asked for; see its range."""
        values, ranges = given.float(), self._of.ranges[place]
        if self._real is not None:
            reach = reach_of(values, self._real)
            self._of.seen[place] = torch.maximum(self._of.seen[place], reach)
            ranges = torch.where(ranges.any(), ranges, reach)  # the first step has but its own
        return in_bytes(values, ranges) if self._rounds else given


def reach_of(values: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """Return how far values reach below and above zero, float32 ``[2]``, without padding.

    Args:
        values: ``[rows, length, channels]`` of tokens, or ``[rows, channels]`` of texts.
        real: which tokens are no padding, ``[rows, length]``.
    """
    values = values.detach()
    if values.ndim == 3 and values.shape[:2] == real.shape:
        values = values.masked_fill(~real[..., None], 0.0)
    low, high = values.aminmax()
    return torch.stack((-low, high)).clamp(min=0.0)


def in_bytes(values: torch.Tensor, reach: torch.Tensor) -> torch.Tensor:
    """Return values rounded to unsigned bytes of one scale and zero point.

    Args:
        values: float32 of any shape.
        reach: how far below and above zero the bytes shall reach, ``[2]``.
    """
    scale = (reach.sum() / 255).clamp(min=SMALLEST)
    zero = (reach[0] / scale).round().clamp(0, 255).int()
    return torch.fake_quantize_per_tensor_affine(values, scale, zero, 0, 255)


def by_rows(matrix: torch.Tensor) -> torch.Tensor:
    """Return a float32 matrix rounded to signed bytes, with a scale for each row."""
    scale = (matrix.detach().abs().amax(1) / 127).clamp(min=SMALLEST)
    zero = torch.zeros_like(scale, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(matrix, scale, zero, 0, -127, 127)
