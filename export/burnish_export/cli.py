"""``burnish export``: the flags, and what is told at the end.

The module is light; PyTorch is imported when the work begins.
"""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import click

from burnish_export.config import ExportConfig
from burnish_serve.cli.verb import Report, verb
from burnish_serve.config import configure, flags


@click.command(short_help="turn a checkpoint into a fast, quantized, proven bundle")
@click.argument("checkpoint")
@flags(ExportConfig, without=("checkpoint",))
@click.option("--overwrite", is_flag=True, help="replace what stands at --out")
@verb(extra="export")
def export(checkpoint: str, overwrite: bool, **given: Any) -> Report:
    """Export CHECKPOINT, quantize it, prove it against PyTorch, and write a bundle.

    CHECKPOINT is a folder that `burnish train` wrote, or any Hugging Face model with a head (then --task is needed).
    """
    config = configure(ExportConfig, {}, checkpoint=checkpoint, **given)
    from burnish_export.build import export as run

    manifest = run(config, overwrite=overwrite, log=lambda line: click.echo(line, file=sys.stderr))
    sizes = {name: manifest.files[variant.file].size for name, variant in manifest.variants.items()}
    default = manifest.defaults["CPUExecutionProvider"][0]
    lines = [f"bundle written to {config.out} (default on a CPU: {default})"]
    for name, variant in manifest.variants.items():
        score = "no score" if variant.score is None else f"score {variant.score:.4f}"
        lines.append(
            f"  {name:<13}{sizes[name] / 1e6:7.1f} MB  {score}, {variant.label_changes} of {manifest.evaluation_rows} "
            f"labels other than PyTorch's"
        )
    lines.append(f'next: burnish predict {config.out} --text "a text"')
    data = {
        "bundle": str(config.out),
        "task": manifest.task,
        "default": default,
        "reference_score": manifest.reference_score,
        "variants": {
            name: {"size": sizes[name], **{k: v for k, v in dataclasses.asdict(variant).items() if "golden" not in k}}
            for name, variant in manifest.variants.items()
        },
    }
    return Report(data, "\n".join(lines))
