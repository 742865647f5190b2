"""``burnish train-multitask``: the recipe, the flags that all tasks share, and what is told at the end.

The module is light; PyTorch is imported when the work begins.
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import click

from burnish_serve.cli.verb import Report, verb
from burnish_serve.config import flags
from burnish_train import processes
from burnish_train.config import TrainConfig
from burnish_train.multitask.config import OF_TASK, WITHOUT, MixConfig, read_recipe


@click.command(short_help="train one encoder on several tasks; writes checkpoints")
@click.argument("recipe", type=click.Path(path_type=Path), metavar="RECIPE.toml")
@flags(MixConfig)
@flags(TrainConfig, without=(*OF_TASK, *WITHOUT))
@click.option("--resume", is_flag=True, help="go on with the unfinished run of the same --out")
@click.option("--overwrite", is_flag=True, help="replace what stands at --out")
@verb(extra="train")
def train_multitask(recipe: Path, resume: bool, overwrite: bool, **given: Any) -> Report:
    """Train one encoder on several tasks at once, each with a head of its own, and write a checkpoint of each.

    The recipe has a table [[tasks]] for each task: its name, its rows, and what concerns its head. All else stands
    above the tables, or is a flag. OUT/NAME is a checkpoint as any other.
    """
    processes.hush()
    config = read_recipe(recipe, **given)
    from burnish_train.multitask.fit import train_multitask as run

    log = functools.partial(click.echo, file=sys.stderr)
    record = run(config, resume=resume, overwrite=overwrite, log=log)
    found = record["tasks"]
    lines = [f"{len(found)} checkpoints written to {config.out} ({record['steps']} steps in {record['seconds']:.0f} s)"]
    for name, about in found.items():
        for split, metrics in about["metrics"].items():
            told = ", ".join(f"{metric} {value:.4f}" for metric, value in metrics.items() if isinstance(value, float))
            lines.append(f"{name}, {split}: {told}")
    lines += [f"next: burnish export {config.out / name} --out {config.out / name}-bundle" for name in found]
    return Report({"out": str(config.out), **record}, "\n".join(lines))
