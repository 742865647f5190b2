"""``burnish search``: the recipe, the flags, and what is told at the end.

The module is light; optuna and PyTorch are imported when the work begins.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import click

from burnish_serve.cli.verb import Report, verb
from burnish_serve.config import configure, flags
from burnish_train.choose.config import SHARED, SearchConfig
from burnish_train.config import TrainConfig, read_recipe


@click.command(short_help="try settings of training; writes the best as a recipe")
@click.argument("recipe", required=False, type=click.Path(path_type=Path), metavar="[RECIPE.toml]")
@flags(TrainConfig, without=[field.name for field in dataclasses.fields(TrainConfig) if field.name not in SHARED])
@flags(SearchConfig)
@click.option("--resume", is_flag=True, help="go on with the search in the same --out, also with more --trials")
@click.option("--overwrite", is_flag=True, help="replace the search that stands at --out")
@verb(extra="train")
def search(recipe: Path | None, resume: bool, overwrite: bool, **given: Any) -> Report:
    """Try settings of `burnish train`, score each on the same dev rows, and write the best.

    The recipe's table [search] says what is tried; without one it is learning rate, epochs, batch size, warm-up and
    label smoothing. The folder holds the best as a recipe and as a checkpoint, and a table and a picture of all trials.
    """
    own = {field.name: given.pop(field.name) for field in dataclasses.fields(SearchConfig)}
    settings = configure(SearchConfig, {}, **own)
    config = read_recipe(recipe, **given)
    from burnish_train.choose.results import table
    from burnish_train.choose.search import search as run
    from burnish_train.choose.space import read_table

    found = run(
        config,
        settings,
        read_table(recipe),
        source=str(recipe or ""),
        resume=resume,
        overwrite=overwrite,
        log=lambda line: click.echo(line, file=sys.stderr),
    )
    lines = [
        table(found["trials"], found["metric"]),
        f"best is trial {found['best']['number']}: recipe {found['recipe']}, checkpoint {found['checkpoint']}",
        f"next: burnish export {found['checkpoint']} --out {found['checkpoint']}-bundle",
    ]
    return Report(found, "\n".join(lines))
