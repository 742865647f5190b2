"""``burnish predict``: rows of a file, standard input or the command line in, the same rows with their answers out."""

from __future__ import annotations

import hashlib
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from burnish_serve import cluster, machine
from burnish_serve.answering import Answered, Answering, bounds_of, lines_of, within
from burnish_serve.bundle import MANIFEST
from burnish_serve.cli.options import (
    device_option,
    on_long_option,
    provider_option,
    signature_option,
    task_options,
    text_column_option,
    threads_option,
    variant_option,
)
from burnish_serve.cli.verb import Report, explain, verb
from burnish_serve.errors import BurnishError, InputError
from burnish_serve.job import Job
from burnish_serve.opening import load
from burnish_serve.rows import count_rows
from burnish_serve.runner import WINDOW, windows


def _shard(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[int, int] | None:
    """Return (which part of a file, of how many), from 1."""
    if value is None:
        return None
    which, slash, count = value.partition("/")
    if not (slash and which.isdecimal() and count.isdecimal() and 1 <= int(which) <= int(count)):
        raise click.BadParameter(f"{value!r} is no part of a file; the second of eight is 2/8")
    return int(which), int(count)


@click.command("predict", short_help="answer the rows of a file, or texts")
@click.argument("bundle")
@click.argument("source", required=False, metavar="[INPUT|-]")
@click.option("--text", "texts", multiple=True, help="a text to answer; may be given several times")
@click.option("--out", help="file for the answers: .jsonl .csv .tsv .parquet; standard output where none is given")
@click.option("--resume", is_flag=True, help="go on where a run with this --out was stopped")
@click.option("--overwrite", is_flag=True, help="begin again where a run with this --out was stopped")
@click.option("--errors", help="file for rows that cannot be answered; without it the first of them ends the run")
@click.option(
    "--shard", metavar="I/N", callback=_shard, help="answer one of n parts of the file: 1/n to n/n, in the file's order"
)
@click.option(
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    help="who computes: we, or a Ray  [default: local]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="workers of --engine ray  [default: as many as there is room for]",
)
@task_options
@on_long_option
@text_column_option
@variant_option
@signature_option
@device_option
@provider_option
@threads_option
@verb()
def command(
    bundle: str,
    source: str | None,
    texts: tuple[str, ...],
    out: str | None,
    resume: bool,
    overwrite: bool,
    errors: str | None,
    shard: tuple[int, int] | None,
    engine: str,
    workers: int | None,
    options: dict[str, Any],
    on_long: str | None,
    text_column: str,
    variant: str | None,
    public_key: str | None,
    device: str,
    provider: str | None,
    threads: int | None,
) -> Report:
    """Answer rows with a bundle; each comes out as it went in, with a column "answer" added.

    INPUT is a file (.jsonl .csv .tsv .parquet .txt; all but Parquet also with .gz or .zst behind) or - for standard
    input, which may hold JSON lines or plain text. Order is kept, memory does not grow with the file, and --out appears
    only when it is whole; a run that was stopped goes on with --resume. With --json a summary is printed, and the
    answers go to --out.
    """
    as_json = click.get_current_context().params["as_json"]
    if bool(texts) == (source is not None):
        raise click.UsageError("give either a file of rows (or - for standard input) or --text, and not both")
    if as_json and not out:
        raise click.UsageError("--json prints a summary and needs --out for the answers")
    is_file = source not in {None, "-"}
    if (resume and not out) or ((resume or shard) and not is_file):
        raise click.UsageError("--resume and --shard need a file to read, and --resume needs --out")
    if engine != "local" and (resume or not is_file):
        raise click.UsageError(f"--engine {engine} needs a file to read, and begins at its start; --shard parts it")
    if workers and engine == "local":
        raise click.UsageError("--workers is for --engine ray; here --threads is what computes")
    started = time.perf_counter()
    loading: dict[str, Any] = {
        "device": device,
        "provider": provider,
        "variant": variant,
        "threads": threads,
        "public_key": public_key,
        "on_long": on_long,
    }
    model = load(bundle, **loading, for_files=is_file)
    loaded = time.perf_counter()
    name = source or "--text"
    column = "text" if source is None else text_column
    asking: dict[str, Any] = {"column": column, "options": options}
    told = None
    if is_file and out and engine == "local":
        told = {**_identity(bundle, Path(name)), "variant": model.variant, "on_long": on_long, "shard": shard, **asking}
    asking["keep_errors"] = bool(errors)
    job = Job(
        Path(out) if out else None, told, errors=Path(errors) if errors else None, resume=resume, overwrite=overwrite
    )
    before = job.rows
    if engine == "local":
        given = enumerate(({"text": text} for text in texts), 1)
        lines = given if source is None else lines_of(name, keep_errors=bool(errors))
        chosen = within(lines, bounds_of(name, shard)) if shard else lines
        ahead = windows(itertools.islice(chosen, before, None), WINDOW)
        answered: Iterator[Answered] = map(Answering(model, name, **asking), ahead)
    else:
        answered = cluster.answer(name, bundle, loading=loading, asking=asking, workers=workers, shard=shard)
    try:
        with job, _bar(source, shard) as bar:
            bar.update(before)
            for window in answered:
                job.write(window)
                bar.update(window.lines, job.rows - before)
            if not job.rows and not shard:  # said inside the block, which then leaves an older file as it was
                raise InputError(f"{name} has no rows")
    except (BurnishError, OSError, KeyboardInterrupt) as error:
        if not job.unfinished:
            raise
        said = f"{explain(error)[0]}; {job.rows} rows are done"
        if isinstance(error, InputError):
            said = f"{said}: --resume goes on, and with --errors FILE rows that cannot be answered are set aside"
            raise InputError(said) from error
        raise BurnishError(f"{said}: the same command with --resume goes on") from error
    seconds = time.perf_counter() - loaded
    done, cut, bad = job.rows - job.counts["errors"], job.counts["truncated"], job.counts["errors"]
    summary = {
        "rows": done,
        "seconds": round(seconds, 3),
        "rows_per_second": round((job.rows - before) / seconds, 1),
        "load_seconds": round(loaded - started, 3),
        "truncated": cut,
        "repeated": job.counts["repeated"],
        "errors": bad,
        "rows_before": before,
        "variant": model.variant,
        "provider": model.provider,
        "nodes": model.nodes,
        "threads": threads or machine.num_threads(),
        "out": out,
    }
    speed = f"{(job.rows - before) / seconds:,.0f} a second, {model.variant}"
    text = f"{done} rows in {seconds:.1f} s ({speed}), written to {out}"
    if before:
        text = f"{text}; {before} of them were done before"
    if cut:
        click.echo(f"burnish: warning: {cut} of {done} texts were cut at {model.encoder.max_length} tokens", err=True)
    if bad:
        click.echo(f"burnish: warning: {bad} rows could not be answered; {errors} says why", err=True)
    return Report(summary, text if out else "")


def _identity(bundle: str, source: Path) -> dict[str, Any]:
    """Return what tells whether bundle and input are still the same."""
    manifest = Path(bundle) / MANIFEST
    try:
        about = source.stat()
    except OSError:
        return {}  # said where it is read
    return {
        "bundle": hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else bundle,
        "input": str(source.resolve()),
        "bytes of the input": about.st_size,
        "time of the input": about.st_mtime_ns,
    }


def _bar(source: str | None, shard: tuple[int, int] | None) -> Any:
    """Return a bar over rows on standard error, with the time left; hidden where that is no terminal or no file."""
    length = count_rows(source) if source and source != "-" and sys.stderr.isatty() else None
    if length and shard:
        length //= shard[1]
    started = time.monotonic()
    return click.progressbar(
        length=length or 0,
        label="rows",
        file=sys.stderr,
        hidden=length is None,
        show_pos=True,
        item_show_func=lambda done: f"{done / (time.monotonic() - started):,.0f} a second" if done else None,
    )
