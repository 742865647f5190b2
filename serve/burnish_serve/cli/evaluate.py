"""``burnish evaluate``: a bundle, or a checkpoint, scored on labelled rows."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path
from typing import Any

import click

from burnish_serve.bundle import MANIFEST, is_bundle
from burnish_serve.cli.options import (
    device_option,
    label_column_option,
    on_long_option,
    provider_option,
    signature_option,
    task_options,
    text_column_option,
    threads_option,
    variant_option,
)
from burnish_serve.cli.verb import Report, verb
from burnish_serve.errors import BundleError, InputError, MissingExtraError
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_serve.opening import load
from burnish_serve.runner import Runner
from burnish_serve.writing import RowWriter


@click.command("evaluate", short_help="score a bundle or a checkpoint on labelled rows")
@click.argument("bundle", metavar="BUNDLE|CHECKPOINT")
@click.option("--data", required=True, help="labelled rows: .jsonl .csv .tsv .parquet")
@click.option("--out", help="file for each row with its answer and whether it was right")
@task_options
@on_long_option
@text_column_option
@label_column_option
@variant_option
@signature_option
@device_option
@provider_option
@threads_option
@verb(extra="eval")
def command(
    bundle: str,
    data: str,
    out: str | None,
    options: dict[str, Any],
    on_long: str | None,
    text_column: str,
    label_column: str | None,
    variant: str | None,
    public_key: str | None,
    device: str,
    provider: str | None,
    threads: int | None,
) -> Report:
    """Score answers against labels, with 95 % intervals.

    On a checkpoint of `burnish train` the same verb runs PyTorch in float32 (extra: train).
    """
    model = open_model(
        bundle,
        device=device,
        provider=provider,
        variant=variant,
        threads=threads,
        public_key=public_key,
        on_long=on_long,
    )
    examples = read_labelled(data, model.task, model.reading.known, text_column=text_column, label_column=label_column)
    with RowWriter(out) if out else _Nowhere() as writer:
        result = evaluate(model, examples, **options)
        writer.write(result.rows)
    metrics, intervals = result.metrics, result.intervals
    report = {
        "task": model.task.name,
        "rows": len(examples),
        "variant": model.variant,
        "provider": model.provider,
        "metrics": metrics,
        "intervals": intervals,
    }
    lines = [f"{model.task.name}, {len(examples)} rows, {model.variant}"]
    for name, value in metrics.items():
        if isinstance(value, float):
            low, high = intervals[name]
            lines.append(f"  {name:<16} {value:.4f}   95 % interval {low:.4f} to {high:.4f}")
    return Report(report, "\n".join(lines))


def open_model(
    folder: str,
    *,
    device: str,
    variant: str | None,
    threads: int | None,
    provider: str | None = None,
    public_key: str | None = None,
    on_long: str | None = None,
) -> Runner:
    """Return what answers for a bundle, or of a checkpoint where the extra train is installed.

    Raises:
        InputError: the folder is neither, or what is asked for is for bundles alone.
        BundleError: the bundle is refused, or a signature is required of a checkpoint.
        MissingExtraError: it is a checkpoint, and PyTorch is missing.
    """
    path = Path(folder)
    if not path.is_dir():
        raise InputError(f"no such bundle or checkpoint: {folder}")
    if is_bundle(path) or (path / "onnx").is_dir():
        return load(
            path,
            device=device,
            provider=provider,
            variant=variant,
            threads=threads,
            public_key=public_key,
            on_long=on_long,
        )
    if not (path / "config.json").is_file():
        raise BundleError(f"{folder} is neither a bundle (no {MANIFEST}) nor a checkpoint (no config.json)")
    if public_key is not None:
        raise BundleError(f"{folder} is refused: it is a checkpoint, and only a bundle can be signed")
    for entry in importlib.metadata.entry_points(group="burnish.models", name="checkpoint"):
        try:
            opener: Any = entry.load()
        except ImportError as error:
            raise MissingExtraError(f"{folder} is a checkpoint, which", "train") from error
        if variant:
            raise InputError(f"{folder} is a checkpoint and has no variants")
        if provider:
            raise InputError(f"{folder} is a checkpoint, which PyTorch runs: choose with --device, not --provider")
        model: Runner = opener(path, device=device, threads=threads, on_long=on_long)
        return model
    raise MissingExtraError(f"{folder} is a checkpoint, which", "train")


class _Nowhere:
    """A writer for where no file was asked for."""

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave without a trace."""

    def write(self, rows: Any) -> None:
        """Drop the rows."""
