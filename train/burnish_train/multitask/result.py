"""The end of a run of several tasks: a checkpoint of each, in one folder that is renamed when it is whole.

>>> record = write_results(config, work, trainer, started, {})  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from burnish_serve.config import to_dict
from burnish_serve.writing import write_text
from burnish_train import curve
from burnish_train.multitask.config import MultitaskConfig
from burnish_train.multitask.trainer import MEAN_SCORE, MultitaskTrainer
from burnish_train.result import write_result

RECORD = "multitask.json"


def write_results(
    config: MultitaskConfig, work: Path, trainer: MultitaskTrainer, started: float, own: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the checkpoint of each task and what they have in common, and rename the folder to its place.

    Args:
        config: the settings.
        work: folder of the run.
        trainer: has the weights, and how they came to be.
        started: when the run would have begun in one go, by ``time.perf_counter``.
        own: what each ``burnish.json`` says besides.

    Returns:
        The contents of ``multitask.json``.
    """
    whole, scratch = work / "whole", work / "scratch"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    history = trainer.state.log_history
    histories = [trainer.history_of(part) for part in trainer.parts]
    tasks: dict[str, Any] = {
        part.name: {"task": part.runner.task.name, "weight": part.weight, "rows": len(part.splits.train)}
        for part in trainer.parts
    }
    common = {"trained_with": tasks, **to_dict(config.mix)}
    metrics = {}
    for number, part in enumerate(trainer.parts):
        settings = config.tasks[part.name]
        place = dataclasses.replace(settings, out=whole / part.name)
        scratch.mkdir(exist_ok=True)
        trainer.state.log_history = histories[number]
        said = {**own, "settings": to_dict(settings), "multitask": common}
        with trainer.on(number):
            record = write_result(place, scratch, part.splits, trainer, part.tokenizer, started, said)
        metrics[part.name] = record["metrics"]
    told: dict[str, Any] = {
        "tasks": {name: {**about, "metrics": metrics[name]} for name, about in tasks.items()},
        **to_dict(config.mix),
        MEAN_SCORE: trainer.state.best_metric,
        "steps": trainer.state.global_step,
        "best_step": trainer.state.best_global_step or trainer.state.global_step,
        "curve": curve.points(history),
        "seconds": round(time.perf_counter() - started, 1),
    }
    write_text(whole / RECORD, json.dumps(told, indent=1, ensure_ascii=False) + "\n")
    if config.out.exists():
        shutil.rmtree(config.out)
    whole.rename(config.out)
    shutil.rmtree(work)
    return told
