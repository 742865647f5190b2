"""``burnish cross-validate``: the flags of training and of the folds, and what is told at the end.

The module is light; PyTorch is imported when the work begins.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from burnish_serve.cli.verb import Report, verb
from burnish_serve.config import flags
from burnish_train.choose.crossval_config import WITHOUT, FoldsConfig, read_settings
from burnish_train.config import TrainConfig


@click.command(short_help="score a recipe on folds of its rows")
@click.argument("recipe", required=False, type=click.Path(path_type=Path), metavar="[RECIPE.toml]")
@flags(FoldsConfig)
@flags(TrainConfig, without=WITHOUT)
@click.option("--resume", is_flag=True, help="go on with the unfinished folds of the same --out")
@click.option("--overwrite", is_flag=True, help="replace what stands at --out")
@verb(extra="train")
def cross_validate(recipe: Path | None, resume: bool, overwrite: bool, **given: Any) -> Report:
    """Train on all folds of the rows but one, in turns, and score each model on the rows it has not seen.

    The folder gets cross-validation.json with the scores, and out-of-fold.jsonl with each row's answer.
    """
    config, how = read_settings(recipe, **given)
    from burnish_train.choose.crossval import ROWS
    from burnish_train.choose.crossval import cross_validate as run

    log = functools.partial(click.echo, file=sys.stderr)
    record = run(config, how, resume=resume, overwrite=overwrite, log=log)
    lines = [f"{len(record['folds'])} folds of {record['data']['rows']} rows in {record['seconds']:.0f} s"]
    lines += _told("mean of the folds", record["metrics"])
    pooled = record["out_of_fold"]
    numbers = {name: {"mean": value} for name, value in pooled["metrics"].items() if isinstance(value, float)}
    for name, (low, high) in pooled["intervals"].items():
        numbers[name] |= {"low": low, "high": high}
    lines += _told("all rows at once", numbers)
    next_one = f"burnish audit {config.train} --model {config.model} --out-of-fold {config.out / ROWS}"
    lines += [f"written to {config.out}", f"next: {next_one}"]
    return Report({"out": str(config.out), **record}, "\n".join(lines))


def _told(title: str, metrics: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the lines of a table of metrics; none where there are no metrics."""
    lines = [f"{title}:"] if metrics else []
    for name, found in metrics.items():
        line = f"  {name:<20} {found['mean']:.4f}   95 % interval {found['low']:.4f} to {found['high']:.4f}"
        scatter = f"   standard deviation {found['standard_deviation']:.4f}" if "standard_deviation" in found else ""
        lines.append(line + scatter)
    return lines
