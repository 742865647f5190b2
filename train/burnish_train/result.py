"""The end of a run: the chosen weights scored, the checkpoint written beside its name and renamed when it is whole.

>>> record = write_result(config, work, splits, trainer, tokenizer, started, {})  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from burnish_serve import machine
from burnish_serve.config import to_dict
from burnish_train import checkpoint, curve
from burnish_train.config import TrainConfig
from burnish_train.data import Splits
from burnish_train.insight import report
from burnish_train.insight.answered import Answered
from burnish_train.trainer import TaskTrainer


def write_result(
    config: TrainConfig,
    work: Path,
    splits: Splits,
    trainer: TaskTrainer,
    tokenizer: Any,
    started: float,
    own: Mapping[str, Any],
) -> dict[str, Any]:
    """Score the chosen weights in float32, write the checkpoint and rename it to its place.

    Args:
        config: the settings.
        work: folder of the run.
        splits: its rows.
        trainer: has the weights, and how they came to be.
        tokenizer: transformers' tokenizer.
        started: when the run would have begun in one go, by ``time.perf_counter``.
        own: what ``burnish.json`` says besides or otherwise.

    Returns:
        The contents of ``burnish.json``.
    """
    final = work / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    runner, task = trainer.runner, trainer.runner.task
    trainer.model.eval()
    dev = Answered.of(trainer.target, runner, trainer.dev_asked, splits.dev, splits.train)  # fits the decoding first
    metrics = {"dev": dev.metrics} if splits.dev else {}
    if splits.test:
        answers = runner.answers(runner.examine([example.asked for example in splits.test]))
        metrics["test"] = task.score([row.right for row in splits.test], answers, runner.reading)
    points = curve.points(trainer.state.log_history)
    record: dict[str, Any] = {
        "task": config.task,
        "labels": list(runner.labels),
        "max_length": runner.encoder.max_length,
        "stride": runner.encoder.stride,
        "pooling": config.pooling,
        "pooling_tokens": getattr(trainer.model, "tokens", {}),
        "decoding": dataclasses.asdict(runner.reading.decoding),
        "base_model": config.model,
        "settings": to_dict(config),
        "data": splits.sources,
        "warnings": list(splits.warnings),
        "seed": config.seed,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step or trainer.state.global_step,
        "precision": next((name for name in ("bf16", "fp16") if getattr(trainer.args, name)), "fp32"),
        "metrics": metrics,
        "curve": points,
        "machine": machine.description(),
        "versions": {name: machine.version(name) for name in ("burnish", "torch", "transformers", "accelerate")},
    }
    record |= own
    record["seconds"] = round(time.perf_counter() - started, 1)
    curve.draw(points, final / "curve.png", task.metric)
    report.write(final / "report.html", record, dev)
    sample = np.random.default_rng(config.seed).permutation(len(splits.train))[: checkpoint.CALIBRATION_ROWS]
    rows = {"dev.jsonl": splits.dev, "calibration.jsonl": [splits.train[i] for i in sorted(sample)]}
    as_rows = {name: [row.as_row(task) for row in some] for name, some in rows.items()}
    checkpoint.write(final, tokenizer, trainer.model, record, as_rows)
    if config.out.exists():
        shutil.rmtree(config.out)
    final.rename(config.out)
    shutil.rmtree(work)
    return record
