"""What Trainer tells while it runs: a bar on standard error with loss and dev score, and checkpoints in between.

>>> trainer.add_callback(StepBar("accuracy", speed))  # doctest: +SKIP
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import transformers
from tqdm import tqdm

from burnish_serve.writing import write_text
from burnish_train.speed import Speed
from burnish_train.work import SECONDS


class StepBar(transformers.TrainerCallback):
    """A progress bar over steps; it vanishes where standard error is no terminal, and the lines per epoch stay.

    Args:
        metric: the score to show after each evaluation.
        speed: how many tokens a second to show beside it.
    """

    def __init__(self, metric: str, speed: Speed) -> None:
        self._metric = metric
        self._speed = speed
        self._bar: Any = None
        self._loss = ""
        self._speaks = True

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Open the bar, where the run goes on from."""
        self._speaks = state.is_world_process_zero
        hidden = not sys.stderr.isatty() or not self._speaks
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", disable=hidden, file=sys.stderr)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Move the bar by one step."""
        self._bar.update(1)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Show the loss."""
        if logs and "loss" in logs:
            self._loss = f"loss {float(logs['loss']):.3f}"
            self._bar.set_postfix_str(self._loss)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        """Say how the dev rows were answered."""
        value = (metrics or {}).get(f"eval_{self._metric}")
        if self._bar is not None and self._speaks and value is not None:
            line = f"epoch {state.epoch:.1f}  step {state.global_step}  {self._loss}  dev {self._metric} {value:.4f}"
            if metrics and (perplexity := metrics.get("eval_perplexity")):
                line += f"  perplexity {perplexity:.2f}"
            if rate := self._speed.tokens_per_second:
                line += f"  {rate:,.0f} tokens/s"
            tqdm.write(line, file=sys.stderr)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self._bar.close()


class KeepSeconds(transformers.TrainerCallback):
    """Writes down with each checkpoint how long the run has taken, for the start that goes on from it.

    Args:
        work: folder of the run.
        started: when the run would have begun in one go, by ``time.perf_counter``.
    """

    def __init__(self, work: Path, started: float) -> None:
        self._path = work / SECONDS
        self._started = started

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write, where a checkpoint was written."""
        if state.is_world_process_zero:
            write_text(self._path, json.dumps(time.perf_counter() - self._started))


class SaveEvery(transformers.TrainerCallback):
    """Saves a checkpoint every so many steps, besides those that each epoch's evaluation makes.

    Args:
        steps: how often; 0 for never.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint where it is due."""
        at_epoch_end = state.epoch % 1 == 0  # saved after its evaluation: a checkpoint before it would lose the score
        if self._steps and state.global_step % self._steps == 0 and not at_epoch_end:
            control.should_save = True
