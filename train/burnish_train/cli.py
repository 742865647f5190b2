"""``burnish train``, ``pretrain``, ``soup`` and ``compress``: the recipe, the flags, and what is told at the end.

The module is light; PyTorch is imported when the work begins.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from burnish_serve.cli.options import device_option
from burnish_serve.cli.verb import Report, verb
from burnish_serve.config import configure, flags
from burnish_train import pretrain_config, processes
from burnish_train.compress.config import CompressConfig
from burnish_train.config import TrainConfig, read_recipe
from burnish_train.pretrain_config import PretrainConfig


@click.command(short_help="fine-tune an encoder on labelled rows; writes a checkpoint")
@click.argument("recipe", required=False, type=click.Path(path_type=Path), metavar="[RECIPE.toml]")
@flags(TrainConfig)
@click.option("--resume", is_flag=True, help="go on with the unfinished run of the same --out")
@click.option("--overwrite", is_flag=True, help="replace what stands at --out")
@verb(extra="train")
def train(recipe: Path | None, resume: bool, overwrite: bool, **given: Any) -> Report:
    """Fine-tune a pretrained encoder on labelled rows and write a checkpoint.

    Every key of a recipe is also a flag, and a flag wins. The checkpoint is a Hugging Face folder, with its record in
    burnish.json: settings, data hashes, scores, training curve.
    """
    processes.hush()
    config = read_recipe(recipe, **given)
    from burnish_train.fit import train as run

    record = run(config, resume=resume, overwrite=overwrite, log=lambda line: click.echo(line, file=sys.stderr))
    lines = [f"checkpoint written to {config.out} ({record['steps']} steps in {record['seconds']:.0f} s)"]
    for split, metrics in record["metrics"].items():
        told = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float))
        lines.append(f"{split:>4}: {told}")
    speed = record["speed"]
    if speed["tokens_per_second"]:
        share = f"{speed['share_of_peak']:.0%} of what this machine multiplies at best"
        lines.append(f"{speed['tokens_per_second']:,.0f} tokens/s, {share}")
    lines.append(f"next: burnish export {config.out} --out {config.out}-bundle")
    return Report({"checkpoint": str(config.out), **record}, "\n".join(lines))


@click.command(short_help="make an encoder from nothing but texts")
@click.argument("recipe", required=False, type=click.Path(path_type=Path), metavar="[RECIPE.toml]")
@flags(PretrainConfig)
@click.option("--resume", is_flag=True, help="go on with the unfinished run of the same --out")
@click.option("--overwrite", is_flag=True, help="replace what stands at --out")
@verb(extra="train")
def pretrain(recipe: Path | None, resume: bool, overwrite: bool, **given: Any) -> Report:
    """Train a tokenizer and a small BERT on the texts of row files, by masked words, with no model to begin with.

    Every key of a recipe is also a flag, and a flag wins. The folder is what `burnish train --model` takes.
    """
    processes.hush()
    config = pretrain_config.read_recipe(recipe, **given)
    from burnish_train.pretrain import pretrain as run

    record = run(config, resume=resume, overwrite=overwrite, log=lambda line: click.echo(line, file=sys.stderr))
    lines = [f"encoder written to {config.out} ({record['steps']} steps in {record['seconds']:.0f} s)"]
    for split, metrics in record["metrics"].items():
        lines.append(f"{split:>4}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
    lines.append(f"next: burnish train --model {config.out} --train ROWS --out RUN")
    return Report({"checkpoint": str(config.out), **record}, "\n".join(lines))


@click.command(short_help="average the weights of checkpoints into one")
@click.argument("checkpoints", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN...")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="folder of the checkpoint")
@click.option("--dev", help="labelled rows to score on; the checkpoints' own where all have the same")
@click.option("--greedy", is_flag=True, help="leave out each checkpoint that makes the mean no better on the dev rows")
@device_option
@click.option("--overwrite", is_flag=True, help="replace what stands at --out")
@verb(extra="train")
def soup(checkpoints: tuple[Path, ...], out: Path, **given: Any) -> Report:
    """Average the weights of checkpoints that began with one encoder, and write one that costs no more than each.

    Train with several seeds and the same --dev, then give their folders.
    """
    from burnish_train.soup import soup as run

    record = run(checkpoints, out, log=lambda line: click.echo(line, file=sys.stderr), **given)
    told = ", ".join(
        f"{name} {value:.4f}" for name, value in record["metrics"]["dev"].items() if isinstance(value, float)
    )
    lines = [f"checkpoint written to {out}", f" dev: {told}", f"next: burnish export {out} --out {out}-bundle"]
    return Report({"checkpoint": str(out), **record}, "\n".join(lines))


@click.command(short_help="make a checkpoint smaller and faster")
@click.argument("checkpoint", type=click.Path(path_type=Path), metavar="RUN")
@flags(CompressConfig, without=("checkpoint",))
@click.option("--overwrite", is_flag=True, help="replace what stands at --out")
@verb(extra="train")
def compress(checkpoint: Path, overwrite: bool, **given: Any) -> Report:
    """Train students of a checkpoint until a bundle of one is fast and good enough.

    Students of fewer layers and narrower feed-forwards learn from the checkpoint's scores, the largest first. Each is
    exported and measured beside its teacher. OUT holds the checkpoint, its bundle, and the frontier.
    """
    config = configure(CompressConfig, {}, checkpoint=checkpoint, **given)
    from burnish_train.compress.run import compress as run

    found = run(config, overwrite=overwrite, log=lambda line: click.echo(line, file=sys.stderr))
    (one,) = (tried for tried in found["tried"] if tried["name"] == found["taken"])
    told = f"{one['name']}: {one['speedup']:.2f} times as fast, {found['metric']} {one['score']:.4f} on dev rows"
    return Report(found, f"{told}\nbundle written to {config.out / 'bundle'}")
